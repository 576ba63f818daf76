"""A daemon thread that runs tasks neither crashes nor holds up the end of the interpreter.

Each test is a child process. What it leaves in `__main__` gives other threads some time after the interpreter has begun
to take itself apart: that is when one that wants the interpreter lock back is unwound, by CPython before 3.14.
"""

import subprocess
import sys

import pytest

from rimstone._core import core

pytestmark = pytest.mark.slow

BEGIN = """
import atexit, sys, threading, time
from rimstone.hub import get_hub, sleep, spawn, waiter
from rimstone._originals import sleep as block

class Late:
    def __del__(self, block=block):
        block(0.2)

late = Late()
runs = threading.Event()

def compute():
    runs.set()
    while True:
        pass

def compute_deep(depth):
    if depth:
        max([1], key=lambda _: compute_deep(depth - 1))
    else:
        compute()

def park():
    waiter().park()

def begin(function):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    assert runs.wait(20)
    return thread
"""

END = """
sys.stdout.write("flushed by the interpreter")
sys.exit(3)
"""


def run(program: str, begin: str = BEGIN) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", begin + program + END], capture_output=True, text=True, check=False, timeout=60
    )


def check(program: str) -> None:
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (3, "flushed by the interpreter", "")


def test_task_that_computes():
    check("""
begin(lambda: spawn(compute).join())
""")


def test_task_that_computes_on_a_stack_whose_lower_part_has_changed():
    check("""
def start_at(depth):
    if depth:
        return max([1], key=lambda _: start_at(depth - 1) or 1)
    spawn(sleep, 0).join()

def work():
    start_at(10)
    max([1], key=lambda _: spawn(compute_deep, 5).join())

begin(work)
""")


def test_task_that_computes_while_others_are_parked():
    check("""
def work():
    for _ in range(20):
        spawn(park)
    sleep(0)
    spawn(compute).join()

begin(work)
""")


def test_main_program_of_a_thread_that_computes_while_tasks_are_parked():
    check("""
def work():
    spawn(park)
    sleep(0)
    compute()

begin(work)
""")


def test_tasks_that_switch_all_the_time():
    check("""
def turn():
    runs.set()
    while True:
        sleep(0)

begin(lambda: [spawn(turn) for _ in range(10)][0].join())
""")


def test_hub_that_waits_for_an_event_that_never_comes():
    check("""
hubs = []

def work():
    hubs.append(get_hub())
    spawn(park)
    spawn(runs.set)
    sleep(0)
    park()

begin(work)
while not hubs[0].polling:
    block(0.001)
""")


def test_hub_that_waits_for_timers_which_expire_meanwhile():
    check("""
def doze():
    runs.set()
    while True:
        sleep(0.005)

begin(lambda: [spawn(doze) for _ in range(50)][0].join())
""")


def test_task_that_blocks_in_c_again_and_again():
    check("""
def doze():
    runs.set()
    while True:
        block(0.005)

begin(lambda: spawn(doze).join())
""")


@pytest.mark.skipif(core() == "pure", reason="the pure core cannot reach a thread that blocks in C")
def test_task_that_blocks_in_c_and_comes_back_too_late():
    check("""
def doze():
    runs.set()
    while True:
        block(0.15)

begin(lambda: [spawn(doze) for _ in range(3)][0].join())
""")


def test_task_that_blocks_in_c_for_long_holds_nobody_up():
    check("""
def doze():
    runs.set()
    block(1000)

begin(lambda: spawn(doze).join())
""")


def test_many_threads():
    check("""
for _ in range(10):
    runs.clear()
    begin(lambda: spawn(compute).join())
""")


def test_finally_blocks_are_not_run_and_nothing_can_catch_it():
    check("""
def work():
    while True:
        try:
            compute()
        except BaseException as error:
            print("caught", repr(error), flush=True)
        finally:
            print("finally", flush=True)

begin(lambda: spawn(work).join())
""")


def test_functions_of_atexit_can_wait_for_such_a_thread():
    """Whether they were registered before the first hub was made, and so are called late, or after it."""
    program = """
ends, threads = threading.Event(), []

def end():
    ends.set()
    threads[0].join()
    print(" joined", end="")

atexit.register(end)

def work():
    runs.set()
    while not ends.is_set():
        sleep(0.001)

threads.append(begin(lambda: spawn(work).join()))
atexit.register(lambda: print(" late", end=""))
begin(lambda: spawn(compute).join())
"""
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (3, "flushed by the interpreter late joined", "")


def test_threads_go_on_if_somebody_empties_atexit():
    """As `multiprocessing` does in a process that it has forked. The next hub sees to all of them anew."""
    check("""
goes_on = threading.Event()

def turn():
    runs.set()
    while True:
        goes_on.set()
        sleep(0)

begin(lambda: [spawn(turn) for _ in range(2)][0].join())
for empty in (atexit._clear, atexit._run_exitfuncs):
    empty()
    goes_on.clear()
    assert goes_on.wait(20)
runs.clear()
begin(lambda: spawn(compute).join())
""")
