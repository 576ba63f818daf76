"""When the main program ends, its parked tasks are killed and have a second for their `finally` blocks."""

import time

import pytest

from rimstone.testing.patched import run_script

PRELUDE = """
import os, sys, threading
from rimstone.hub import get_hub, sleep, spawn, waiter

def clean_up(seconds=60):
    try:
        sleep(seconds)
    finally:
        sleep(0.001)  # it may wait there
        print("cleaned up", flush=True)
"""


def run(body, timeout=30.0):
    return run_script(PRELUDE + body, timeout=timeout)


@pytest.mark.parametrize(
    ("end", "code"), [("", 0), ("sys.exit(3)", 3), ("raise ValueError", 1), ("raise KeyboardInterrupt", -2)]
)
def test_finally_blocks_run_however_it_ends(end, code):
    done = run(f"spawn(clean_up); sleep(0)\n{end}")
    assert done.stdout == "cleaned up\n"
    assert done.returncode == code
    assert ("Error" in done.stderr) == (code == 1)


def test_task_that_has_not_started_never_does():
    done = run("spawn(print, 'started')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_task_that_refuses_to_end_does_not_hold_up_the_exit():
    start = time.monotonic()
    done = run("""
def refuses():
    while True:
        try:
            sleep(60)
        except BaseException:
            pass
spawn(refuses); sleep(0)
""")
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - start < 20


def test_thread_that_waits_for_a_task_of_the_main_program_goes_on():
    """Before threads are joined, that is: or the exit would wait for one that waits for ever."""
    done = run("""
task = spawn(clean_up)
sleep(0)
threading.Thread(target=lambda: (task.join(), print("joined", flush=True))).start()
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "cleaned up\njoined\n", "")


def test_error_that_nobody_has_seen_is_printed_and_threads_are_joined():
    done = run("""
leave = threading.Event()
def other():
    leave.wait()
    print("thread", flush=True)
threading.Thread(target=other).start()
def fails():
    try:
        sleep(60)
    finally:
        leave.set()
        raise SystemExit(5)
spawn(fails); sleep(0)
""")
    assert (done.returncode, done.stdout) == (0, "thread\n")
    assert "SystemExit: 5" in done.stderr


def test_forked_child_runs_its_own_tasks_only():
    done = run("""
task = spawn(clean_up); sleep(0)
pid = os.fork()
if not pid:
    spawn(lambda: (sleep(0), print("child", flush=True))).join()
    sys.exit()
os.waitpid(pid, 0)
print("parent", flush=True)
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "child\nparent\ncleaned up\n", "")


def test_hub_made_while_the_program_ends():
    done = run("""
import atexit
atexit.register(lambda: spawn(print, "at exit", flush=True).join())
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "at exit\n", "")
