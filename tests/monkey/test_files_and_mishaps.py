"""Files and pipes of tasks when something comes in between: Ctrl-C, a close, a kernel that knows less."""

import functools

import pytest

from rimstone.testing.patched import in_patched_process as in_patched

in_patched_process = functools.partial(in_patched, files=True)

MODELS = ("epoll", "poll", "select", "nonblocking", "completion_threads", "uring")


def interrupted_everywhere(operation, file_names, check):
    """Call `operation()` again and again, each time with a Ctrl-C at another place in these files; then `check(n)`.

    A place is where CPython looks for signals: at the beginning of a function, and after a call of a C function.
    Returns the number of places.
    """
    import dis
    import sys

    state = {"left": 0, "last": None, "struck": False}

    def place():
        if state["struck"]:
            return
        if not state["left"]:
            state["struck"] = True
            raise KeyboardInterrupt
        state["left"] -= 1

    def trace(frame, event, _):
        if not frame.f_code.co_filename.endswith(file_names):
            return None
        frame.f_trace_opcodes = True
        last, state["last"] = state["last"], (frame, event, frame.f_lasti)
        if (event == "call" and not frame.f_code.co_flags & 0x20) or (
            event == "opcode"
            and last is not None
            and last[:2] == (frame, "opcode")
            and dis.opname[frame.f_code.co_code[last[2]]].startswith("CALL")
        ):
            place()
        return trace

    for number in range(1000):
        state.update(left=number, last=None, struck=False)
        sys.settrace(trace)
        try:
            operation()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
            state["last"] = None
        check(number)
        if not state["struck"]:
            return number
    raise AssertionError("there is no end of it")


@in_patched_process(interrupted_everywhere)
@pytest.mark.parametrize("call", ["write", "flush", "readline", "read", "raw"])
def test_ctrl_c_at_any_place_leaves_no_file_locked(call):
    import tempfile

    from rimstone import sleep, spawn

    def operation():
        if call in {"write", "flush"}:
            file.write("line\n" * 5000)
            file.flush()
        elif call == "raw":
            file.buffer.raw.seek(0)
            file.buffer.raw.read(10)
        else:
            file.seek(0)
            getattr(file, call)()

    def check(number):
        assert not file._turns.taken(), number
        assert not file._turns._queue, number

    spawn(sleep, 60)
    with tempfile.TemporaryFile("w+", dir="/var/tmp") as file:
        file.write("line\n" * 5000)
        spawn(operation).get()
        places = interrupted_everywhere(operation, ("_turns.py",), check)
        assert places > 3
        file.seek(0)
        assert spawn(file.readline).get() == "line\n"


@in_patched_process(interrupted_everywhere)
def test_ctrl_c_while_others_queue_for_the_file():
    import contextlib
    import sys

    from rimstone import sleep, spawn
    from rimstone.hub import get_hub
    from rimstone.monkey._turns import Turns

    order, hub = [], get_hub()

    class File:
        def method(self, name):
            sleep(0)
            order.append(name)

    file = File()

    def operation():
        trace = sys.gettrace()
        sys.settrace(None)
        turns.append(Turns())
        others.append(spawn(turns[-1].call, hub, file, File.method, ("first",)))
        sleep(0)
        others.append(spawn(turns[-1].call, hub, file, File.method, ("second",)))
        sys.settrace(trace)
        turns[-1].call(hub, file, File.method, ("third",))

    def check(number):
        while others:  # who is struck may be one of these, whose Ctrl-C is the main program's all the same
            with contextlib.suppress(KeyboardInterrupt):
                others[-1].join()
                others.pop()
        assert not turns[-1].taken(), number
        assert not turns[-1]._queue, number
        assert "first" in order or number < 10, (order, number)
        order.clear()

    turns, others = [], []
    assert interrupted_everywhere(operation, ("_turns.py",), check) > 5


