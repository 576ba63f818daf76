"""open in a patched process: the classes people know, siblings that run meanwhile, one task at a time in each file."""

import functools

import pytest

from rimstone import iomodel
from rimstone.testing.patched import in_patched_process as in_patched
from rimstone.testing.patched import run_script

in_patched_process = functools.partial(in_patched, files=True)


def reads_by_thread():
    """Nothing is in the page cache; the read calls wait for a gate. Returns (the threads that read, open the gate)."""
    import _thread
    import os
    import threading

    import rimstone.monkey._descriptors as descriptors
    from rimstone.hub import files

    os.environ["RIMSTONE_IO_MODEL"] = "poll"  # one that leaves files to threads
    gate, seen, native = _thread.allocate_lock(), [], files.os_readv
    gate.acquire()

    def preadv(*_):
        raise BlockingIOError

    def readv(*args):
        seen.append(threading.get_ident())
        gate.acquire()
        gate.release()
        return native(*args)

    descriptors.os_preadv = preadv
    files.os_readv = readv
    return seen, gate.release


def writes_by_thread():
    """Writing waits for a gate. Returns (the threads that write, open the gate)."""
    import _thread
    import os
    import threading

    from rimstone.hub import files

    os.environ["RIMSTONE_IO_MODEL"] = "poll"
    gate, seen, native = _thread.allocate_lock(), [], files.os_write
    gate.acquire()

    def write(*args):
        seen.append(threading.get_ident())
        gate.acquire()
        gate.release()
        return native(*args)

    files.os_write = write
    files._writes.careful_until = float("inf")  # as if the disk did not keep up
    return seen, gate.release


def in_a_task_and_without(body):
    """Run it in a thread without a hub, then in a task that has a sibling."""
    from rimstone import sleep, spawn

    body()
    spawn(sleep, 60)
    spawn(body).get()


def file_of_lines(count):
    import os
    import tempfile

    fd, name = tempfile.mkstemp()
    with os.fdopen(fd, "w") as file:
        file.writelines(f"line {number}\n" for number in range(count))
    return name


@in_patched_process(reads_by_thread, file_of_lines)
@pytest.mark.parametrize("how", ["r", "rb", "rb0", "r+b"])
def test_tasks_in_one_file_queue_for_each_other_and_siblings_run(how):
    import os
    import threading

    from rimstone import sleep, spawn

    name = file_of_lines(2000)
    seen, let_go = reads_by_thread()
    with open(name, how.rstrip("0"), buffering=0 if how == "rb0" else -1) as file:
        if how == "rb0":
            readers = [spawn(file.read, 10_000) for _ in range(3)]
        else:
            readers = [spawn(lambda: list(iter(file.readline, type(file.readline(0))()))) for _ in range(3)]
        sleep(0)
        assert [task.state for task in readers] == ["parked"] * 3
        spawn(let_go)
        found = [line for task in readers for line in task.get()]
    if how == "rb0":
        expected = sum(map(len, (f"line {number}\n" for number in range(2000))))
        assert len(found) == expected
    else:
        assert sorted(found, key=lambda line: int(line.split()[1])) == [
            f"line {number}\n" if how == "r" else b"line %d\n" % number for number in range(2000)
        ]
    assert threading.get_ident() not in seen
    os.unlink(name)


@in_patched_process(writes_by_thread, file_of_lines)
@pytest.mark.parametrize("mode", ["w", "wb", "r+b", "a"])
def test_lines_that_tasks_write_stay_whole(mode):
    import os
    import threading

    from rimstone import joinall, sleep, spawn

    name = file_of_lines(0)
    seen, let_go = writes_by_thread()
    text = "b" not in mode

    def write(file, letter):
        for _ in range(300):
            line = letter * 99 + "\n"
            file.write(line if text else line.encode())
        file.flush()

    with open(name, mode) as file:
        writers = [spawn(write, file, letter) for letter in "abc"]
        sleep(0)
        spawn(let_go)
        joinall(writers, raise_error=True)
    with open(name) as file:
        lines = file.read().split("\n")
    assert sorted(lines) == ["", *(letter * 99 for letter in "abc" for _ in range(300))]
    assert threading.get_ident() not in seen
    os.unlink(name)


