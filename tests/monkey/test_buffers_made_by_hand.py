"""What others put over files: gzip and its kin, the classes of `io`. Tasks share it; what is native stays native."""

import functools

import pytest

from rimstone.testing.patched import in_patched_process as in_patched

in_patched_process = functools.partial(in_patched, files=True)


def pipe_with_lines(count):
    """The reading end, as a raw file, and a task that writes that many lines in pieces that do not end with one."""
    import os

    from rimstone import sleep, spawn

    reading, writing = os.pipe()

    def write():
        lines = b"".join(b"line %d\n" % number for number in range(count))
        for start in range(0, len(lines), 7):
            os.write(writing, lines[start : start + 7])
            sleep(0)
        os.close(writing)

    return open(reading, "rb", buffering=0), spawn(write)


def lines_by_tasks(file, readers=3):
    """All lines that tasks read from one file at the same time."""
    from rimstone import spawn

    found = []

    def read():
        while line := file.readline():
            found.append(line)

    for task in [spawn(read) for _ in range(readers)]:
        task.get()
    return found


@in_patched_process(pipe_with_lines, lines_by_tasks, before="from io import BufferedReader as NATIVE")
@pytest.mark.parametrize(
    "how", ["BufferedReader", "keyword", "subclass", "own raw class", "TextIOWrapper", "text of C"]
)
def test_tasks_share_a_buffer_made_by_hand(how):
    import io

    raw, writer = pipe_with_lines(200)
    if how == "BufferedReader":
        file = io.BufferedReader(raw)
    elif how == "keyword":
        file = io.BufferedReader(buffer_size=16, raw=raw)
    elif how == "subclass":

        class Lines(io.BufferedReader):
            def readline(self):
                return super().readline()

        file = Lines(raw)
        assert repr(file).startswith("<Lines name=")
    elif how == "own raw class":

        class Upper(io.RawIOBase):
            def readable(self):
                return True

            def readinto(self, buffer):
                data = raw.read(len(buffer))
                buffer[: len(data)] = data
                return len(data)

        file = io.BufferedReader(Upper())
    elif how == "TextIOWrapper":
        file = io.TextIOWrapper(io.BufferedReader(raw))
    else:
        file = io.TextIOWrapper(buffer=NATIVE(raw))  # noqa: F821 - whose name was imported before patching
    found = lines_by_tasks(file)
    expected = [f"line {number}\n" for number in range(200)]
    assert sorted(found) == sorted(expected if isinstance(found[0], str) else [line.encode() for line in expected])
    writer.get()
    file.close()
    raw.close()


@in_patched_process(pipe_with_lines, lines_by_tasks)
@pytest.mark.parametrize("module", ["gzip", "bz2", "lzma"])
@pytest.mark.parametrize("mode", ["rb", "rt"])
def test_tasks_share_a_compressed_file(module, mode):
    import importlib
    import os

    from rimstone import sleep, spawn

    module = importlib.import_module(module)
    lines = [b"line %d\n" % number for number in range(2000)]
    packed = module.compress(b"".join(lines))
    reading, writing = os.pipe()

    def write():
        for start in range(0, len(packed), 100):
            os.write(writing, packed[start : start + 100])
            sleep(0)
        os.close(writing)

    writer = spawn(write)
    with open(reading, "rb", buffering=0) as raw:

        class Pipe:  # without `seek`
            read, seekable = raw.read, raw.seekable

        with module.open(Pipe(), mode) as file:
            found = lines_by_tasks(file)
    writer.get()
    assert sorted(found) == sorted(lines if mode == "rb" else [line.decode() for line in lines])


def read_all(fd):
    with open(fd, "rb") as file:
        return file.read()


