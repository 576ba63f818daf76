"""Operations on files: by the IO model if it completes them, else by a thread; a kill waits until they are done."""

import os
import threading
from _thread import start_new_thread
from types import SimpleNamespace

import pytest

from rimstone.hub import get_hub, sleep, spawn
from rimstone.hub import offload as module
from rimstone.hub.files import call_file, hub_that_waits, read_file, sync_file, write_file
from rimstone.hub.offload import MOST_FILE_THREADS, offload_shielded


class CompletingModel:
    """What a model with `completes_files` is asked."""

    completes_files = True

    def __init__(self):
        self.asked = []

    def read_file(self, fd, buffer, offset):
        self.asked.append(("read", fd, len(buffer), offset))
        return 1

    def write_file(self, fd, data, offset):
        self.asked.append(("write", fd, len(data), offset))
        return 2

    def sync_file(self, fd, data_only):
        self.asked.append(("sync", fd, data_only))


def test_model_that_completes_files_is_asked():
    model = CompletingModel()
    hub = SimpleNamespace(io=model)
    assert read_file(hub, 5, bytearray(3)) == 1
    assert read_file(hub, 5, bytearray(3), 7) == 1
    assert write_file(hub, 5, b"abcd") == 2
    assert write_file(hub, 5, b"abcd", 0) == 2
    sync_file(hub, 5)
    sync_file(hub, 5, data_only=True)
    assert model.asked == [
        ("read", 5, 3, -1),
        ("read", 5, 3, 7),
        ("write", 5, 4, -1),
        ("write", 5, 4, 0),
        ("sync", 5, False),
        ("sync", 5, True),
    ]


def test_other_models_leave_it_to_threads(tmp_path):
    def body():
        hub = hub_that_waits()
        assert not hub.io.completes_files
        buffer = bytearray(4)
        assert write_file(hub, fd, b"0123456789") == 10
        assert write_file(hub, fd, b"ab", 3) == 2
        assert (read_file(hub, fd, buffer, 2), buffer) == (4, b"2ab5")
        assert read_file(hub, fd, buffer) == 0
        sync_file(hub, fd)
        sync_file(hub, fd, data_only=True)
        with pytest.raises(OSError, match="Bad file descriptor"):
            read_file(hub, -1, buffer)
        return call_file(hub, threading.get_ident)

    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        sibling = spawn(sleep, 60)
        assert spawn(body).get() != threading.get_ident()
        sibling.kill()
    finally:
        os.close(fd)


def test_main_program_without_tasks_does_it_itself():
    assert call_file(get_hub(), threading.get_ident) == threading.get_ident()


def test_thread_without_tasks_has_no_hub_that_waits():
    found = []
    thread = threading.Thread(target=lambda: found.append(hub_that_waits()))
    thread.start()
    thread.join()
    assert found == [None]


def test_kill_is_raised_after_the_operation():
    gate = threading.Event()
    results = []

    def body():
        results.append(offload_shielded(gate.wait))
        sleep(60)

    task = spawn(body)
    sleep(0)
    for _ in range(2):
        task.kill(block=False)
        sleep(0)
        assert task.state == "parked"
    gate.set()
    task.join()
    assert results == [True]


def test_error_of_the_operation_comes_first():
    gate = threading.Event()
    caught = []

    def fail():
        gate.wait()
        raise ValueError("broken")

    def body():
        try:
            offload_shielded(fail)
        except ValueError as error:
            caught.append(str(error))
        sleep(60)

    task = spawn(body)
    sleep(0)
    task.kill(block=False)
    sleep(0)
    gate.set()
    task.join()
    assert caught == ["broken"]


def test_operations_one_after_the_other_share_a_thread():
    assert len({spawn(offload_shielded, threading.get_native_id).get() for _ in range(20)}) < 20


def test_no_more_threads_than_allowed():
    gate, started, running = threading.Event(), threading.Semaphore(0), []

    def work():
        running.append(threading.get_native_id())
        started.release()
        gate.wait()

    tasks = [spawn(offload_shielded, work) for _ in range(3 * MOST_FILE_THREADS)]
    sleep(0)
    for _ in range(MOST_FILE_THREADS):
        started.acquire()
    assert not started.acquire(timeout=0.01)
    assert len(running) == MOST_FILE_THREADS
    gate.set()
    for task in tasks:
        task.get()
    assert len(set(running)) == MOST_FILE_THREADS


def test_where_no_thread_can_be_started_it_runs_at_once(monkeypatch):
    def no_thread(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module, "_files", module._FileThreads(1))  # none of them idles
    monkeypatch.setattr(module, "start_new_thread", no_thread)
    assert spawn(offload_shielded, threading.get_ident).get() == threading.get_ident()
    monkeypatch.setattr(module, "start_new_thread", start_new_thread)
    assert spawn(offload_shielded, threading.get_ident).get() != threading.get_ident()