@in_patched_process(reads_by_thread, file_of_lines)
def test_kill_waits_for_the_read_and_loses_nothing():
    import os

    from rimstone import sleep, spawn

    name = file_of_lines(3)
    _, let_go = reads_by_thread()
    after = []

    with open(name) as file:

        def read():
            after.append(file.readline())
            sleep(60)

        reader = spawn(read)
        sleep(0)
        reader.kill(block=False)
        sleep(0)
        assert reader.state == "parked"
        let_go()
        reader.join()
        assert after == ["line 0\n"]
        assert file.read() == "line 1\nline 2\n"
    os.unlink(name)


@pytest.mark.parametrize("model", [name for name in ("epoll", "uring") if iomodel.available()[name] is None])
def test_kill_of_a_task_that_writes_or_reads_lines_strikes_between_two_lines(model, monkeypatch):
    """Not where it lets others run: C has then taken the line out of its buffer, or a part of it."""
    monkeypatch.setenv("RIMSTONE_IO_MODEL", model)
    done = run_script("""
import rimstone.monkey
rimstone.monkey.patch_all()
import tempfile
from rimstone import sleep, spawn

LINES = [f"{number} {'z' * 60}\\n" for number in range(30_000)]
name = tempfile.mktemp()
for turns in range(1, 60, 4):
    written = []

    def write():
        with open(name, "w") as file:
            for line in LINES:
                file.write(line)
                written.append(line)

    task = spawn(write)
    for _ in range(turns):
        sleep(0)
    task.kill()
    with open(name) as file:
        assert list(file)[: len(written)] == written, len(written)

with open(name, "w") as file:
    file.writelines(LINES)
import bz2, gzip
packed = {bz2: name + ".bz2", gzip: name + ".gz"}
for module, path in packed.items():
    with module.open(path, "wt") as file:
        file.writelines(LINES)
encoded = [line.encode() for line in LINES]
for how, path, mode, lines in (
    (open, name, "r", LINES),
    (open, name, "rb", encoded),
    (bz2.open, packed[bz2], "rb", encoded),
    (gzip.open, packed[gzip], "rb", encoded),
):
    with how(path, mode) as file:
        read = []

        def read_on():
            while line := file.readline():
                read.append(line)

        task = spawn(read_on)
        while not task.ready():
            sleep(0)
            if not task.ready():
                task.kill()
                task = spawn(read_on)
        assert read == lines
import os
for path in (name, *packed.values()):
    os.unlink(path)
""")
    assert done.returncode == 0, done.stderr
    assert not done.stderr


@in_patched_process()
def test_task_that_fails_in_a_file_is_freed_with_it():
    import gc
    import os
    import tempfile
    import weakref

    from rimstone import spawn

    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(b"\xff")
    files = []

    def read():
        file = open(name, encoding="utf-8")  # noqa: SIM115
        files.append(weakref.ref(file))
        file.read()

    name = file.name
    gc.disable()
    task = spawn(read)
    try:
        task.get()
    except UnicodeDecodeError:
        pass
    else:
        raise AssertionError
    from rimstone._core import core

    del task
    assert core() == "pure" or files[0]() is None
    os.unlink(name)


@in_patched_process(writes_by_thread, file_of_lines)
def test_signal_handlers_never_deadlock():
    import os
    import signal
    import threading

    from rimstone import sleep, spawn

    name, others_name = file_of_lines(0), file_of_lines(0)
    seen, let_go = writes_by_thread()
    file, other = open(name, "w"), open(others_name, "w", buffering=1)  # noqa: SIM115
    told = []

    def handler(*_):
        try:
            file.write("handler\n")
        except RuntimeError as error:
            told.append(str(error))
        print("while the hub polls", file=other)  # natively, so not by the gate
        let_go()

    def write():
        file.write("task\n")
        file.flush()

    signal.signal(signal.SIGUSR1, handler)
    task = spawn(write)
    sleep(0)
    assert task.state == "parked"
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    task.get()
    assert len(seen) == len(told) == 1
    assert told[0].startswith("reentrant call inside <_io.TextIOWrapper name=")
    file.close()
    other.close()
    with open(name) as file, open(others_name) as other:
        assert (file.read(), other.read()) == ("task\n", "while the hub polls\n")
    os.unlink(name)
    os.unlink(others_name)


