"""os.read, os.write and their kin in a task: pipes, terminals, sockets wait by the IO model, regular files by thread.

No slow disk is at hand: a file that is not in the page cache is one whose RWF_NOWAIT says so, and the thread that reads
it is held by a gate that only a sibling opens. Were the hub's own thread in there, the test would never end.
"""

import functools

import pytest

from rimstone.testing.patched import in_patched_process as in_patched
from rimstone.testing.patched import run_script

in_patched_process = functools.partial(in_patched, files=True)


def gate_in(module, name):
    """Hold what is called as *name* in *module* until a sibling lets it go; returns (the threads seen, let_go)."""
    import _thread
    import os
    import threading

    os.environ["RIMSTONE_IO_MODEL"] = "poll"  # one that leaves files to threads
    original, gate, seen = getattr(module, name), _thread.allocate_lock(), []
    gate.acquire()

    def held(*args):
        seen.append(threading.get_ident())
        gate.acquire()
        gate.release()
        return original(*args)

    setattr(module, name, held)
    return seen, gate.release


def forget_cache(module):
    """Nothing is in the page cache from now on."""

    def preadv(*_):
        raise BlockingIOError

    module.os_preadv = preadv


@in_patched_process()
@pytest.mark.parametrize("flag", ["as the kernel has it", "none"])
def test_pipe_waits_and_siblings_run(flag):
    import os

    import rimstone.monkey._descriptors as descriptors
    from rimstone import sleep, spawn

    if flag == "none":
        descriptors._NOWAIT = 0
    reading, writing = os.pipe()
    reader = spawn(os.read, reading, 100)
    sleep(0)
    assert reader.state == "parked"
    assert os.write(writing, b"abc") == 3
    assert reader.get() == b"abc"

    big = bytes(range(256)) * 4096  # more than a pipe holds
    writer = spawn(os.write, writing, big)
    sleep(0)
    assert writer.state == "parked"
    assert os.get_blocking(reading)
    assert os.get_blocking(writing)
    received = b""
    while len(received) < len(big):
        received += os.read(reading, 65_536)
    assert received == big
    assert writer.get() == len(big)

    reader = spawn(os.readv, reading, [bytearray(2), bytearray(2)])
    sleep(0)
    assert spawn(os.writev, writing, [b"ab", b"c"]).get() == 3
    assert reader.get() == 3

    reader = spawn(os.read, reading, 1)
    sleep(0)
    os.close(writing)
    assert reader.get() == b""
    os.close(reading)


@in_patched_process()
def test_errors_are_those_of_the_system_call():
    import errno
    import os

    from rimstone import spawn
    from rimstone._originals import os_read, os_write

    def outcome(function, *args):
        try:
            return function(*args)
        except Exception as error:
            return type(error), str(error)

    reading, writing = os.pipe()
    folder = os.open("/", os.O_RDONLY)
    os.set_blocking(reading, False)
    try:
        for args in [
            (reading, 1),
            (folder, 10),
            (writing, 1),
            (9999, 1),
            (reading, -1),
            ("x", 1),
            (reading, "x"),
            (reading, 0),
        ]:
            assert spawn(outcome, os.read, *args).get() == outcome(os_read, *args), args
        os.set_blocking(reading, True)
        for args in [
            (reading, b"x"),
            (9999, b"x"),
            (writing, "x"),
            (writing, b""),
            (writing, memoryview(b"abcd")[::2]),
        ]:
            assert spawn(outcome, os.write, *args).get() == outcome(os_write, *args), args

        os.set_blocking(writing, False)
        assert spawn(os.write, writing, bytes(2**20)).get() < 2**20  # what there is room for
        assert spawn(outcome, os.write, writing, b"x").get()[0] is BlockingIOError
        os.set_blocking(writing, True)
        writer = spawn(os.write, writing, b"x")
        from rimstone import sleep

        sleep(0)
        os.close(reading)
        try:
            writer.get()
        except BrokenPipeError as error:
            assert error.errno == errno.EPIPE  # noqa: PT017
        else:
            raise AssertionError("no EPIPE")
    finally:
        os.close(folder)
        os.close(writing)


@in_patched_process()
def test_closing_wakes_who_waits_for_the_descriptor():
    import errno
    import os

    from rimstone import sleep, spawn

    reading, writing = os.pipe()
    reader = spawn(os.read, reading, 1)
    sleep(0)
    os.close(reading)
    try:
        reader.get()
    except OSError as error:
        assert error.errno == errno.EBADF  # noqa: PT017
    else:
        raise AssertionError("no EBADF")
    os.close(writing)


