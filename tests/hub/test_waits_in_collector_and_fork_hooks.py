"""A wait inside the garbage collector or inside a hook of os.fork raises CannotWait; what wakes others is allowed."""

import gc
import os
import queue
import socket
import sys
import threading
import weakref

import pytest

from rimstone.errors import CannotWait, HubError
from rimstone.hub import current_hub, guard, sleep, spawn, waiter
from rimstone.hub.scheduler import Hub
from rimstone.iomodel.base import READ
from rimstone.sync import Lock, RLock, SimpleQueue
from rimstone.testing.patched import in_patched_process, run_script


class Garbage:
    """In a cycle, so that only the collector frees it; then calls *function*."""

    def __init__(self, function):
        self.me = self
        self.function = function

    def __del__(self):
        self.function()


def collect(function):
    """What *function* raises, or returns, when the collector runs it."""
    outcome = []

    def run():
        try:
            outcome.append(function())
        except BaseException as error:
            outcome.append(error)

    Garbage(run)
    gc.collect()
    assert len(outcome) == 1
    return outcome[0]


@pytest.fixture(autouse=True)
def no_other_garbage():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def held(kind):
    lock = kind()
    spawn(lock.acquire).join()
    return lock


def waits(hub):
    reading, writing = os.pipe()
    lock, rlock = held(Lock), held(RLock)
    task = spawn(sleep, 100)
    sleep(0)
    yield "sleep", lambda: sleep(1)
    yield "sleep(0)", lambda: sleep(0)
    yield "Lock", lock.acquire
    yield "Lock, at most a second", lambda: lock.acquire(timeout=1)
    yield "RLock", rlock.acquire
    yield "SimpleQueue", SimpleQueue().get
    yield "park", waiter().park
    yield "join", task.join
    yield "kill", task.kill
    yield "descriptor", lambda: hub.io.wait(reading, READ)
    os.close(reading)
    os.close(writing)
    task.kill()


def test_waits_in_a_finalizer(hub):
    ran = []

    def main():
        for name, wait in waits(hub):
            sibling = spawn(ran.append, name)
            error = collect(wait)
            assert isinstance(error, CannotWait), (name, error)
            assert "garbage collector" in str(error)
            assert "SimpleQueue.put" in str(error)
            assert ran[-1:] != [name]
            sibling.join()

    spawn(main).get()
    assert len(ran) == 10


def test_waits_in_a_weakref_callback():
    seen = []

    def callback(_):
        try:
            sleep(0)
        except CannotWait as error:
            seen.append(error)

    garbage = Garbage(int)
    reference = weakref.ref(garbage, callback)
    del garbage
    gc.collect()
    assert len(seen) == 1
    assert reference() is None


def test_error_that_a_finalizer_does_not_catch_is_printed_and_the_task_goes_on(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(unraisable.exc_type))
    lock = held(Lock)

    def finalizer():
        with lock:
            seen.append("inside")

    Garbage(finalizer)
    gc.collect()
    assert seen == [CannotWait]
    sleep(0)
    lock.release()
    assert lock.acquire(blocking=False)


def test_finalizer_that_refers_to_counting_may_wait():
    """No collector is involved: it is called by the task, at a place of its choice."""
    order = []

    class Counted:
        def __del__(self):
            order.append("before")
            sleep(0)
            order.append("after")

    spawn(order.append, "sibling")
    counted = Counted()
    del counted
    assert order == ["before", "sibling", "after"]


def test_what_need_not_wait_is_allowed():
    free, things, full = Lock(), SimpleQueue(), SimpleQueue()
    full.put("item")
    assert collect(free.acquire) is True
    assert collect(free.release) is None
    assert collect(lambda: free.acquire(blocking=False)) is True
    assert collect(lambda: free.acquire(blocking=False)) is False
    assert collect(full.get) == "item"
    assert isinstance(collect(lambda: full.get(block=False)), queue.Empty)
    assert collect(lambda: things.put(1)) is None
    granted = waiter()
    granted.unpark()
    assert collect(granted.park) is True