@in_patched_process()
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("how", ["os.close", "file.close"])
def test_reader_of_a_closed_descriptor_gets_nothing_of_the_next_one(model, how):
    import errno
    import os

    from rimstone import iomodel, sleep, spawn

    os.environ["RIMSTONE_IO_MODEL"] = model
    try:
        iomodel.choose()
    except Exception:
        return
    reading, writing = os.pipe()
    if how == "os.close":
        task, close = spawn(os.read, reading, 100), lambda: os.close(reading)
    else:
        file = open(reading, "rb", buffering=0)  # noqa: SIM115
        task, close = spawn(file.read, 100), file.close
    while task.state != "parked":
        sleep(0)
    close()
    fresh, sink = os.pipe()
    assert fresh == reading, "the number was not handed out again: the test shows nothing"
    os.write(sink, b"not for the old one")
    try:
        data = task.get()
    except OSError as error:
        assert error.errno == errno.EBADF  # noqa: PT017
    else:
        raise AssertionError(f"it read {data!r}")
    assert os.read(fresh, 100) == b"not for the old one"
    for fd in (fresh, sink, writing):
        os.close(fd)


@in_patched_process()
@pytest.mark.parametrize("model", MODELS)
def test_writer_of_a_closed_pipe_has_written_a_part_and_is_not_struck_later(model):
    import os
    import time

    from rimstone import iomodel, spawn
    from rimstone.hub import get_hub

    if iomodel.available()[model] is not None:
        return
    get_hub(model)
    reading, writing = os.pipe()

    def write():
        count = os.write(writing, bytes(1 << 20))
        time.sleep(0.01)  # where somebody else's error would strike
        return count

    writer = spawn(write)
    time.sleep(0.01)
    os.close(writing)
    assert 0 < writer.get() < 1 << 20
    os.close(reading)


@in_patched_process()
def test_kernel_whose_nowait_reads_end_early():
    import os
    import tempfile

    import rimstone.monkey._descriptors as descriptors
    from rimstone import sleep, spawn

    def body():
        with tempfile.TemporaryFile() as file:
            file.write(b"0123456789")
            file.seek(0)
            assert file.read() == b"0123456789"
            fd = file.fileno()
            os.lseek(fd, 0, os.SEEK_SET)
            assert [os.read(fd, 4), os.read(fd, 100), os.read(fd, 1)] == [b"0123", b"456789", b""]
            assert [os.pread(fd, 3, 4), os.pread(fd, 9, 8), os.pread(fd, 1, 10)] == [b"456", b"89", b""]

    descriptors.os_preadv = lambda *_: 0
    spawn(sleep, 60)
    spawn(body).get()


@in_patched_process()
@pytest.mark.parametrize("flag", ["as the kernel has it", "none"])
def test_killed_writer_of_a_full_pipe_ends_at_once(flag):
    import os

    import rimstone.monkey._descriptors as descriptors
    from rimstone import sleep, spawn
    from rimstone.hub import offload

    if flag == "none":
        descriptors._NOWAIT = 0
    reading, writing = os.pipe()
    written = []

    def write():
        written.append(os.write(writing, bytes(1_000_000)))

    task = spawn(write)
    sleep(0)
    task.kill()
    held = written[0]  # what was written is told, and the kill strikes where it waits next; here it ends before
    assert held == len(os.read(reading, 1_000_000))
    blocked = spawn(os.write, writing, bytes(held))
    blocked.get()
    stuck = spawn(os.write, writing, b"no room")
    sleep(0)
    assert stuck.state == "parked"
    stuck.kill()
    assert stuck.ready()
    assert not offload._files._running, "a thread does it"
    os.close(reading)
    os.close(writing)


@in_patched_process()
@pytest.mark.parametrize("flag", ["as the kernel has it", "none"])
def test_two_tasks_of_one_pipe_never_block_the_thread(flag):
    import os

    import rimstone.monkey._descriptors as descriptors
    from rimstone import sleep, spawn

    if flag == "none":
        descriptors._NOWAIT = 0
    reading, writing = os.pipe()
    readers = [spawn(os.read, reading, 100) for _ in range(2)]
    sleep(0)
    os.write(writing, b"one")
    sleep(0.01)
    assert sum(task.ready() for task in readers) == 1
    os.write(writing, b"two")
    assert {task.get() for task in readers} == {b"one", b"two"}
    os.close(reading)
    os.close(writing)


