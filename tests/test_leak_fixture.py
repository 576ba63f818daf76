"""The fixture that forbids leaks (conftest.py): each kind of leak fails its test and is named; a clean test passes."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

LOAD_THE_FIXTURE = f"""
import importlib.util

spec = importlib.util.spec_from_file_location("the_conftest", {str(Path(__file__).with_name("conftest.py"))!r})
the_conftest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(the_conftest)
the_conftest.GRACE_SECONDS = 0.2
leaves_nothing_behind = the_conftest.leaves_nothing_behind
"""

LEAKY_TESTS = """
import _thread
import os
import socket
import subprocess
import sys
import threading
import time

never = threading.Event()
until_pytest_ends, _ = os.pipe()
kept = []

def start(code, **options):
    kept.append(subprocess.Popen([sys.executable, "-c", code], stdin=until_pytest_ends, **options))
    return kept[-1]

def test_clean():
    threading.Thread(target=time.sleep, args=(0.05,)).start()  # ends within the grace
    with socket.socket():
        subprocess.run([sys.executable, "-c", ""], check=True)

def test_garbage_is_no_leak():
    class Cycle:
        def __init__(self):
            self.me = self
            self.file = os.open("/dev/null", os.O_RDONLY)
        def __del__(self):
            os.close(self.file)
    Cycle()

def test_thread():
    threading.Thread(target=never.wait, name="forgotten-thread", daemon=True).start()

def test_raw_thread():
    _thread.start_new_thread(never.wait, ())

def test_process():
    start("import sys; sys.stdin.read()  # forgotten-process")

def test_grandchild():
    grandchild = "import sys; print(flush=True); sys.stdin.read()  # forgotten-grandchild"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    child = start(code, stdout=subprocess.PIPE)
    child.stdout.readline()
    child.stdout.close()

def test_zombie():
    os.waitid(os.P_PID, start("").pid, os.WEXITED | os.WNOWAIT)

def test_descriptor():
    os.open("/dev/zero", os.O_RDONLY)

def test_socket():
    kept.append(socket.socket())

def test_the_next_test_is_not_blamed():
    pass
"""

TASK_TESTS = """
import rimstone.hub as hub

def forgotten_task():
    hub.sleep(1000)

def test_hub_of_the_main_thread_is_no_leak():
    task = hub.spawn(hub.sleep, 0)
    task.join()

def test_task():
    hub.spawn(forgotten_task)
    hub.sleep(0)

def test_the_next_test_is_not_blamed():
    assert hub.live_tasks() == []
"""


def run(pytester: pytest.Pytester, tests: str) -> pytest.RunResult:
    pytester.makeconftest(LOAD_THE_FIXTURE)
    pytester.makepyfile(tests)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider")


@pytest.mark.slow
def test_each_kind_of_leak_is_found_and_named(pytester: pytest.Pytester) -> None:
    result = run(pytester, LEAKY_TESTS)
    result.assert_outcomes(passed=10, errors=7)
    result.stdout.re_match_lines(
        [
            r".*ERROR at teardown of test_thread .*",
            r"  thread \d+: forgotten-thread",
            r".*ERROR at teardown of test_raw_thread .*",
            r"  thread \d+: not a threading.Thread",
            r".*ERROR at teardown of test_process .*",
            r"  process \d+: .*forgotten-process",
            r".*ERROR at teardown of test_grandchild .*",
            r"  process \d+: .*forgotten-grandchild",
            r".*ERROR at teardown of test_zombie .*",
            r"  process \d+: \[.*\], ended but not waited for",
            r".*ERROR at teardown of test_descriptor .*",
            r"  descriptor \d+: /dev/zero",
            r".*ERROR at teardown of test_socket .*",
            r"  descriptor \d+: socket:\[\d+\]",
        ]
    )


@pytest.mark.slow
def test_a_task_left_behind_is_found_and_named(pytester: pytest.Pytester) -> None:
    result = run(pytester, TASK_TESTS)
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.re_match_lines([r".*ERROR at teardown of test_task .*", r"  task: .*forgotten_task.*"])
