"""Operations on files: by the IO model if it completes them, else by a thread; a kill waits until they are done."""

import mmap
import os
import sys
import threading
from _thread import start_new_thread
from types import SimpleNamespace

import pytest

from rimstone.hub import files, get_hub, sleep, spawn
from rimstone.hub import offload as module
from rimstone.hub.files import call_file, hub_that_waits, read_bytes, read_file, sync_file, write_file
from rimstone.hub.offload import MOST_FILE_THREADS, offload_shielded


class CompletingModel:
    """What a model with `completes_files` is asked; it reads and writes as it should, but never more than `most`."""

    completes_files = True

    def __init__(self):
        self.asked = []
        self.most = 100

    def read_file(self, fd, buffer, offset):
        self.asked.append(("read", len(buffer), offset))
        return os.preadv(fd, [buffer[: self.most]], offset)

    def read_bytes(self, fd, size, offset):
        self.asked.append(("read", size, offset))
        return os.pread(fd, min(self.most, size), offset)

    def write_file(self, fd, data, offset):
        self.asked.append(("write", len(data), offset))
        return os.write(fd, data[: self.most]) if offset < 0 else os.pwrite(fd, data[: self.most], offset)

    def sync_file(self, fd, data_only):
        self.asked.append(("sync", data_only))


@pytest.fixture
def careful(monkeypatch):
    """A small write has taken long a moment ago."""
    monkeypatch.setattr(files._writes, "careful_until", float("inf"))


@pytest.fixture
def completing(careful):
    """A hub whose model completes files, and in which others could run."""
    return SimpleNamespace(io=CompletingModel(), tasks={1}, on_idle=None)