@in_patched_process()
def test_wakes_reach_the_tasks_that_wait():
    import gc
    import threading

    from rimstone.hub import joinall, sleep, spawn, waiter
    from rimstone.sync import Lock, SimpleQueue

    class Garbage:
        def __init__(self, function):
            self.me = self
            self.function = function

        def __del__(self):
            self.function()

    event, lock, things, mine = threading.Event(), Lock(), SimpleQueue(), []
    lock.acquire()

    def park():
        mine.append(waiter())
        mine[0].park()

    waiting = [spawn(event.wait), spawn(lock.acquire), spawn(things.get), spawn(park)]
    sleep(0)
    for function in (event.set, lock.release, lambda: things.put(1), mine[0].unpark):
        Garbage(function)
    late = []
    Garbage(lambda: late.append(spawn(lambda: "spawned by a finalizer")))
    gc.collect()
    assert len(joinall(waiting, timeout=20)) == 4
    assert late[0].get() == "spawned by a finalizer"


def test_socket_call_that_succeeds_at_once_needs_no_turn(hub):
    """Also when the task has used up its budget."""
    near, far = socket.socketpair()
    with near, far:

        def finalizer():
            for _ in range(200):
                hub.io.send(near, b"x", 0, None)
            return hub.io.recv(far, 1000, 0, None)

        assert collect(finalizer) == b"x" * 200
        assert isinstance(collect(lambda: hub.io.recv(far, 1, 0, None)), CannotWait)
        sleep(0)  # outside, the next turn is taken as ever
        assert isinstance(collect(lambda: sleep(0)), CannotWait)


def test_kill_is_not_spent_on_a_finalizer():
    seen = []

    def main():
        seen.append(collect(lambda: sleep(0)))
        seen.append(collect(lambda: sleep(1)))
        sleep(0)
        seen.append("not killed")

    task = spawn(main)
    sleeper = spawn(lambda: task.kill(KeyError("mine"), block=False))
    task_first = spawn(int)
    task.throw_in(KeyError("mine"))  # pending: it is raised at the first park that is one
    with pytest.raises(KeyError, match="mine"):
        task.get()
    assert [type(thing) for thing in seen] == [CannotWait, CannotWait]
    sleeper.join()
    task_first.join()


def test_other_threads_may_wait_meanwhile():
    inside = threading.Event()
    leave = threading.Event()
    outcome = []

    def other():
        inside.wait(20)
        try:
            sleep(0.001)
            outcome.append(spawn(lambda: (sleep(0), "ran")[1]).get())
        except BaseException as error:
            outcome.append(error)
        leave.set()

    thread = threading.Thread(target=lambda: spawn(other).join())
    thread.start()

    def finalizer():
        inside.set()
        return leave.wait(20)  # blocks natively: this process is not patched

    assert collect(finalizer) is True
    thread.join()
    assert outcome == ["ran"]


def test_threads_without_a_hub_block_as_ever():
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(collect(lambda: (current_hub(), sleep(0.001)))))
    thread.start()
    thread.join()
    assert outcome == [(None, None)]


STRIKES = """
import gc, signal, time
from rimstone.hub import get_hub, guard

class Struck(Exception):
    pass

def strike(*_):
    raise Struck

get_hub()
gc.disable()
signal.signal(signal.SIGALRM, strike)
ballast = [[] for _ in range(100_000)]  # makes collections that are long and run no Python code
raised = 0
for _ in range(20):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        gc.collect()
        end = time.monotonic() + 2
        while time.monotonic() < end:
            pass
    except Struck:
        raised += 1
    assert guard.place() is None
assert raised == 20, raised
"""


