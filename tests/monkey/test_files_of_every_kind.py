"""What stands on `open` and descriptors works in a task and beside tasks: as it does without patching."""

import pytest

from rimstone.testing.patched import in_patched_process, run_script


def in_a_task(body):
    """Run it in a task that has a sibling, then in a thread without tasks."""
    import threading

    from rimstone import sleep, spawn

    spawn(sleep, 60)
    spawn(body).get()
    errors = []

    def run():
        try:
            body()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not errors, errors


@in_patched_process(in_a_task)
def test_modules_that_read_and_write_files():
    import csv
    import gzip
    import json
    import logging
    import mmap
    import os
    import pathlib
    import shutil
    import sqlite3
    import tempfile
    import tomllib
    import zipfile

    def body():
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "file")
            path.write_text('x = [1, 2]\n"' + "k" * 300_000 + '" = 3\n')
            with path.open("rb") as file:
                assert tomllib.load(file)["x"] == [1, 2]
            with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
                assert mapped[:1] == b"x"
            with zipfile.ZipFile(f"{folder}/zip", "w") as archive:
                archive.write(path, "inside")
            with zipfile.ZipFile(f"{folder}/zip") as archive, archive.open("inside") as file:
                assert file.read() == path.read_bytes()
            with gzip.open(f"{folder}/gz", "wt") as file:
                file.write("zipped\n" * 9)
            with gzip.open(f"{folder}/gz", "rt") as file:
                assert list(file) == ["zipped\n"] * 9
            with open(f"{folder}/csv", "w", newline="") as file:
                csv.writer(file).writerows([[1, "a,b"]] * 2000)
            with open(f"{folder}/csv", newline="") as file:
                assert len(list(csv.reader(file))) == 2000
            with open(f"{folder}/json", "w") as file:
                json.dump({"k": [1] * 9999}, file)
            with open(f"{folder}/json") as file:
                assert len(json.load(file)["k"]) == 9999
            shutil.copytree(folder, f"{folder}-copy")
            assert sorted(os.listdir(folder)) == sorted(os.listdir(f"{folder}-copy"))
            shutil.rmtree(f"{folder}-copy")
            sqlite3.connect(f"{folder}/db").close()
            handler = logging.FileHandler(f"{folder}/log")
            logger = logging.getLogger("logger")
            logger.propagate = False
            logger.addHandler(handler)
            for number in range(100):
                logger.error("line %d", number)
            logger.removeHandler(handler)
            handler.close()
            assert len(pathlib.Path(folder, "log").read_text().splitlines()) == 100

    in_a_task(body)


@in_patched_process(in_a_task)
def test_devices_folders_and_direct_io():
    import mmap
    import os
    import tempfile

    def body():
        with open("/dev/zero", "rb") as file:
            assert file.read(5) == bytes(5)
        with open("/dev/urandom", "rb", buffering=0) as file:
            assert len(file.read(5)) == 5
        with open("/proc/self/cmdline", "rb") as file:
            assert file.read()
        try:
            with open("/dev/full", "w") as file:
                file.write("x" * 10)
        except OSError as error:
            assert error.errno == 28  # noqa: PT017
        else:
            raise AssertionError("the disk was not full")
        folder = os.open("/", os.O_RDONLY)
        try:
            os.fsync(folder)
            os.read(folder, 1)
        except IsADirectoryError:
            pass
        finally:
            os.close(folder)
        with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
            try:
                direct = os.open(file.name, os.O_RDWR | os.O_DIRECT)
            except OSError:
                return  # this file system has none
            page = mmap.mmap(-1, 8192)
            page[:] = b"d" * 8192
            assert os.write(direct, page) == 8192
            page[:] = bytes(8192)
            assert os.preadv(direct, [page], 0) == 8192
            assert page[:] == b"d" * 8192
            os.close(direct)

    in_a_task(body)


