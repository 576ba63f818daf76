"""The flow of `rimstone map`: lazy, prompt, nothing finished is lost, whatever happens at either end."""

import contextlib
import errno
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from rimstone.cli.interrupts import Interrupts
from rimstone.cli.lines import EndOfInput, Line, LineReader
from rimstone.cli.output import Output, OutputFailed
from rimstone.cli.pipeline import Counts, InputFailed, map_lines

COMMAND = [sys.executable, "-m", "rimstone"]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's two ends; a test may close them."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):  # the test has closed it
            os.close(end)


out_pipe = pipe


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rimstone-map-reader"]


def run_map(pool: Executor, fn: Callable[[Any], Any], input_fd: int, output_fd: int, max_in_flight: int = 8) -> Counts:
    counts = Counts()
    map_lines(pool, fn, input_fd, output_fd, as_json=False, max_in_flight=max_in_flight, counts=counts)
    return counts


def test_results_are_written_while_the_next_line_is_awaited(
    pool: ThreadPoolExecutor, pipe: tuple[int, int], out_pipe: tuple[int, int]
) -> None:
    """As with `tail -f x | rimstone map`: each answer comes before the next line is even written."""
    answers = []

    def converse() -> None:
        for word in (b"one", b"two", b"three"):
            os.write(pipe[1], word + b"\n")
            answers.append(json.loads(os.read(out_pipe[0], 4096))["value"])
        os.close(pipe[1])

    other = threading.Thread(target=converse)
    other.start()
    counts = run_map(pool, str.upper, pipe[0], out_pipe[1])
    other.join()
    assert answers == ["ONE", "TWO", "THREE"]
    assert (counts.done, counts.failed, counts.in_flight, counts.done_bytes) == (3, 0, 0, 14)


def test_no_more_is_read_than_is_worked_on(pipe: tuple[int, int]) -> None:
    """With all slots taken, the reader keeps one chunk and leaves the rest in the pipe."""
    lines: queue.SimpleQueue[Line | EndOfInput] = queue.SimpleQueue()
    os.write(pipe[1], b"1\n2\n3\n4\n5\n")
    with LineReader(pipe[0], lines.put, 2) as reader:
        assert [lines.get(timeout=10), lines.get(timeout=10)] == [Line(1, "1", 2), Line(2, "2", 2)]
        assert lines.empty()
        reader.finish_one()
        assert lines.get(timeout=10) == Line(3, "3", 2)
        assert lines.empty()
    assert not reader_threads(), "leaving the block stops the thread, though it waits for a slot"


def test_the_reader_stops_while_it_waits_for_a_line(pipe: tuple[int, int]) -> None:
    with LineReader(pipe[0], lambda _event: None, 2):
        pass
    assert not reader_threads()