@in_patched_process()
def test_lengths_that_nobody_has_memory_for():
    import os
    import tempfile

    from rimstone import sleep, spawn

    def body():
        huge = 2**40
        reading, writing = os.pipe()
        os.write(writing, b"few")
        assert os.read(reading, huge) == b"few"
        os.write(writing, b"few")
        with open(reading, "rb", buffering=0) as file:
            assert file.read(huge) == b"few"
        os.close(writing)
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(b"few")
            assert os.pread(file.fileno(), 2**20, 0) == b"few"
            file.seek(0)
            assert file.read(2**20) == b"few"
        fd = os.open("/dev/zero", os.O_RDONLY)
        assert len(os.read(fd, 3_000_000)) == 3_000_000
        os.close(fd)

    spawn(sleep, 60)
    spawn(body).get()


@in_patched_process()
@pytest.mark.parametrize("call", ["os.read", "os.write", "readline", "write", "raw", "close"])
def test_ctrl_c_ends_the_main_programs_operation(call):
    import _thread
    import os
    import signal
    import tempfile

    import rimstone.monkey._descriptors as descriptors
    from rimstone import sleep, spawn
    from rimstone.hub import files

    os.environ["RIMSTONE_IO_MODEL"] = "poll"  # one that leaves files to threads
    gate = _thread.allocate_lock()
    gate.acquire()

    def hold(name):
        native = getattr(files, name)

        def held(*args):
            gate.acquire()
            gate.release()
            return native(*args)

        setattr(files, name, held)

    def would_wait(*_):
        raise BlockingIOError

    def strike():
        spawn(signal.raise_signal, signal.SIGINT).join()  # in a task: it is the main program's all the same
        sleep(0)
        gate.release()

    name = tempfile.mkstemp()[1]
    with open(name, "w") as file:
        file.write("line 1\nline 2\n")
    descriptors.os_preadv = would_wait
    files._writes.careful_until = float("inf")
    for native in ("os_readv", "os_write"):
        hold(native)
    spawn(sleep, 60)
    fd = os.open(name, os.O_RDWR)
    file = open(name, "r+")  # noqa: SIM115
    raw = open(name, "r+b", buffering=0)  # noqa: SIM115
    if call == "close":
        file.write("LINE 1\n")
    operation = {
        "os.read": lambda: os.read(fd, 10),
        "os.write": lambda: os.write(fd, b"LINE 1\n"),
        "readline": file.readline,
        "write": lambda: (file.write("LINE 1\n"), file.flush()),
        "raw": lambda: raw.read(3),
        "close": file.close,
    }[call]
    spawn(strike)
    try:
        operation()
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("it went on")
    file.close()
    with open(name) as file:
        changed = call in {"os.write", "write", "close"}
        assert file.read() == ("LINE 1\nline 2\n" if changed else "line 1\nline 2\n")  # and nothing twice
    os.close(fd)
    raw.close()
    os.unlink(name)


@in_patched_process()
def test_ctrl_c_that_came_before_is_not_lost_in_a_finalizer():
    import os
    import signal
    import threading

    from rimstone import sleep, spawn

    class Writer:
        def __del__(self):
            os.write(fd, b"x")

    fd = os.open(os.devnull, os.O_WRONLY)
    event, writer = threading.Event(), Writer()

    def strike():
        event.set()  # granted first: so the wait returns, and the Ctrl-C is for the next one
        signal.raise_signal(signal.SIGINT)

    spawn(strike)
    try:
        event.wait()
        del writer
        sleep(0)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("it is lost")
    os.close(fd)


@in_patched_process()
def test_temporary_files_of_several_tasks():
    """The first one looks which folder will do, with a lock, and may wait there."""
    import os
    import tempfile

    from rimstone import joinall, spawn
    from rimstone.hub import files

    files._writes.careful_until = float("inf")  # each write is another thread's

    def use():
        with tempfile.TemporaryFile() as file:
            file.write(b"x")

    assert tempfile.tempdir is None
    tasks = [spawn(use) for _ in range(3)]
    joinall(tasks, raise_error=True)
    assert os.path.isdir(tempfile.tempdir)


@in_patched_process()
@pytest.mark.parametrize("what", ["kill", "timeout"])
@pytest.mark.parametrize("size", [100, 100_000])
def test_what_strikes_in_a_finalizers_flush_is_raised_at_the_next_wait(what, size):
    import os

    from rimstone import Timeout, sleep, spawn

    reading, writing = os.pipe()
    spawn(os.write, writing, bytes(65_536)).get()  # as much as it holds
    steps = []

    def body():
        file = open(writing, "w", size + 1, closefd=False)  # noqa: SIM115
        file.write("x" * size)
        with Timeout(0.05 if what == "timeout" else None, False):
            del file
            steps.append("dropped")
            sleep(60)
            steps.append("slept")
        sleep(0)
        steps.append("after the block")

    task = spawn(body)
    sleep(0)
    if what == "kill":
        task.kill()
    task.join(10)
    assert steps == ["dropped", "after the block"] if what == "timeout" else ["dropped"]
    os.close(reading)
    os.close(writing)


