"""Signal handlers: what they may do, what they may not, and whom their exceptions hit."""

import _thread
import os
import signal
import threading
from contextlib import contextmanager

import pytest

from rimstone import clock
from rimstone._core import core
from rimstone.errors import CannotWait
from rimstone.hub import sleep, spawn, waiter
from rimstone.iomodel.base import TIMEOUT
from rimstone.sync import Lock, SimpleQueue
from rimstone.testing.patched import run_script


@contextmanager
def on_signal(handler, number=signal.SIGALRM):
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(number, before)


def signal_while_polling(hub, number=signal.SIGALRM):
    """Send this thread a signal once its hub has nothing to do any more."""

    def on_idle():
        hub.on_idle = None
        signal.setitimer(signal.ITIMER_REAL, 0.005) if number == signal.SIGALRM else os.kill(os.getpid(), number)
        return False

    hub.on_idle = on_idle


def test_keyboard_interrupt_while_polling_goes_to_the_root(hub):
    sleeper = spawn(sleep, 100)
    sleep(0)
    with on_signal(signal.default_int_handler), pytest.raises(KeyboardInterrupt):
        signal_while_polling(hub)
        sleep(100)
    assert sleeper.state == "parked"
    sleeper.kill()


def test_keyboard_interrupt_while_a_task_computes_ends_that_task_and_reaches_the_root():
    def compute():
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        while True:
            pass

    with on_signal(signal.default_int_handler):
        task = spawn(compute)
        with pytest.raises(KeyboardInterrupt):
            task.join()
    assert isinstance(task.exception, KeyboardInterrupt)


def test_handler_may_unpark(hub):
    mine = waiter()
    with on_signal(lambda *_: mine.unpark()):
        signal_while_polling(hub)
        assert mine.park(clock.monotonic() + 20)


def test_handler_may_put_into_a_queue(hub):
    things = SimpleQueue()
    with on_signal(lambda *_: things.put("rung")):
        signal_while_polling(hub)
        assert things.get(timeout=20) == "rung"


def test_handler_that_wants_to_wait_in_the_scheduler(hub):
    lock = Lock()
    lock.acquire()
    for wait in (lambda: sleep(1), lambda: sleep(0), lock.acquire, SimpleQueue().get):
        with on_signal(lambda *_, wait=wait: wait()):
            signal_while_polling(hub)
            with pytest.raises(CannotWait, match="signal handler"):
                sleep(100)
    assert spawn(lambda: 1).get() == 1


def test_handler_that_waits_while_a_task_runs_is_part_of_that_task():
    order = []

    def work():
        os.kill(os.getpid(), signal.SIGALRM)
        order.append("task")

    with on_signal(lambda *_: (sleep(0.001), order.append("handler"))):
        spawn(work).get()
    assert order == ["handler", "task"]


STORM = """
import contextlib, io, queue, signal, sys
from rimstone.hub import get_hub, joinall, live_tasks, sleep, spawn
from rimstone.sync import SimpleQueue

class Struck(Exception):
    pass

hub = get_hub()
sys.stderr = io.StringIO()  # tasks that are struck as they begin or end are reported
strikes = [300]

def strike(*_):
    if hub.current is hub.root and not hub.root.parked:
        return  # the main program is spared
    if strikes[0]:
        strikes[0] -= 1
        raise Struck

workers = 10
queues = [SimpleQueue() for _ in range(workers)]

def work(number):
    left = 200
    while left or strikes[0]:
        try:
            with contextlib.suppress(queue.Empty):  # an item was in somebody's hands when it was struck
                queues[number].get(timeout=0.01)
            queues[(number + 1) % workers].put(left)
            sleep(0)
            left = max(0, left - 1)
        except Struck:
            pass

signal.signal(signal.SIGALRM, strike)
tasks = [spawn(work, number) for number in range(workers)]
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0003)
for things in queues:
    things.put(0)
while live_tasks():
    with contextlib.suppress(Struck):
        joinall(tasks)
signal.setitimer(signal.ITIMER_REAL, 0)
sys.stderr = sys.__stderr__
# Where nothing could catch it, it was that task's end; everybody else came to theirs.
assert all(task.ready() for task in tasks)
assert all(task.exception is None or isinstance(task.exception, Struck) for task in tasks), tasks
"""


@pytest.mark.slow
def test_exceptions_of_handlers_at_any_moment_lose_no_task():
    """Tasks pass items around while signals raise everywhere, in the scheduler too; what is struck starts again."""
    done = run_script(STORM)
    assert done.returncode == 0, done.stderr


def test_failed_run_soon_goes_to_the_root(hub):
    thread = threading.Thread(target=lambda: hub.run_soon(int, "x"))
    thread.start()
    with pytest.raises(ValueError, match="invalid literal"):
        sleep(20)
    thread.join()


def trip_and_raise(number, error):
    """Let a signal be pending, and raise *error*, without a bytecode in between: the way two strike at once."""
    return lambda *_: list(map(_thread.interrupt_main, (number, error)))


@pytest.mark.skipif(
    core() == "compiled", reason="signals strike between bytecodes, and the compiled core has none there"
)
def test_reschedule_that_is_struck_again_and_again_queues_its_task_once(hub):
    """The last strikes where none is caught for the root any more; the task goes on, so it must not be queued too."""
    with (
        on_signal(trip_and_raise(signal.SIGUSR2, "first"), signal.SIGUSR1),
        on_signal(trip_and_raise(signal.SIGALRM, "second"), signal.SIGUSR2),
        on_signal(trip_and_raise(signal.SIGURG, "third")),  # which has no handler
    ):
        hub.run_soon(signal.raise_signal, signal.SIGUSR1)
        errors = 0
        for _ in range(5):
            try:
                sleep(0)
            except TypeError:
                errors += 1
        assert errors
    assert "0 ready" in repr(hub)
    assert hub.park(clock.monotonic() + 0.01) == TIMEOUT


@pytest.mark.parametrize("deadline", [None, 600])
def test_signal_that_does_not_interrupt_a_wait_without_a_hub_is_handled_within_a_second(deadline):
    """One that comes just before the wait, or to another thread, of which only the main thread calls the handler."""
    done = run_script(f"""
import signal, threading
from rimstone import clock
from rimstone.hub import waiter

mine = waiter()
signal.signal(signal.SIGUSR1, lambda *_: mine.unpark())
thread = threading.Thread(target=lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1))
threading.Timer(0.1, thread.start).start()
deadline = {deadline}
assert mine.park(None if deadline is None else clock.monotonic() + deadline)
thread.join()
""")
    assert done.returncode == 0, done.stderr