@pytest.mark.slow
def test_exception_of_a_signal_handler_during_a_collection_is_not_lost():
    """It would be in a callback that is a Python function, such as other libraries have: hence a process of its own."""
    done = run_script(STRIKES, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_refused_in_the_scheduler_too(hub):
    """A collection while the hub polls, in nobody's name."""
    seen = []

    def on_idle():
        if not seen:
            seen.append(collect(lambda: sleep(0)))
        return False

    hub.on_idle = on_idle
    sleep(0.001)
    hub.on_idle = None
    assert isinstance(seen[0], CannotWait)
    assert "garbage collector" in str(seen[0])


def test_watched_once_however_many_hubs():
    assert sum(callback is guard._callbacks[0] for callback in gc.callbacks) == 1
    threads = [threading.Thread(target=lambda: Hub().release()) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(callback is guard._callbacks[0] for callback in gc.callbacks) == 1
    assert issubclass(CannotWait, HubError)


# -- fork --------------------------------------------------------------------------------------------------------------

FORK = """
import gc, os, sys, warnings
warnings.simplefilter("ignore")
from rimstone.errors import CannotWait
from rimstone.hub import current_hub, get_hub, guard, joinall, sleep, spawn
from rimstone.sync import Lock, SimpleQueue

def say(text):
    os.write(1, f"{'parent' if os.getpid() == PARENT else 'child'} {text}\\n".encode())

def attempt(where, wait):
    def hook():
        try:
            wait()
            say(f"{where}: waited")
        except CannotWait as error:
            assert "os.fork" in str(error) and "before the fork" in str(error)
            say(f"{where}: refused")
    return hook

def register(when):
    wait = lambda: sleep(0.001)
    os.register_at_fork(
        before=attempt(f"before, registered {when}", wait),
        after_in_parent=attempt(f"after, registered {when}", wait),
        after_in_child=attempt(f"after, registered {when}", wait),
    )

PARENT = os.getpid()
"""


def lines_of(script):
    done = run_script(FORK + script)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1], done.stderr


def test_hooks_registered_before_the_first_hub_are_refused_a_wait():
    out, err = lines_of("""
register("early")

def forking():
    pid = os.fork()
    if pid:
        assert os.waitpid(pid, 0)[1] == 0
    sleep(0.001)                       # over: everybody may wait again
    assert spawn(int).get() == 0
    say("goes on")

ran = []
sibling = spawn(ran.append, 1)
spawn(forking).join()
sibling.join()
""")
    assert err == ""
    assert "parent before, registered early: refused" in out
    assert "parent after, registered early: refused" in out
    assert "parent goes on" in out
    assert "child goes on" in out
    # By then the thread has no hub in the child: it sleeps as threads do, and no task is switched to.
    assert "child after, registered early: waited" in out


def test_hooks_registered_later_are_outside_unless_fork_is_guarded():
    script = """
get_hub()
register("late")
pid = os.fork()
if pid:
    assert os.waitpid(pid, 0)[1] == 0
"""
    out, _ = lines_of(script)
    assert sorted(out) == [
        "child after, registered late: waited",
        "parent after, registered late: waited",
        "parent before, registered late: waited",
    ]
    out, _ = lines_of("os.fork = guard.guarded(os.fork)" + script + "sleep(0.001)\nassert not guard.barred\n")
    assert sorted(out) == [
        "child after, registered late: waited",
        "parent after, registered late: refused",
        "parent before, registered late: refused",
    ]


def test_child_that_makes_a_hub_in_a_hook_may_not_wait_there_either():
    out, _ = lines_of("""
os.register_at_fork(after_in_child=attempt("spawned", lambda: spawn(int).join()))
get_hub()
pid = os.fork()
if pid == 0:
    assert spawn(lambda: 7).get() == 7
    say("waits again")
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
""")
    assert out == ["child spawned: refused", "child waits again"]


def test_hooks_may_wake_others():
    out, err = lines_of("""
things, lock = SimpleQueue(), Lock()
lock.acquire()
os.register_at_fork(before=lambda: things.put(1), after_in_parent=lock.release)
tasks = [spawn(things.get), spawn(lock.acquire)]
sleep(0)
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
assert len(joinall(tasks, timeout=20)) == 2
say("woken")
""")
    assert err == ""
    assert out == ["parent woken"]


def test_fork_in_a_finalizer():
    out, err = lines_of("""
class Garbage:
    def __init__(self):
        self.me = self

    def __del__(self):
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
        attempt_in_collector()

def attempt_in_collector():
    try:
        spawn(int)
        sleep(0)
        say("waited")
    except CannotWait as error:
        assert "garbage collector" in str(error), error
        say("refused")

def main():
    Garbage()
    gc.collect()
    say(f"afterwards: {spawn(lambda: (sleep(0.001), 7)[1]).get()}")

spawn(main).join()
""")
    assert err == ""
    assert sorted(out) == ["child afterwards: 7", "child refused", "parent afterwards: 7", "parent refused"]


def test_fork_while_another_thread_collects():
    out, err = lines_of("""
import threading
inside, leave = threading.Event(), threading.Event()

class Garbage:
    def __init__(self):
        self.me = self

    def __del__(self):
        inside.set()
        leave.wait(20)

get_hub()
def collect():
    Garbage()
    gc.collect()

thread = threading.Thread(target=collect)
thread.start()
inside.wait(20)
assert guard.barred
pid = os.fork()
if pid == 0:
    assert not guard.barred
    say(f"child: {spawn(lambda: (sleep(0.001), 7)[1]).get()}")
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
leave.set()
thread.join()
assert not guard.barred
""")
    assert err == ""
    assert out == ["child child: 7"]