@in_patched_process()
def test_arguments_and_errors_are_those_of_the_original():
    import tempfile
    import warnings

    from rimstone import spawn
    from rimstone.monkey._files import _native_open

    def outcome(function, *args, **kwargs):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                with function(*args, **kwargs) as file:
                    layers = [file]
                    while hasattr(layers[-1], "buffer" if len(layers) == 1 else "raw"):
                        layers.append(getattr(layers[-1], "buffer" if len(layers) == 1 else "raw"))
                    modes = [layer.mode for layer in layers]
                    facts = [
                        str(layers),
                        modes,
                        file.name,
                        file.closed,
                        file.readable(),
                        file.writable(),
                        file.seekable(),
                    ]
                    of_text = ("encoding", "errors", "line_buffering", "newlines")
                    facts += [getattr(file, attribute, None) for attribute in of_text]
            except Exception as error:
                facts = [type(error), str(error)]
        return facts, [(w.category, str(w.message), w.filename, w.lineno) for w in caught]

    with tempfile.TemporaryDirectory() as folder:
        name = f"{folder}/file"
        _native_open(name, "w").close()
        missing = f"{folder}/missing"
        for args, kwargs in [
            *(
                ((name, mode), {})
                for mode in ("r", "w", "a", "r+", "w+", "a+", "rb", "wb", "ab", "r+b", "br+", "rt", "x", "")
            ),
            *(((name, mode), {}) for mode in ("rw", "rr", "b", "rbt", "U", "rU", "z", "r++", 7, None, ["r"])),
            *(((name, mode, 0), {}) for mode in ("r", "rb", "wb", "w")),
            *(((name, mode, 1), {}) for mode in ("r", "rb", "w")),
            *(((name, "rb", size), {}) for size in (-5, 2, 100, "x", None, 1.5)),
            ((name, "rb"), {"encoding": "utf-8"}),
            ((name, "rb"), {"errors": "strict"}),
            ((name, "rb"), {"newline": "\n"}),
            ((name,), {"encoding": "latin-1", "errors": "replace", "newline": ""}),
            ((name,), {"encoding": "no-such"}),
            ((name,), {"encoding": 7}),
            ((name,), {"newline": "x"}),
            ((missing,), {}),
            ((folder,), {}),
            ((None,), {}),
            ((9999,), {}),
            ((-1,), {}),
            (("a\0b",), {}),
            ((name,), {"closefd": False}),
            ((name,), {"opener": lambda path, flags: -1}),
            ((), {}),
            ((name,), {"nonsense": 1}),
        ]:
            expected = outcome(_native_open, *args, **kwargs)
            if not args or "nonsense" in kwargs:  # the message names the function that was called
                assert outcome(open, *args, **kwargs)[0][0] is TypeError
                continue
            assert outcome(open, *args, **kwargs) == expected, (args, kwargs)
            assert spawn(outcome, open, *args, **kwargs).get() == expected, (args, kwargs)


@in_patched_process(in_a_task_and_without)
def test_classes_names_and_errors_after_close():
    import io
    import os
    import pathlib
    import pickle
    import tempfile

    def body():
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "file")
            path.write_text("one\ntwo\nthree\n")
            for file, cls, name in (
                (open(path), io.TextIOWrapper, "TextIOWrapper"),  # noqa: SIM115
                (io.open(path, "rb"), io.BufferedReader, "BufferedReader"),  # noqa: SIM115, UP020
                (path.open("r+b"), io.BufferedRandom, "BufferedRandom"),
                (os.fdopen(os.open(path, os.O_WRONLY), "wb"), io.BufferedWriter, "BufferedWriter"),
                (open(path, "rb", buffering=0), io.FileIO, "FileIO"),  # noqa: SIM115
            ):
                assert isinstance(file, cls)
                assert repr(file).startswith(f"<_io.{name} name=")
                try:
                    pickle.dumps(file)
                except TypeError as error:
                    assert str(error) == f"cannot pickle '_io.{name}' object"  # noqa: PT017
                with file:
                    assert file.fileno() > 2
                assert file.closed
                for call in (file.tell, file.flush, file.fileno, lambda file=file: file.seek(0)):
                    try:
                        call()
                    except ValueError as error:
                        assert "closed file" in str(error)  # noqa: PT017
                    else:
                        raise AssertionError(call)

    in_a_task_and_without(body)