def test_an_input_that_cannot_be_read_on_keeps_what_was_done(
    pool: ThreadPoolExecutor, pipe: tuple[int, int], out_pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = iter([b"a\nb\n"])
    real_read = os.read

    def read(fd: int, size: int) -> bytes:
        if fd != pipe[0]:
            return real_read(fd, size)
        for chunk in chunks:
            return chunk
        raise OSError(errno.EIO, "Input/output error")

    os.write(pipe[1], b"x")  # so that select finds it ready
    monkeypatch.setattr(os, "read", read)
    with pytest.raises(InputFailed) as failed:
        run_map(pool, str.upper, pipe[0], out_pipe[1])
    assert failed.value.error.errno == errno.EIO
    records = real_read(out_pipe[0], 4096).splitlines()
    assert sorted(json.loads(record)["value"] for record in records) == ["A", "B"]


def test_a_reader_that_went_away(pool: ThreadPoolExecutor, pipe: tuple[int, int], out_pipe: tuple[int, int]) -> None:
    os.close(out_pipe[0])
    os.write(pipe[1], b"a\n")
    with pytest.raises(OutputFailed) as failed:
        run_map(pool, str.upper, pipe[0], out_pipe[1])
    assert isinstance(failed.value.error, BrokenPipeError)


def test_lines_longer_than_a_pipe_come_out_whole(
    pool: ThreadPoolExecutor, pipe: tuple[int, int], out_pipe: tuple[int, int]
) -> None:
    received = bytearray()

    def drain() -> None:
        while data := os.read(out_pipe[0], 1 << 16):
            received.extend(data)

    other = threading.Thread(target=drain)
    other.start()
    os.write(pipe[1], b"a\nb\nc\n")
    os.close(pipe[1])
    run_map(pool, lambda text: text * 300_000, pipe[0], out_pipe[1])
    os.close(out_pipe[1])
    other.join()
    assert sorted(len(json.loads(line)["value"]) for line in received.splitlines()) == [300_000] * 3


def test_ctrl_c_writes_what_has_finished(
    pool: ThreadPoolExecutor, pipe: tuple[int, int], out_pipe: tuple[int, int]
) -> None:
    """Ctrl-C strikes while one call has finished, another one has not, and the input is still open."""
    release = threading.Event()

    def fn(text: str) -> str:
        if text == "slow":
            os.kill(os.getpid(), signal.SIGINT)
            release.wait(30)
        return text

    os.write(pipe[1], b"quick\nslow\n")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_map(pool, fn, pipe[0], out_pipe[1])
    release.set()
    assert signal.getsignal(signal.SIGINT) is before
    assert json.loads(os.read(out_pipe[0], 4096)) == {"input": "quick", "value": "quick"}


class PoolByHand(Executor):
    """Completes the calls before "last", and presses Ctrl-C, while "last" is being submitted."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def submit(self, _fn: Callable[..., Any], /, *args: Any, **_kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if args == ("last",):
            for earlier in self.futures:
                earlier.set_result("finished")
            signal.raise_signal(signal.SIGINT)
        self.futures.append(future)
        return future


def test_results_that_wait_in_the_queue_when_ctrl_c_strikes_are_written(
    pipe: tuple[int, int], out_pipe: tuple[int, int]
) -> None:
    os.write(pipe[1], b"a\nb\nlast\n")
    with pytest.raises(KeyboardInterrupt):
        run_map(PoolByHand(), str.upper, pipe[0], out_pipe[1])
    os.close(out_pipe[1])
    records = [json.loads(line) for line in os.read(out_pipe[0], 4096).splitlines()]
    assert records == [{"input": "a", "value": "finished"}, {"input": "b", "value": "finished"}]


def test_ctrl_c_breaks_a_write_that_nobody_reads(
    pool: ThreadPoolExecutor, pipe: tuple[int, int], out_pipe: tuple[int, int]
) -> None:
    """As with `rimstone map ... | less`: the pipe is full, and the one who should empty it sits and looks."""
    main_waits = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    main_waits.start()
    os.write(pipe[1], b"a\n")
    with pytest.raises(KeyboardInterrupt):
        run_map(pool, lambda text: text * 500_000, pipe[0], out_pipe[1])
    main_waits.join()


def test_a_line_broken_off_by_ctrl_c_goes_on_where_it_stopped(out_pipe: tuple[int, int]) -> None:
    line = bytes(range(32, 127)) * 2000 + b"\n"
    with Interrupts(lambda: None) as interrupts:
        output = Output(out_pipe[1], interrupts)
        output.add(line)
        strike = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        strike.start()
        with pytest.raises(KeyboardInterrupt):
            output.flush()
        strike.join()
        received = bytearray()
        while len(received) < len(line):
            received += os.read(out_pipe[0], 1 << 16)
            output.flush(timeout=0)
    assert received == line


def test_short_lines_are_never_torn_between_writes(out_pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Several writers may share a pipe (`xargs -P`); what fits into one atomic write goes in one."""
    writes: list[bytes] = []
    real_write = os.write

    def write(fd: int, data: memoryview) -> int:
        writes.append(bytes(data))
        return real_write(fd, data)

    monkeypatch.setattr(os, "write", write)
    with Interrupts(lambda: None) as interrupts:
        output = Output(out_pipe[1], interrupts)
        for _ in range(30):
            output.add(b"x" * 999 + b"\n")
        output.flush()
    assert len(writes) > 1
    assert all(len(piece) % 1000 == 0 for piece in writes)


class TestWithWorkers:
    """The whole program, as a user runs it."""

    pytestmark = pytest.mark.usefixtures("real_pool")

    def test_a_plain_run(self, in_child: Callable[..., Any]) -> None:
        result = in_child("map", "work.py:divide", stdin=b"5\n0\nx\n")
        assert result.code == 1
        assert [record.get("value") for record in result.records] == [None, 20, None]
        assert result.err == ""

    @pytest.mark.parametrize("options", [[], ["--out", "out.jsonl"]])
    def test_prints_reach_stderr(self, in_child: Callable[..., Any], functions: Path, options: list[str]) -> None:
        functions.write_text("import os\nprint('imported')\nos.system('echo at import')\n" + functions.read_text())
        result = in_child("map", "work.py:talk", *options, stdin=b"a\n")
        out = (functions.parent / "out.jsonl").read_text() if options else result.out
        assert out == '{"input": "a", "value": "a"}\n'
        printed = {"imported", "at import", "talking about a", "a child process talks"}
        assert printed <= set(result.err.splitlines())

    def test_a_file_whose_name_is_taken(self, in_child: Callable[..., Any], functions: Path) -> None:
        functions.rename(functions.parent / "random.py")
        result = in_child("map", "random.py:upper", "--processes", "2", stdin=b"a\nb\n")
        assert (result.code, result.err) == (0, "")
        assert [record["value"] for record in result.records] == ["A", "B"]

    def test_head(self, functions: Path) -> None:
        """`rimstone map | head -1` on an endless input ends by itself, quietly."""
        producer = subprocess.Popen(["yes"], stdout=subprocess.PIPE)
        assert producer.stdout is not None
        with subprocess.Popen(
            [*COMMAND, "map", "work.py:upper"], stdin=producer.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child:
            producer.stdout.close()
            assert child.stdout is not None
            assert child.stderr is not None
            assert json.loads(child.stdout.readline()) == {"input": "y", "value": "Y"}
            child.stdout.close()
            assert child.stderr.read() == b""
            assert child.wait(30) == 141
        producer.wait(30)

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
    @pytest.mark.parametrize("how", ["--out", "stdout"])
    def test_a_full_disk(self, functions: Path, how: str) -> None:
        options = ["--out", "/dev/full"] if how == "--out" else []
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*COMMAND, "map", "work.py:upper", *options],
                input=b"a\nb\n",
                stdout=full,
                stderr=subprocess.PIPE,
                timeout=60,
                check=False,
            )
        assert done.returncode == 1
        assert done.stderr.decode().startswith("rimstone: stopped, because the results")
        assert b"No space left on device" in done.stderr
        assert b"Traceback" not in done.stderr

    def test_ctrl_c_once_is_enough(self, functions: Path) -> None:
        with subprocess.Popen(
            [*COMMAND, "map", "work.py:linger"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdin.write(b"0\n600\n600\n")
            child.stdin.flush()
            assert json.loads(child.stdout.readline())["value"] == "0"
            workers = children_of(child.pid)
            child.send_signal(signal.SIGINT)
            assert child.wait(10) == 130
            assert child.stdout.read() == b""
            assert b"Traceback" not in child.stderr.read()
        assert not [pid for pid in workers if is_running(pid)]

    @pytest.mark.slow
    def test_memory_stays_bounded_on_a_long_input(self, functions: Path) -> None:
        """200,000 lines need hardly more memory than 2,000."""
        short, long = (self.peak_kib(functions, lines) for lines in (2_000, 200_000))
        assert long - short < 20_000, f"{short} KiB for 2,000 lines, {long} KiB for 200,000"

    @staticmethod
    def peak_kib(functions: Path, lines: int) -> int:
        """Peak resident memory of a run over *lines* lines of 100 bytes, through a pipe."""
        measure = (
            "import resource, sys\n"
            "from rimstone.cli import main\n"
            "try:\n"
            "    main(sys.argv[1:])\n"
            "finally:\n"
            "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", measure, "map", "work.py:upper", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stderr is not None
            sink = child.stdin

            def feed() -> None:
                for _ in range(0, lines, 1000):
                    sink.write((b"x" * 99 + b"\n") * 1000)
                sink.close()

            feeder = threading.Thread(target=feed)
            feeder.start()
            written = sum(1 for _line in child.stdout)
            feeder.join()
            peak = int(child.stderr.read().split()[-1])
            child.stdin = None  # closed by the feeder
            assert child.wait(60) == 0
        assert written == lines
        return peak // 1024 if sys.platform == "darwin" else peak


def children_of(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def is_running(pid: int) -> bool:
    try:
        psutil.Process(pid).wait(2)
    except psutil.NoSuchProcess:
        return False
    except psutil.TimeoutExpired:
        return True
    return False