@in_patched_process()
def test_killed_reader_takes_nothing_with_it():
    import os

    from rimstone import sleep, spawn

    reading, writing = os.pipe()
    reader = spawn(os.read, reading, 10)
    sleep(0)
    os.write(writing, b"kept")
    reader.kill()
    assert os.read(reading, 10) == b"kept"
    os.close(reading)
    os.close(writing)


@in_patched_process()
def test_terminal_socket_and_eventfd():
    import os
    import socket
    import tty

    from rimstone import sleep, spawn

    terminal, other_end = os.openpty()
    tty.setraw(other_end)
    here, there = socket.socketpair()
    counter = os.eventfd(0)
    for reads_from, writes_to, data in (
        (other_end, terminal, b"typed"),
        (terminal, other_end, b"shown"),
        (here.fileno(), there.fileno(), b"sent"),
        (counter, counter, (7).to_bytes(8, "little")),
    ):
        reader = spawn(os.read, reads_from, 100)
        sleep(0)
        assert reader.state == "parked"
        assert spawn(os.write, writes_to, data).get() == len(data)
        assert reader.get() == data
    for fd in (terminal, other_end, counter):
        os.close(fd)
    here.close()
    there.close()


@in_patched_process()
def test_child_process_and_its_pipes():
    import subprocess
    import sys

    from rimstone import spawn

    ticks = []

    def child():
        script = "import sys; sys.stdout.write(sys.stdin.read().upper())"
        return subprocess.run(
            [sys.executable, "-c", script], input="x" * 200_000, text=True, capture_output=True, check=True
        ).stdout

    def tick():
        from rimstone import sleep

        while True:
            ticks.append(1)
            sleep(0.001)

    spawn(tick)
    children = [spawn(child) for _ in range(2)]
    assert [task.get() for task in children] == ["X" * 200_000] * 2
    assert ticks


@in_patched_process(gate_in, forget_cache)
@pytest.mark.parametrize("call", ["read", "pread", "readv", "write", "pwrite", "fsync", "fdatasync"])
def test_regular_file_takes_a_thread_and_siblings_run(call):
    import os
    import tempfile
    import threading

    import rimstone.monkey._descriptors as descriptors
    import rimstone.monkey._os as patched
    from rimstone import spawn
    from rimstone.hub import files

    fd, name = tempfile.mkstemp()
    os.write(fd, b"0123456789")
    os.lseek(fd, 2, os.SEEK_SET)
    buffer = bytearray(3)
    arguments = {"read": (3,), "pread": (3, 2), "readv": ([buffer],), "write": (b"abc",), "pwrite": (b"abc", 2)}.get(
        call, ()
    )
    place = {"read": (files, "os_readv"), "pread": (files, "os_preadv"), "readv": (patched, "os_readv")}
    seen, let_go = gate_in(*place.get(call, (files, f"os_{call}")))
    forget_cache(descriptors)
    files._writes.careful_until = float("inf")  # as if the disk did not keep up
    task = spawn(getattr(os, call), fd, *arguments)
    spawn(let_go)
    result = task.get()
    assert len(seen) == 1
    assert seen[0] != threading.get_ident()
    assert result == {"read": b"234", "pread": b"234", "fsync": None, "fdatasync": None}.get(call, 3)
    if call == "readv":
        assert buffer == b"234"
    after = os.lseek(fd, 0, os.SEEK_CUR)
    assert after == (5 if call in {"read", "readv", "write"} else 2)
    with open(name, "rb") as file:
        assert file.read() == (b"01abc56789" if "write" in call else b"0123456789")
    os.close(fd)
    os.unlink(name)


@in_patched_process()
def test_what_is_in_the_cache_takes_no_thread():
    import os
    import tempfile
    import threading

    from rimstone import spawn

    def body():
        with tempfile.TemporaryFile(dir="/var/tmp") as file:
            fd = file.fileno()
            os.write(fd, b"0123456789")
            os.lseek(fd, 0, os.SEEK_SET)
            before = list(started)
            try:
                os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)
            except OSError:
                return  # this file system does not know RWF_NOWAIT
            assert [os.read(fd, 4), os.read(fd, 100), os.read(fd, 1), os.pread(fd, 3, 4)] == [
                b"0123",
                b"456789",
                b"",
                b"456",
            ]
            assert os.pread(fd, 100, 5) == b"56789"
            assert started == before

    started = []
    start = threading.Thread.start
    threading.Thread.start = lambda self: (started.append(self), start(self))
    spawn(spawn, lambda: None)  # somebody who could run meanwhile
    spawn(body).get()