def all_file_threads_are_busy():
    """What works on a file from now on queues for a thread. Returns (those that are busy, let them go on)."""
    import _thread
    import os

    os.environ["RIMSTONE_IO_MODEL"] = "poll"  # one that leaves files to threads
    from rimstone import sleep, spawn
    from rimstone.hub import files, offload

    files._writes.careful_until = float("inf")
    gate = _thread.allocate_lock()
    gate.acquire()

    def be_busy():
        with gate:
            pass

    busy = [spawn(offload.offload_shielded, be_busy) for _ in range(offload.MOST_FILE_THREADS)]
    sleep(0)
    return busy, gate.release


@in_patched_process(all_file_threads_are_busy)
@pytest.mark.parametrize(
    "call",
    ["write", "read", "pread", "pwrite", "fsync", "writev", "preadv", "ftruncate", "sendfile", "copy_file_range"],
)
def test_operation_whose_descriptor_was_closed_before_a_thread_came_to_it(call):
    import errno
    import os
    import tempfile

    import rimstone.monkey._descriptors as descriptors
    from rimstone import sleep, spawn

    def would_wait(*_):
        raise BlockingIOError

    descriptors.os_preadv = would_wait
    operations = {
        "write": lambda: os.write(fd, b"NEW"),
        "read": lambda: os.read(fd, 3),
        "pread": lambda: os.pread(fd, 3, 0),
        "pwrite": lambda: os.pwrite(fd, b"NEW", 0),
        "fsync": lambda: os.fsync(fd),
        "writev": lambda: os.writev(fd, [b"NEW"]),
        "preadv": lambda: os.preadv(fd, [bytearray(3)], 0),
        "ftruncate": lambda: os.ftruncate(fd, 0),
        "sendfile": lambda: os.sendfile(fd, source, 0, 3),
        "copy_file_range": lambda: os.copy_file_range(source, fd, 3, 0),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in ("one", "two", "source"):
            with open(f"{folder}/{name}", "w") as file:
                file.write("old")
        source = os.open(f"{folder}/source", os.O_RDONLY)
        busy, let_go_on = all_file_threads_are_busy()
        fd = os.open(f"{folder}/one", os.O_RDWR)
        task = spawn(operations[call])
        sleep(0)
        assert task.state == "parked"
        os.close(fd)
        assert os.open(f"{folder}/two", os.O_RDWR) == fd, "the number was not handed out again: it shows nothing"
        let_go_on()
        try:
            result = task.get()
        except OSError as error:
            assert error.errno == errno.EBADF  # noqa: PT017
        else:
            raise AssertionError(result)
        for other in busy:
            other.get()
        with open(f"{folder}/two") as file:
            assert file.read() == "old"
        os.close(fd)
        os.close(source)


@in_patched_process(all_file_threads_are_busy)
@pytest.mark.parametrize("how", ["os.close", "file.close"])
def test_operation_whose_descriptor_was_closed_leaves_the_next_file_alone_although_it_has_the_same_inode(how):
    import os
    import tempfile

    import pytest

    from rimstone import sleep, spawn

    folder = tempfile.gettempdir()  # found out by writing
    busy, let_go_on = all_file_threads_are_busy()
    first = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115
    late = spawn(os.write, first.fileno(), b"STRAY")
    sleep(0)
    if how == "os.close":
        fd = os.dup(first.fileno())
        late_too = spawn(os.write, fd, b"STRAY")
        sleep(0)
        os.close(fd)
    first.close()
    with tempfile.TemporaryFile(buffering=0, dir=folder) as second:  # often with the same number and inode
        let_go_on()
        for task in [late] if how == "file.close" else [late, late_too]:
            with pytest.raises(OSError, match="Bad file descriptor"):
                task.get()
        assert os.pread(second.fileno(), 10, 0) == b""
    for task in busy:
        task.get()
