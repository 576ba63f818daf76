"""Files by io_uring: read, written and synced without a thread of ours; kills, closes and forks in between.

A pipe stands in for a disk that takes its time: the same requests work on it, and it answers when we say so.
"""

import errno
import os
import resource
import signal
import threading

import pytest

from rimstone.hub import Hub, close_hub, current_hub, get_hub, sleep, spawn
from rimstone.hub.files import raise_interrupt
from rimstone.iomodel.uring import UringModel
from rimstone.testing.iomodel_suite import until_parked

_PIECE_BYTES = 1024 * 1024  # as uring.py has it
why = UringModel.why_unavailable()
pytestmark = pytest.mark.skipif(why is not None, reason=str(why))


@pytest.fixture
def hub():
    made = get_hub(UringModel)
    yield made
    if current_hub() is made:
        close_hub()


@pytest.fixture
def file(tmp_path):
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_what_is_appended_is_not_torn(hub: Hub, tmp_path):
    size = 3 * _PIECE_BYTES
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    writers = [spawn(hub.io.write_file, fd, letter * size, -1) for letter in (b"a", b"b")]
    assert [writer.get() for writer in writers] == [size, size]
    os.close(fd)
    assert (tmp_path / "log").read_bytes() in {b"a" * size + b"b" * size, b"b" * size + b"a" * size}


@pytest.mark.parametrize("size", [0, 1, 5000, 131_072, 131_073, _PIECE_BYTES, 3 * _PIECE_BYTES + 7])
def test_what_is_written_is_read(hub: Hub, file, size):
    data = os.urandom(size)
    buffer = bytearray(size + 10)

    def body():
        assert hub.io.write_file(file, data, 5) == size
        hub.io.sync_file(file, data_only=False)
        hub.io.sync_file(file, data_only=True)
        count = hub.io.read_file(file, buffer, 5)
        return count, hub.io.read_bytes(file, size + 10, 5), hub.io.read_bytes(file, 10, size + 5)

    threads = threading.active_count()
    assert spawn(body).get() == (size, data, b"")
    assert bytes(buffer[:size]) == data
    assert threading.active_count() == threads
    assert os.lseek(file, 0, os.SEEK_CUR) == 0


def test_in_the_main_program(hub: Hub, file):
    assert hub.io.write_file(file, b"abc", 0) == 3
    assert hub.io.read_bytes(file, 9, 0) == b"abc"


def test_errors_are_the_system_calls(hub: Hub, file, tmp_path):
    reads_only = os.open(tmp_path / "file", os.O_RDONLY)
    full = os.open("/dev/full", os.O_WRONLY)
    for number, function, *args in [
        (errno.EBADF, hub.io.write_file, reads_only, b"x", 0),
        (errno.EBADF, hub.io.read_file, 9999, bytearray(1), 0),
        (errno.EBADF, hub.io.sync_file, 9999, False),
        (errno.ENOSPC, hub.io.write_file, full, b"x", 0),
    ]:
        with pytest.raises(OSError) as caught:
            spawn(function, *args).get()
        assert caught.value.errno == number
    with pytest.raises(BufferError):
        hub.io.read_file(file, memoryview(b"read-only"), 0)
    os.close(reads_only)
    os.close(full)


def test_part_that_was_written_before_an_error_is_told(hub: Hub, file):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (_PIECE_BYTES + 10, before[1]))
        assert spawn(hub.io.write_file, file, bytes(3 * _PIECE_BYTES), 0).get() == _PIECE_BYTES + 10
        with pytest.raises(OSError, match="File too large"):
            spawn(hub.io.write_file, file, b"x", _PIECE_BYTES + 10).get()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_appending_moves_the_position_to_the_end(hub: Hub, tmp_path):
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    tasks = [spawn(hub.io.write_file, fd, b"%d" % number * 1000, -1) for number in range(9)]
    assert [task.get() for task in tasks] == [1000] * 9
    assert os.lseek(fd, 0, os.SEEK_CUR) == 9000
    os.close(fd)
    assert sorted((tmp_path / "file").read_bytes()) == sorted(b"".join(b"%d" % n * 1000 for n in range(9)))


