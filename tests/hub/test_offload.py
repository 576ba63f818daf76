"""offload: a blocking function runs on a real thread while its task waits."""

import threading

import pytest

from rimstone.hub import joinall, sleep, spawn
from rimstone.hub import offload as module
from rimstone.hub.offload import MOST_THREADS, offload


def test_result_and_error():
    assert offload(int, "7") == 7
    with pytest.raises(ValueError, match="invalid literal"):
        offload(int, "x")


def test_task_waits_while_its_siblings_run():
    gate = threading.Event()
    task = spawn(offload, gate.wait)
    sleep(0.005)
    assert task.state == "parked"
    gate.set()
    assert task.get() is True


def test_more_jobs_than_threads():
    running, most = [0], [0]
    lock = threading.Lock()

    def work():
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        assert gate.wait(20)
        with lock:
            running[0] -= 1
        return 1

    gate = threading.Event()
    tasks = [spawn(offload, work) for _ in range(2 * MOST_THREADS)]
    sleep(0.05)
    gate.set()
    joinall(tasks, raise_error=True)
    assert sum(task.get() for task in tasks) == 2 * MOST_THREADS
    assert most[0] <= MOST_THREADS


def test_kill_ends_the_wait_not_the_function():
    gate = threading.Event()
    ended = threading.Event()

    def work():
        gate.wait(20)
        ended.set()

    task = spawn(offload, work)
    sleep(0.005)
    task.kill()
    assert not ended.is_set()
    gate.set()
    assert ended.wait(20)


def test_system_without_threads(monkeypatch):
    def no_thread(**_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module, "_lookups", module._Threads(MOST_THREADS))  # none of them idles
    monkeypatch.setattr(module, "Thread", no_thread)
    for _ in range(MOST_THREADS + 1):
        with pytest.raises(RuntimeError, match="can't start new thread"):
            offload(int)
    monkeypatch.undo()
    assert offload(int) == 0
