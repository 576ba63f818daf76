"""Task.link and unlink; parent and name."""

import gc
import threading
from weakref import ref

import pytest

from rimstone.errors import CannotWait
from rimstone.hub import current_task, get_hub, sleep, spawn
from rimstone.testing.patched import run_script


class Boom(Exception):
    pass


def fail():
    raise Boom


def test_called_with_the_task_after_its_end():
    seen = []
    task = spawn(lambda: 42)
    task.link(lambda ended: seen.append((ended, ended.value)))
    assert not seen
    task.join()
    sleep(0)
    assert seen == [(task, 42)]


def test_called_soon_if_it_has_ended():
    seen = []
    task = spawn(int)
    task.join()
    task.link(seen.append)
    assert not seen
    sleep(0)
    assert seen == [task]
    sleep(0)
    assert seen == [task]


def test_called_for_a_failure_which_is_still_printed(capsys):
    seen = []
    task = spawn(fail)
    task.link(lambda ended: seen.append(ended.exception))
    task.join()
    sleep(0)
    assert isinstance(seen[0], Boom)
    assert "nobody waits" in capsys.readouterr().err


def test_called_for_a_task_that_never_started():
    seen = []
    task = spawn(int)
    task.link(seen.append)
    task.kill()
    sleep(0)
    assert seen == [task]


def test_several_in_their_order_and_one_twice():
    seen = []
    task = spawn(int)
    task.link(lambda _: seen.append(1))
    two = lambda _: seen.append(2)  # noqa: E731 - one object
    task.link(two)
    task.link(two)
    task.join()
    sleep(0)
    assert seen == [1, 2, 2]


@pytest.mark.parametrize("error", [Boom("link"), BaseException("link")])
def test_what_it_raises_is_printed_and_the_others_are_called(capsys, error):
    def bad(_):
        raise error

    seen = []
    task = spawn(int)
    task.link(bad)
    task.link(seen.append)
    task.join()
    sleep(0)
    assert seen == [task]
    printed = capsys.readouterr().err
    assert "linked to" in printed
    assert "bad" in printed
    assert f"{type(error).__name__}: link" in printed


def test_ctrl_c_in_it_goes_to_the_main_program_and_it_is_called_once():
    calls = []

    def interrupted(task):
        calls.append(task)
        raise KeyboardInterrupt

    task = spawn(int)
    task.link(interrupted)
    with pytest.raises(KeyboardInterrupt):
        for _ in range(5):
            sleep(0)
    for _ in range(5):
        sleep(0)
    assert calls == [task]


def test_it_must_not_wait(capsys):
    task = spawn(int)
    task.link(lambda _: sleep(1))
    task.join()
    sleep(0)
    assert CannotWait.__name__ in capsys.readouterr().err


def test_it_may_spawn():
    made = []
    task = spawn(int)
    task.link(lambda _: made.append(spawn(lambda: "more")))
    task.join()
    sleep(0)
    assert made[0].get() == "more"


def test_unlink():
    seen = []
    task = spawn(int)
    task.link(seen.append)
    task.link(seen.append)
    task.unlink(seen.append)
    task.unlink(print)  # never linked: nothing
    task.join()
    sleep(0)
    assert seen == [task]


def test_unlink_between_the_end_and_the_call():
    seen = []
    task = spawn(int)
    task.join()
    task.link(seen.append)
    task.unlink(seen.append)
    sleep(0)
    assert not seen


def test_linked_from_another_thread_and_called_in_the_hubs():
    seen = []
    task = spawn(sleep, 60)
    sleep(0)

    def elsewhere():
        task.link(lambda _: seen.append(threading.get_ident()))
        task.kill()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    task.join()
    sleep(0)
    thread.join()
    assert seen == [threading.get_ident()]


def test_linked_to_a_task_of_a_thread_that_is_gone():
    made = []
    thread = threading.Thread(target=lambda: made.append(spawn(int)) or made[0].join())
    thread.start()
    thread.join()
    seen = []
    made[0].link(seen.append)
    assert seen == made


def test_nothing_is_kept_after_the_call():
    class Callback:
        def __call__(self, _):
            pass

    callback = Callback()
    gone = ref(callback)
    task = spawn(int)
    task.link(callback)
    task.join()
    sleep(0)
    del callback
    assert gone() is None


def test_parent():
    inner = []
    outer = spawn(lambda: inner.append(spawn(int)))
    assert outer.parent is current_task()
    assert current_task().parent is None
    outer.join()
    assert inner[0].parent is outer
    inner[0].join()


def test_parent_is_not_kept():
    """Each task spawns the next: those that have ended are freed, though their children live."""
    seen = []

    def chain(n):
        seen.append(ref(current_task()))
        if n:
            spawn(chain, n - 1)
        else:
            last.append(current_task())
            sleep(0.005)

    last = []
    spawn(chain, 10)
    while not last:
        sleep(0)
    sleep(0)
    gc.collect()
    assert last[0].parent is None
    assert [task() for task in seen[:-1]] == [None] * 10
    last[0].join()


def test_name_can_be_set():
    task = spawn(int)
    assert task.name.startswith("int-")
    task.name = "the one"
    assert "the one" in repr(task)
    task.join()
    assert task.name == "the one"


def test_called_for_a_task_that_ends_with_its_thread():
    """Its end is the last thing that happens in the hub; the callback is called all the same, and may spawn."""
    called = []

    def callback(task):
        called.append((task, threading.get_ident()))
        spawn(called.append, "a task that starts too late")

    def work():
        called.append(threading.get_ident())
        task = spawn(int)  # killed before it starts: nothing else happens in the hub
        task.link(callback)
        called.append(task)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    ident, task, *rest = called
    assert rest == [(task, ident)]


def test_called_in_this_thread_if_the_other_hub_has_just_closed():
    """Between the look and the call, that is: whoever queues a call last sees that it is made."""
    hubs, called = [], []

    def work():
        hubs.append(get_hub())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    hubs[0].run_soon(lambda: called.append(threading.get_ident()))
    assert called == [threading.get_ident()]


def test_not_called_in_a_forked_child_of_another_thread():
    done = run_script("""
import os, threading, warnings
from rimstone.hub import get_hub, sleep
warnings.simplefilter("ignore")  # it forks with threads
ready, leave = threading.Event(), threading.Event()
def other():
    hub = get_hub()
    hub.run_soon(lambda: print("called", flush=True))
    ready.set()
    leave.wait()  # in C as far as the hub can tell
    sleep(0)
thread = threading.Thread(target=other)
thread.start()
ready.wait()
get_hub()
pid = os.fork()
if not pid:
    os._exit(0)
os.waitpid(pid, 0)
print("forked", flush=True)
leave.set()
thread.join()
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["forked", "called"]
