"""Locks in a forked child: what the forking task held is still its own; who waited in the parent is passed over."""

from rimstone.testing.patched import run_script

HEAD = """
import os, sys, threading, warnings
warnings.simplefilter("ignore")
from rimstone.hub import joinall, local, sleep, spawn
from rimstone.hub.offload import offload
from rimstone.sync import Lock, RLock

def wait_for(pid):
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, code

def run(function):
    joinall([spawn(function)], raise_error=True)
"""


def check(script):
    done = run_script(HEAD + script)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_forking_task_owns_its_rlock_and_locals_in_the_child():
    check("""
values = local()
values.name = "root"

def work():
    lock = RLock()
    values.name = "task"
    with lock:
        pid = os.fork()
        if pid == 0:
            assert lock._is_owned()
            assert values.name == "task"
            spawn(sleep, 0).join()
            assert values.name == "task"
    assert not lock.locked()
    if pid == 0:
        again = os.fork()
        assert values.name == "task"
        if again == 0:
            os._exit(0)
        wait_for(again)
        return
    wait_for(pid)
    assert values.name == "task"

run(work)
assert values.name == "root"
""")


def test_task_without_locals_has_none_in_the_child():
    check("""
values = local()
values.name = "root"

def work():
    pid = os.fork()
    if pid == 0:
        os._exit(hasattr(values, "name"))
    wait_for(pid)

run(work)
""")


def test_waiters_of_the_parent_are_passed_over_in_the_child():
    check("""
lock = Lock()

def beaten():
    with lock:
        pass

def work():
    lock.acquire()
    sibling = spawn(beaten)
    sleep(0)
    lock.release()
    assert lock.acquire(False)
    sleep(0)
    pid = os.fork()
    lock.release()
    if pid == 0:
        assert lock.acquire(False)
        try:
            sibling.get(timeout=20)
        except Exception as error:
            assert "ended" in str(error), error
        else:
            raise AssertionError
        return
    sibling.get()
    wait_for(pid)

run(work)
""")


def test_offload_starts_anew_in_the_child():
    check("""
from rimstone.hub import offload as module
module = sys.modules["rimstone.hub.offload"]
gate = threading.Lock()
gate.acquire()
jobs = [spawn(offload, gate.acquire, True, 20) for _ in range(module.MOST_THREADS)]
sleep(0)

def work():
    pid = os.fork()
    if pid == 0:
        os._exit(offload(int, "7") - 7)
    wait_for(pid)

run(work)
for _ in jobs:
    gate.release()
    sleep(0.001)
    gate.acquire(False)
gate.acquire(False)
while not all(job.ready() for job in jobs):
    if gate.locked():
        gate.release()
    sleep(0.001)
""")