@in_patched_process(in_a_task_and_without)
def test_methods_of_text_files():
    import pathlib
    import tempfile

    def body():
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "file")
            path.write_text("one\ntwo\nthree\n")
            assert path.read_text() == "one\ntwo\nthree\n"
            with open(path) as file:
                assert iter(file) is file
                assert next(file) == "one\n"
                try:
                    file.tell()
                except OSError as error:
                    assert str(error) == "telling position disabled by next() call"  # noqa: PT017
                assert list(file) == ["two\n", "three\n"]
                assert file.seek(4) == 4
                assert file.readlines() == ["two\n", "three\n"]
                file.reconfigure(newline="")
            file = open(path)  # noqa: SIM115
            buffer = file.detach()
            assert buffer.read() == b"one\ntwo\nthree\n"
            buffer.close()
            with open(path, "r+") as file:
                file.seek(3)
                assert file.truncate() == 3
                file.write("!")
            assert path.read_bytes() == b"one!"
            with tempfile.TemporaryFile("w+") as file:
                print("x", 1, file=file)
                file.seek(0)
                assert file.read() == "x 1\n"

    in_a_task_and_without(body)


@in_patched_process(in_a_task_and_without)
def test_methods_of_binary_files():
    import array
    import io
    import os
    import tempfile

    def body():
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"one\ntwo\nthree\n")
            file.flush()
            with open(file.name, "rb") as buffered:
                assert buffered.peek(3)[:3] == b"one"
                assert buffered.read1(2) == b"on"
                numbers = array.array("i", [0, 0])
                assert buffered.readinto(numbers) == 8
                assert numbers.tobytes() == b"e\ntwo\nth"
                try:
                    buffered.write(b"")
                except io.UnsupportedOperation as error:
                    assert str(error) == "write"  # noqa: PT017
            with open(file.name, "rb", buffering=0) as raw:
                assert raw.read(3) == b"one"
                assert raw.readall() == b"\ntwo\nthree\n"
                assert (raw.read(), raw.read(5), raw.readall()) == (b"", b"", b"")
                for call in (lambda: raw.write(b"x"), lambda: raw.readinto(b"xx")):
                    try:
                        call()
                    except (io.UnsupportedOperation, TypeError):
                        pass
                    else:
                        raise AssertionError(call)
            file.write(bytes(1_000_000))
            file.flush()
            with open(file.name, "rb") as big:
                assert len(big.read()) == 1_000_014
        with open("/proc/self/stat") as unsized, open("/proc/self/stat", "rb", buffering=0) as raw:
            assert unsized.read().startswith(str(os.getpid()))
            assert raw.read().startswith(b"%d" % os.getpid())
        with open(os.devnull, "rb") as nothing, open(os.devnull, "w") as nowhere:
            assert (nothing.read(), nowhere.write("x")) == (b"", 1)

    in_a_task_and_without(body)


@in_patched_process()
def test_open_stays_a_function_in_a_class():
    import os
    import pickle

    class Store:
        open_file = open

    Store().open_file(os.devnull).close()
    assert pickle.loads(pickle.dumps(open)) is open