def test_siblings_run_and_a_kill_waits_for_the_data(hub: Hub, pipe):
    buffer = bytearray(10)
    results = []

    def body():
        results.append(hub.io.read_file(pipe[0], memoryview(buffer)[:3], 0))
        sleep(60)

    task = spawn(body)
    until_parked(task)
    for _ in range(3):
        task.kill(block=False)
        sleep(0)
        assert task.state == "parked"
    os.write(pipe[1], b"abc")
    task.join()
    assert (results, bytes(buffer[:3])) == ([3], b"abc")


def test_two_errors_thrown_meanwhile_come_one_after_the_other(hub: Hub, pipe):
    caught = []

    def body():
        hub.io.read_file(pipe[0], bytearray(1), 0)
        for _ in range(2):
            try:
                sleep(60)
            except (ValueError, KeyError) as error:
                caught.append(type(error))

    task = spawn(body)
    until_parked(task)
    for error in (ValueError, KeyError):
        task.kill(error, block=False)
        sleep(0)
    os.write(pipe[1], b"x")
    task.join()
    assert caught == [ValueError, KeyError]


def test_ctrl_c_in_the_main_program_comes_after_the_data(hub: Hub, pipe):
    def strike():
        spawn(signal.raise_signal, signal.SIGINT).join()
        os.write(pipe[1], b"abc")

    buffer = bytearray(3)
    spawn(strike)
    assert hub.io.read_file(pipe[0], buffer, 0) == 3
    assert buffer == b"abc"
    with pytest.raises(KeyboardInterrupt):
        raise_interrupt(hub, None)


def test_closed_meanwhile_it_works_on_the_file_that_was_open(hub: Hub, pipe):
    again = os.dup(pipe[0])
    buffer = bytearray(3)
    task = spawn(hub.io.read_file, again, buffer, 0)
    until_parked(task)
    hub.io.forget(again)
    os.close(again)
    sleep(0)
    assert task.state == "parked"
    os.write(pipe[1], b"abc")
    assert (task.get(), buffer) == (3, b"abc")


def test_number_that_leads_elsewhere_after_a_piece(hub: Hub, file, tmp_path, monkeypatch):
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    finish = os.fstat

    def fstat(fd):
        found = finish(fd)
        if not replaced:
            replaced.append(os.dup2(other, file))
        return found

    replaced = []
    monkeypatch.setattr(os, "fstat", fstat)
    count = spawn(hub.io.write_file, file, bytes(2 * _PIECE_BYTES), 0).get()
    monkeypatch.undo()
    assert count == _PIECE_BYTES
    os.close(other)


def test_hub_that_closes_ends_the_request(pipe):
    hub = get_hub(UringModel)
    task = spawn(hub.io.read_file, pipe[0], bytearray(3), 0)
    until_parked(task)
    close_hub()  # after the second that its task has; then nothing may write into the buffer any more
    os.write(pipe[1], b"abc")
    assert os.read(pipe[0], 3) == b"abc"


def test_forked_child_leaves_the_parents_requests_alone(hub: Hub, pipe, file):
    buffer = bytearray(3)
    task = spawn(hub.io.read_file, pipe[0], buffer, 0)
    until_parked(task)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            own = get_hub(UringModel)
            code = 0 if spawn(own.io.write_file, file, b"child", 0).get() == 5 and not any(buffer) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.write(pipe[1], b"abc")
    assert (task.get(), buffer) == (3, b"abc")
    assert hub.io.read_bytes(file, 9, 0) == b"child"


def test_buffer_cannot_be_resized_while_the_kernel_has_it(hub: Hub, pipe):
    buffer = bytearray(3)
    task = spawn(hub.io.read_file, pipe[0], buffer, 0)
    until_parked(task)
    with pytest.raises(BufferError):
        buffer.clear()
    os.write(pipe[1], b"abc")
    task.get()
    buffer.clear()