@pytest.fixture
def file(tmp_path):
    """A descriptor of a file with ten digits, its position at 2."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"0123456789")
    os.lseek(fd, 2, os.SEEK_SET)
    yield fd
    os.close(fd)


def position(fd):
    return os.lseek(fd, 0, os.SEEK_CUR)


def test_model_that_completes_files_is_asked_and_the_position_kept(completing, file):
    buffer = memoryview(bytearray(3))
    assert (read_file(completing, file, buffer), bytes(buffer), position(file)) == (3, b"234", 5)
    assert (read_file(completing, file, buffer, 7), bytes(buffer), position(file)) == (3, b"789", 5)
    assert (read_file(completing, file, buffer, 9), position(file)) == (1, 5)
    assert (write_file(completing, file, memoryview(b"ab")), position(file)) == (2, 7)
    assert (write_file(completing, file, memoryview(b"cd"), 0), position(file)) == (2, 7)
    assert (read_bytes(completing, file, 2, -1, None), position(file)) == (b"78", 9)
    assert read_bytes(completing, file, 2**40, 3, None) == b"34ab789"
    assert read_bytes(completing, file, 10, 99, None) == b""
    sync_file(completing, file)
    sync_file(completing, file, data_only=True)
    assert completing.io.asked == [
        ("read", 3, 2),
        ("read", 3, 7),
        ("read", 3, 9),
        ("write", 2, 5),
        ("write", 2, 0),
        ("read", 2, 7),
        ("read", 7, 3),
        ("read", 0, 99),
        ("sync", False),
        ("sync", True),
    ]


def test_position_goes_back_by_what_was_not_read_or_written(completing, file):
    completing.io.most = 2
    assert (read_file(completing, file, memoryview(bytearray(5))), position(file)) == (2, 4)
    assert (read_bytes(completing, file, 5, -1, None), position(file)) == (b"45", 6)
    assert (write_file(completing, file, memoryview(b"abcde")), position(file)) == (2, 8)
    assert (read_file(completing, file, memoryview(bytearray(5))), position(file)) == (2, 10)
    assert (read_file(completing, file, memoryview(bytearray(5))), position(file)) == (0, 10)
    completing.io.write_file = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        write_file(completing, file, memoryview(b"abc"))
    assert position(file) == 10


def test_position_of_the_numbers_next_owner_is_left_alone(completing, file, tmp_path):
    def read(fd, *_):
        os.close(fd)
        assert os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT) == fd
        return 1

    completing.io.read_file = read
    assert read_file(completing, file, memoryview(bytearray(5))) == 1
    assert position(file) == 0


def test_appending_leaves_the_place_to_the_kernel(completing, tmp_path):
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    write_file(completing, fd, memoryview(b"abc"))
    assert completing.io.asked == [("write", 3, -1)]
    os.close(fd)


def test_pwrite_to_a_file_in_append_mode_is_a_threads(tmp_path):
    """Linux appends it, in one piece, and leaves the position alone."""

    def body():
        hub = hub_that_waits()
        seen = SimpleNamespace(io=CompletingModel(), tasks=hub.tasks, on_idle=None)
        fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.write(fd, b"abc")
        data = bytes(files.AT_ONCE_BYTES + 1)
        assert write_file(seen, fd, memoryview(data), 0) == len(data)
        assert os.fstat(fd).st_size == (3 if sys.platform == "linux" else 0) + len(data)
        assert position(fd) == 3
        assert not seen.io.asked
        os.close(fd)

    sibling = spawn(sleep, 60)
    spawn(body).get()
    sibling.kill()


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="there is no O_DIRECT")
def test_direct_read_beyond_the_end_is_a_threads(tmp_path):
    """It takes whole blocks only, and so what is left cannot be asked for."""

    def body():
        hub = hub_that_waits()
        seen = SimpleNamespace(io=CompletingModel(), tasks=hub.tasks, on_idle=None)
        (tmp_path / "file").write_bytes(b"0123456789")
        try:
            fd = os.open(tmp_path / "file", os.O_RDONLY | os.O_DIRECT)
        except OSError:
            pytest.skip("this file system has no O_DIRECT")
        with mmap.mmap(-1, 8192) as block:
            with memoryview(block) as view:
                assert read_file(seen, fd, view) == 10
            assert block[:10] == b"0123456789"
        assert not seen.io.asked
        os.close(fd)

    sibling = spawn(sleep, 60)
    spawn(body).get()
    sibling.kill()


def test_what_does_not_know_its_size_takes_a_thread():
    def body():
        hub = hub_that_waits()
        seen = SimpleNamespace(io=CompletingModel(), tasks=hub.tasks, on_idle=None)
        fd = os.open("/proc/self/stat", os.O_RDONLY)
        assert read_file(seen, fd, memoryview(bytearray(5))) == 5
        assert read_bytes(seen, fd, 3, -1, os.read, fd, 3)
        os.close(fd)
        assert not seen.io.asked

    sibling = spawn(sleep, 60)
    spawn(body).get()
    sibling.kill()


def test_small_write_is_made_at_once_unless_the_last_ones_took_long(file, monkeypatch):
    if get_hub().io.completes_files:
        pytest.skip("this model needs no threads")

    def body():
        hub = hub_that_waits()
        writers.clear()
        for data in (b"ab", bytes(files.AT_ONCE_BYTES + 1)):
            assert write_file(hub, file, memoryview(data)) == len(data)
            assert write_file(hub, file, memoryview(data), 0) == len(data)
        return [writer == threading.get_ident() for writer in writers]

    def recorded(native):
        def write(*args):
            writers.append(threading.get_ident())
            return native(*args)

        return write

    def timed_write(*args):
        writers.append(threading.get_ident())
        count, _ = native_timed_write(*args)
        return count, 0.01 if slow else 0.0

    writers, slow, now = [], [], [1000.0]
    monkeypatch.setattr(files, "os_write", recorded(files.os_write))
    monkeypatch.setattr(files, "os_pwrite", recorded(files.os_pwrite))
    native_timed_write = files.timed_write
    monkeypatch.setattr(files, "timed_write", timed_write)
    monkeypatch.setattr(files, "_writes", files._Writes())
    monkeypatch.setattr(files.clock, "monotonic", lambda: now[0])
    sibling = spawn(sleep, 60)
    assert spawn(body).get() == [True, True, False, False]
    slow.append(1)
    assert spawn(body).get() == [True, False, False, False]
    slow.clear()
    assert spawn(body).get() == [False, False, False, False]
    now[0] += 1.1
    assert spawn(body).get() == [True, True, False, False]
    sibling.kill()


def test_time_of_a_write_is_not_that_of_a_thread_that_computes(file):
    """It has to wait for the interpreter lock afterwards, up to 5 ms, as often as not."""
    stop = threading.Event()

    def compute():
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        times = sorted(files.timed_write(file, b"line\n", offset)[1] for offset in (-1, 0) for _ in range(50))
    finally:
        stop.set()
        thread.join()
    assert times[50] < files._SLOW_SECONDS


def test_timed_write_is_write(file):
    assert files.timed_write(file, b"0123456789", -1)[0] == 10
    assert files.timed_write(file, memoryview(b"ab"), 3)[0] == 2
    assert os.pread(file, 20, 0) == b"010ab3456789"
    for fd, data, error in ((-1, b"a", OSError), (file, "a", TypeError)):
        with pytest.raises(error) as raised:
            files.timed_write(fd, data, -1)
        with pytest.raises(error) as expected:
            os.write(fd, data)
        assert raised.value.args == expected.value.args


def test_small_writes_let_siblings_have_their_turn(file):
    written = []

    def write():
        hub = hub_that_waits()
        written.extend(write_file(hub, file, memoryview(b"line\n"), number) for number in range(1000))

    task = spawn(write)
    sleep(0)
    assert 0 < len(written) < 1000
    task.get()


def test_other_models_leave_it_to_threads(careful, tmp_path):
    if get_hub().io.completes_files:
        pytest.skip("this model needs no threads")

    def body():
        hub = hub_that_waits()
        assert not hub.io.completes_files
        buffer = bytearray(4)
        assert write_file(hub, fd, memoryview(b"0123456789")) == 10
        assert write_file(hub, fd, memoryview(b"ab"), 3) == 2
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