@in_patched_process()
def test_pipes_as_files():
    import os

    from rimstone import sleep, spawn

    reading, writing = os.pipe()
    with open(reading, "rb") as source, open(writing, "wb") as sink:
        reader = spawn(source.read)
        sleep(0)
        writer = spawn(lambda: (sink.write(bytes(500_000)), sink.close()))
        assert reader.get() == bytes(500_000)
        writer.get()
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with open(reading, "rb", buffering=0) as source, open(writing, "w", buffering=1) as sink:
        read = lambda: (source.read(3), source.readall(), source.readinto(bytearray(3)))  # noqa: E731
        assert spawn(read).get() == (None, None, None)
        print("abc", file=sink)
        assert spawn(source.readline).get() == b"abc\n"


@in_patched_process()
def test_files_that_nobody_closes():
    import gc
    import os
    import sys
    import tempfile
    import warnings

    from rimstone import spawn

    name = os.path.join(tempfile.mkdtemp(), "file")

    def body():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for options in ({"mode": "w"}, {"mode": "wb"}, {"mode": "rb", "buffering": 0}):
                file = open(name, **options)  # noqa: SIM115
                line = sys._getframe().f_lineno + 1
                del file
                warning = caught.pop()
                assert warning.category is ResourceWarning
                assert str(warning.message).startswith("unclosed file <_io.")
                assert (warning.lineno, warning.filename) == (line, sys._getframe().f_code.co_filename)

            class Keeper:
                def __del__(self):
                    with open(name, "w") as file:
                        file.write("by the collector")

            keeper = Keeper()
            keeper.itself = keeper
            del keeper
            gc.collect()
            warnings.simplefilter("error")
            told = []
            sys.unraisablehook = told.append
            open(name, "a")  # noqa: SIM115
            assert told[0].exc_type is ResourceWarning
            sys.unraisablehook = sys.__unraisablehook__
        with open(name) as file:
            assert file.read() == "by the collector"

    spawn(spawn, lambda: None)
    spawn(body).get()
    body()


@pytest.mark.parametrize("kept", ["f = file", "c = [file]; c.append(c)", "def f(): return file\nsys.kept = f"])
@pytest.mark.parametrize("tasks", ["", "from rimstone import spawn; spawn(int).get()"])
def test_files_are_flushed_when_the_interpreter_ends(tmp_path, kept, tasks):
    done = run_script(
        "import rimstone.monkey, sys, warnings\n"
        "warnings.simplefilter('ignore')\n"
        f"rimstone.monkey.patch_all(files=True)\n{tasks}\n"
        f"file = open({str(tmp_path / 'file')!r}, 'w')\nfile.write('data')\n{kept}\n"
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert (tmp_path / "file").read_text() == "data"


@in_patched_process()
def test_standard_streams_stay_as_they_are():
    import io
    import sys

    for stream in (sys.stdin, sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        assert repr(type(stream)) == "<class '_io.TextIOWrapper'>"
    assert repr(io.TextIOWrapper) == "<class 'io.TextIOWrapper'>"


@in_patched_process(file_of_lines)
def test_main_program_alone_and_threads_without_tasks_start_no_thread():
    import os
    import threading

    from rimstone import spawn

    def body():
        name = file_of_lines(100_000)
        with open(name) as file:
            assert len(list(file)) == 100_000
        with open(name, "rb") as file:
            assert len(file.read()) > 1_000_000
        os.unlink(name)

    started = []
    start = threading.Thread.start
    threading.Thread.start = lambda self: (started.append(self), start(self))
    body()  # no hub
    spawn(int).get()
    body()  # a hub, and nobody else who could run
    assert not started
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert len([thread for thread in started if thread.name.startswith("rimstone")]) <= 1  # for the join


@pytest.mark.parametrize("encoding", ["", ", encoding='utf-8'"])
def test_warning_about_the_encoding_names_the_callers_line(tmp_path, encoding):
    import subprocess
    import sys

    script = tmp_path / "script.py"
    script.write_text(
        f"import os, rimstone.monkey\nrimstone.monkey.patch_all(files=True)\nopen(os.devnull{encoding}).close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", script], capture_output=True, text=True, timeout=30, check=True
    )
    told = [line for line in done.stderr.splitlines() if "script.py:3: EncodingWarning" in line]
    assert len(told) == (not encoding), done.stderr