@in_patched_process(in_a_task)
def test_copies_and_types():
    import copy
    import io
    import os
    import pickle
    import tempfile

    def body():
        with tempfile.TemporaryFile("w+") as file, io.open_code(os.__file__) as code:
            assert isinstance(code, io.BufferedReader)  # a native one
            assert isinstance(file, io.TextIOBase)
            assert isinstance(file.buffer, io.BufferedIOBase)
            assert isinstance(file.buffer.raw, io.RawIOBase)
            for thing in (file, file.buffer, file.buffer.raw):
                for call in (copy.copy, copy.deepcopy, pickle.dumps):
                    try:
                        call(thing)
                    except TypeError as error:
                        assert "cannot pickle '_io." in str(error)  # noqa: PT017
                    else:
                        raise AssertionError(call)

    in_a_task(body)


@in_patched_process()
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing_in_a_task(method):
    import multiprocessing
    import os

    from rimstone import sleep, spawn

    def body():
        context = multiprocessing.get_context(method)
        here, there = context.Pipe()
        process = context.Process(target=os.write, args=(there.fileno(), b"x")) if method == "fork" else None
        if process is None:
            process = context.Process(target=print, args=("in the child",))
        process.start()
        process.join()
        assert process.exitcode == 0
        if method == "fork":
            assert os.read(here.fileno(), 9) == b"x"

    spawn(sleep, 60)
    spawn(body).get()


@in_patched_process()
def test_child_of_a_fork_is_told_that_a_task_of_its_parent_is_in_the_file():
    import os

    from rimstone import sleep, spawn

    reading, writing = os.pipe()
    file = open(reading, "rb")  # noqa: SIM115
    reader = spawn(file.read, 5)
    sleep(0)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            file.read(1)
        except RuntimeError as error:
            code = 0 if "open the file anew" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.write(writing, b"12345")
    assert reader.get() == b"12345"
    file.close()
    os.close(writing)


@in_patched_process()
def test_thread_is_told_that_a_task_of_one_that_has_ended_is_in_the_file():
    import os
    import threading

    import pytest

    from rimstone import sleep, spawn

    reading, writing = os.pipe()
    file = open(reading, "rb")  # noqa: SIM115

    def read_on():
        while True:
            try:
                file.read(5)
            except BaseException:  # it will not be killed
                pass

    def leave_reader():
        spawn(read_on)
        sleep(0)

    thread = threading.Thread(target=leave_reader)
    thread.start()
    thread.join()
    with pytest.raises(RuntimeError, match="its thread ended; open the file anew"):
        file.read(1)
    os.close(writing)


def test_child_of_a_fork_ends_although_a_task_of_its_parent_is_in_a_file():
    done = run_script("""
import rimstone.monkey
rimstone.monkey.patch_all()
import os, sys
from rimstone import sleep, spawn
reading, writing = os.pipe()
file = open(reading, "rb")
reader = spawn(file.read, 5)
sleep(0)
pid = os.fork()
if not pid:
    sys.exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
os.write(writing, b"12345")
assert reader.get() == b"12345"
file.close()
os.close(writing)
""")
    assert (done.returncode, done.stderr) == (0, "")


def test_opened_before_patching_and_run_by_runpy(tmp_path):
    (tmp_path / "before").write_text("before\n")
    (tmp_path / "script.py").write_text("with open(__file__) as file: TEXT = file.read()\n")
    done = run_script(f"""
before = open({str(tmp_path / "before")!r})
import rimstone.monkey
rimstone.monkey.patch_all()
import runpy
from rimstone import sleep, spawn
spawn(sleep, 60)
assert spawn(before.read).get() == "before\\n"
before.close()
found = spawn(runpy.run_path, {str(tmp_path / "script.py")!r}).get()
assert found["TEXT"].startswith("with open")
""")
    assert (done.returncode, done.stderr) == (0, "")


def test_standard_input_and_output_of_a_task(tmp_path):
    import subprocess
    import sys

    script = (
        "import rimstone.monkey\nrimstone.monkey.patch_all()\nimport sys\nfrom rimstone import sleep, spawn\n"
        "spawn(sleep, 60)\nspawn(lambda: print(sys.stdin.read().upper(), file=sys.stderr)).get()\n"
        "print('x' * 100_000)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input="some lines\n", capture_output=True, text=True, timeout=30, check=True
    )
    assert (done.stderr, len(done.stdout)) == ("SOME LINES\n\n", 100_001)
