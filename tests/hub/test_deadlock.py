"""A deadlock raises in the main program where it is certain, and only there. Each in a process with no other thread."""

import subprocess
import sys

import pytest

from rimstone import iomodel

PRELUDE = """
import signal, threading
from rimstone import joinall, sleep, spawn
from rimstone.errors import Deadlock
from rimstone.hub import waiter
from rimstone.sync import Lock, SimpleQueue

def expect_deadlock(wait, *parts):
    try:
        wait()
    except Deadlock as error:
        assert all(part in str(error) for part in parts), error
    else:
        raise AssertionError("no Deadlock")
"""


def run(body):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + body], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "body",
    [
        "expect_deadlock(spawn(SimpleQueue().get, ).join, 'root', 'get-', 'SimpleQueue')",
        "lock = Lock(); lock.acquire(); expect_deadlock(spawn(lock.acquire).join, 'acquire-', 'Lock')",
        "spawn(int).join(); expect_deadlock(waiter().park, 'root')",
        # A timer that is no more does not count.
        "task = spawn(SimpleQueue().get); expect_deadlock(lambda: joinall([task, spawn(sleep, 0.01)]), 'get-')",
    ],
)
def test_who_waits_for_what(body):
    run(body)


def test_two_threads_that_wait_for_each_other():
    run("""
one, other, ended = SimpleQueue(), SimpleQueue(), []
def work():
    spawn(int).join()
    one.put(None)
    try:
        other.get()
    except Deadlock:
        ended.append("thread")
thread = threading.Thread(target=work)
thread.start()
spawn(int).join()
one.get()
try:
    one.get()
except Deadlock as error:
    ended.append("main")
    other.put(None)  # or the thread would wait on
assert ended, ended
other.put(None)
thread.join()
""")


@pytest.mark.skipif(iomodel.available()["uring"] is not None, reason="io_uring is not to be had here")
def test_threads_of_the_kernel_for_files_wake_nobody():
    run("""
import os, tempfile
import rimstone.hub
from rimstone.hub import get_hub
from rimstone.iomodel import choose
hub = get_hub(choose("uring"))
with tempfile.TemporaryFile() as file:
    spawn(sleep, 0.1)
    assert spawn(hub.io.write_file, file.fileno(), bytes(2_000_000), 0).get() == 2_000_000
threads = os.listdir("/proc/self/task")
expect_deadlock(spawn(SimpleQueue().get).join, "get-")
assert len(threads) > 1, "nothing has been tested"
""")


def test_program_goes_on_after_one():
    run("""
queue = SimpleQueue()
task = spawn(queue.get)
expect_deadlock(task.join)
queue.put(5)
assert task.get() == 5
""")


@pytest.mark.parametrize(
    "waker",
    [
        # A thread that runs no tasks.
        "threading.Timer(0.2, queue.put, [1]).start()",
        # A signal handler.
        "signal.signal(signal.SIGALRM, lambda *_: queue.put(1)); signal.setitimer(signal.ITIMER_REAL, 0.2)",
        # A task with a timer, of another thread.
        "threading.Thread(target=lambda: (spawn(sleep, 0.2).join(), queue.put(1))).start()",
    ],
)
def test_what_can_still_be_woken_waits(waker):
    run(f"""
queue = SimpleQueue()
task = spawn(queue.get)
{waker}
assert task.get() == 1
""")


def test_thread_that_wakes_a_task_and_ends():
    """It is gone when the threads are counted, and what it left must be seen."""
    run("""
from rimstone.hub.offload import offload
for _ in range(500):
    assert offload(int, "7") == 7
for _ in range(200):
    queue = SimpleQueue()
    thread = threading.Thread(target=queue.put, args=[1])
    thread.start()
    assert spawn(queue.get).get() == 1
    thread.join()
""")


def test_many_tasks_at_the_same_place():
    run("""
queue = SimpleQueue()
tasks = [spawn(queue.get) for _ in range(300)]
try:
    joinall(tasks)
except Deadlock as error:
    lines = str(error).splitlines()
else:
    raise AssertionError("no Deadlock")
assert len(lines) == 1 + 1 + 10 + 1, lines
assert lines[-1].startswith("  ... and 290 more at ") and ".py:" in lines[-1], lines
for task in tasks:
    queue.put(None)
joinall(tasks)
""")