@in_patched_process()
def test_read_whose_beginning_alone_is_cached_is_one_read():
    import os
    import tempfile

    import rimstone.monkey._descriptors as descriptors
    from rimstone import joinall, spawn

    native = descriptors.os_preadv
    descriptors.os_preadv = lambda fd, buffers, offset, flags: native(fd, [buffers[0][:3]], offset)
    with tempfile.TemporaryFile() as file:
        records = [b"%04d" % number * 5 for number in range(50)]
        file.write(b"".join(records) + b"end")
        file.seek(0)
        fd = file.fileno()
        tasks = [spawn(os.read, fd, 20) for _ in range(52)]  # they share one position
        joinall(tasks)
        assert sorted(task.get() for task in tasks) == [b"", *records, b"end"]
        assert os.lseek(fd, 0, os.SEEK_CUR) == 1003
        assert spawn(os.pread, fd, 20, 20).get() == records[1]
        assert spawn(os.pread, fd, 20, 1000).get() == b"end"


@in_patched_process()
def test_big_files_copies_and_sizes():
    import os
    import shutil
    import tempfile

    from rimstone import spawn

    def body():
        with tempfile.TemporaryDirectory() as folder:
            one, two = f"{folder}/one", f"{folder}/two"
            data = os.urandom(3_000_000)
            fd = os.open(one, os.O_RDWR | os.O_CREAT)
            assert os.write(fd, data) == len(data)
            assert os.pread(fd, 4_000_000, 1_000_000) == data[1_000_000:]
            os.lseek(fd, 0, os.SEEK_SET)
            assert os.read(fd, 4_000_000) == data
            shutil.copyfile(one, two)
            os.ftruncate(fd, 10)
            os.fsync(fd)
            os.close(fd)
            assert os.path.getsize(one) == 10
            with open(two, "rb") as file:
                assert file.read() == data
            os.truncate(two, 5)
            assert os.path.getsize(two) == 5

    spawn(spawn, lambda: None)
    spawn(body).get()


@in_patched_process()
def test_functions_stay_functions_in_a_class():
    import os
    import pickle

    from rimstone import spawn

    class Store:
        take = os.read

    reading, writing = os.pipe()
    os.write(writing, b"ab")
    assert Store().take(reading, 1) == b"a"
    assert spawn(Store().take, reading, 1).get() == b"b"
    assert pickle.loads(pickle.dumps(os.read)) is os.read
    assert os.truncate in os.supports_fd
    os.close(reading)
    os.close(writing)


def test_finalizers_at_the_end_of_the_interpreter():
    done = run_script(
        "import rimstone.monkey, sys\n"
        "rimstone.monkey.patch_all(files=True)\n"
        "import os\n"
        "from rimstone import spawn, sleep\n"
        "spawn(sleep, 0).get()\n"
        "class Last:\n"
        "    def __del__(self, read=os.read, write=os.write, close=os.close, fds=os.pipe()):\n"
        "        write(fds[1], b'closed')\n"
        "        write(1, read(fds[0], 10))\n"
        "        close(fds[0])\n"
        "sys.last = Last()\n"
    )
    assert (done.stdout, done.stderr, done.returncode) == ("closed", "", 0)


@in_patched_process()
@pytest.mark.parametrize("kernel", ["as it is", "before 4.14"])
def test_einval_of_a_descriptor_that_is_not_ready(kernel):
    import errno
    import os
    import sys

    import pytest

    import rimstone.monkey._descriptors as descriptors
    from rimstone import sleep, spawn

    if not hasattr(os, "eventfd") or not descriptors._NOWAIT:
        return

    def unknown_flag(*_):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    if kernel == "before 4.14":
        descriptors.os_preadv = unknown_flag
    spawn(sleep, 60)
    number = os.eventfd(0)
    if kernel == "as it is":
        with pytest.raises(OSError, match="Invalid argument"):
            spawn(os.read, number, 3).get(timeout=5)
    reader = spawn(os.read, number, 8)
    sleep(0)
    assert reader.state == "parked"
    os.eventfd_write(number, 1)
    assert reader.get() == (1).to_bytes(8, sys.byteorder)
    os.close(number)