@in_patched_process(read_all)
def test_tasks_share_what_they_write_into():
    import io
    import os
    import subprocess

    from rimstone import joinall, spawn

    def lines(file, name):
        for number in range(2000):
            file.write(b"%s %d\n" % (name, number) if isinstance(file, io.BufferedIOBase) else f"{name} {number}\n")

    reading, writing = os.pipe()
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=writing, text=True)
    os.close(writing)
    reader = spawn(read_all, reading)
    writers = [spawn(lines, process.stdin, name) for name in "abc"]
    joinall(writers)
    assert all(task.successful() for task in writers)
    process.stdin.close()
    assert process.wait() == 0
    assert sorted(reader.get().decode().splitlines()) == sorted(f"{name} {n}" for name in "abc" for n in range(2000))

    reading, writing = os.pipe()
    file = io.BufferedWriter(open(writing, "wb", buffering=0), 100)  # noqa: SIM115
    reader = spawn(read_all, reading)
    for task in [spawn(lines, file, name) for name in (b"a", b"b")]:
        task.get()
    file.close()
    assert sorted(reader.get().splitlines()) == sorted(
        b"%s %d" % (name, n) for name in (b"a", b"b") for n in range(2000)
    )


@in_patched_process(before="import io, sys; NATIVE = io.TextIOWrapper, io.BufferedReader")
def test_names_in_io_are_what_they_were():
    import abc
    import functools
    import io
    import os
    import pickle
    import socket
    import sys

    import pytest

    text, reader = NATIVE  # noqa: F821
    assert isinstance(sys.stdout, io.TextIOWrapper)
    assert isinstance(sys.stdin.buffer, io.BufferedReader)
    assert not isinstance(sys.stdin.buffer, io.BufferedWriter)
    assert issubclass(text, io.TextIOWrapper)
    assert issubclass(reader, io.BufferedReader)
    assert not issubclass(reader, io.BufferedRandom)
    with open(os.__file__) as file:
        assert type(file) is io.TextIOWrapper
        assert isinstance(file, text)
        assert type(file.buffer) is io.BufferedReader
    assert pickle.loads(pickle.dumps(io.BufferedReader)) is io.BufferedReader

    @functools.singledispatch
    def kind(_):
        return "other"

    kind.register(io.BufferedReader, lambda _: "reader")
    assert kind(sys.stdin.buffer) == "reader"

    # Over what never waits: the native classes.
    assert type(io.TextIOWrapper(io.BytesIO())) is text
    assert type(io.BufferedReader(io.FileIO(os.__file__))) is reader
    outside = io.TextIOWrapper(sys.stdin.buffer, "utf-8")
    assert type(outside) is text
    outside.detach()
    here, there = socket.socketpair()
    with here, there, here.makefile("r") as file:
        assert type(file) is text

    class Own(io.TextIOWrapper, abc.ABC):
        def __reduce_ex__(self, _):
            return str, ("mine",)

    own = Own(io.BytesIO(b"a\nb\n"))
    assert own.readline() == "a\n"
    assert own._turns is None
    assert pickle.loads(pickle.dumps(own)) == "mine"
    assert isinstance(own, Own)
    assert isinstance(own, io.TextIOWrapper)
    assert not isinstance(sys.stdout, Own)
    own.close()
    with pytest.raises(AttributeError):
        io.BufferedReader(42)
    with pytest.raises(TypeError):
        io.TextIOWrapper()


@in_patched_process()
def test_one_task_reads_while_another_writes_over_one_raw_file():
    import io
    import os
    import socket

    from rimstone import spawn
    from rimstone.hub import sleep

    near, far = socket.socketpair()
    with near, far, open(os.dup(near.fileno()), "r+b", buffering=0) as raw:
        reading, writing = io.BufferedReader(raw), io.BufferedWriter(raw)
        reader = spawn(reading.readline)
        sleep(0)

        def write():
            writing.write(b"hello\n")
            writing.flush()

        spawn(write).get(timeout=10)
        assert far.recv(100) == b"hello\n"
        far.sendall(b"goodbye\n")
        assert reader.get(timeout=10) == b"goodbye\n"
        writing.detach()
        reading.detach()
