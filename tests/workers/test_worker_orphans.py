"""No orphan, ever: workers end when their pool or its process ends, in whatever way that happens."""

import contextlib
import gc
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from rimstone import Pool, ProcessPoolExecutor
from rimstone.pools.process import ProcessBackedExecutor
from rimstone.testing.calls import Gate, hold, is_running

pytestmark = pytest.mark.slow

PATIENCE = 30.0
SOON = 10.0  # two seconds are promised; a busy machine may need more


class Program:
    """A Python program that tells the process ids of its workers on stdout."""

    def __init__(self, source: str, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(source), *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self.pidfds: dict[int, int] = {}

    def read_pids(self) -> list[int]:
        assert self.process.stdout is not None
        pids = [int(word) for word in self.process.stdout.readline().split()]
        self.pidfds = {pid: os.pidfd_open(pid) for pid in pids}
        return pids

    def wait_for_workers_to_end(self) -> None:
        for pid, fd in self.pidfds.items():
            assert select.select([fd], [], [], SOON)[0], f"worker {pid} has become an orphan"

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        for pid, fd in self.pidfds.items():
            if is_running(pid):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)


@contextlib.contextmanager
def running(source: str, *args: str) -> Iterator[Program]:
    program = Program(source, *args)
    try:
        yield program
    finally:
        program.close()


IDLE = """
    import os, signal
    from rimstone import Pool, ProcessPoolExecutor
    a, b = Pool(processes=2), ProcessPoolExecutor(1)
    a.submit(abs, 1).result(), b.submit(abs, 1).result()
    print(*a.statistics().pids, *b.statistics().pids, flush=True)
    signal.pause()
"""

# A regular expression that takes for ever holds the interpreter lock all the time.
COMPUTING_IN_C = """
    import os, re, signal, sys
    from rimstone import Pool
    from rimstone.testing.calls import hold
    def stuck(path):
        hold(path)
        re.match("(a+)+$", "a" * 60 + "b")
    pool = Pool(processes=1)
    future = pool.submit(stuck, sys.argv[1])
    print(pool.submit(os.getpid).result(), flush=True)
    signal.pause()
"""

# The kernel's "tell me when my parent ends" really means the thread that started the process.
STARTED_IN_A_THREAD = """
    import os, signal, sys, threading
    from rimstone import Pool
    from rimstone.testing.calls import hold
    pools = []
    def start():
        pools.append(Pool(processes=1))
        pools[0].submit(hold, sys.argv[1], "held")
        print(pools[0].submit(os.getpid).result(), flush=True)
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    print(pools[0].submit(os.getpid).result(), flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_idle_workers_end_with_a_killed_parent(number: int) -> None:
    with running(IDLE) as program:
        assert len(program.read_pids()) == 3
        program.process.send_signal(number)
        program.wait_for_workers_to_end()


def test_a_worker_that_computes_in_c_ends_with_a_killed_parent(tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate, running(COMPUTING_IN_C, gate.path) as program:
        pids = program.read_pids()
        assert gate.wait_for(1) == pids
        gate.open()
        program.process.kill()
        program.wait_for_workers_to_end()


def test_workers_outlive_the_thread_that_made_the_pool_and_end_with_the_process(tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate, running(STARTED_IN_A_THREAD, gate.path) as program:
        pids = program.read_pids()
        assert gate.wait_for(1) == pids
        assert program.process.stdout is not None
        assert [int(program.process.stdout.readline())] == pids
        program.process.kill()
        program.wait_for_workers_to_end()


def test_workers_end_when_the_parent_leaves_by_os_exit() -> None:
    with running(IDLE.replace("signal.pause()", "os._exit(3)")) as program:
        program.read_pids()
        assert program.process.wait(PATIENCE) == 3
        program.wait_for_workers_to_end()


@pytest.mark.parametrize("name", ["Pool", "ProcessPoolExecutor"])
def test_a_program_that_ends_without_shutdown_finishes_its_calls(name: str, tmp_path: Path) -> None:
    source = f"""
        import sys, time
        from rimstone import {name}
        from rimstone.testing.calls import record
        pool = {name}(1) if {name!r} == "ProcessPoolExecutor" else {name}(processes=1)
        print(pool.submit(__import__("os").getpid).result(), flush=True)
        for number in range(50):
            pool.submit(record, sys.argv[1], number)
    """
    path = tmp_path / "ran"
    path.touch()
    with running(source, str(path)) as program:
        [pid] = program.read_pids()
        assert program.process.wait(PATIENCE) == 0
        assert not is_running(pid)
        assert program.process.stderr is not None
        assert program.process.stderr.read() == ""
    assert sorted(map(int, path.read_text().split())) == list(range(50))


def test_calls_submitted_as_the_last_thing_of_a_program_run() -> None:
    source = """
        import os
        from rimstone import Pool
        pool = Pool(processes=1)
        pool.submit(os.getpid).add_done_callback(lambda future: print(future.result(), flush=True))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not is_running(int(done.stdout))


@pytest.mark.parametrize("cls", [Pool, ProcessPoolExecutor])
def test_a_pool_that_is_garbage_ends_its_workers(cls: type[ProcessBackedExecutor]) -> None:
    pool = cls(1) if cls is ProcessPoolExecutor else cls(processes=1)  # type: ignore[call-arg]
    pid = pool.submit(os.getpid).result(PATIENCE)
    fd = os.pidfd_open(pid)
    last = pool.submit(abs, -1)
    del pool
    gc.collect()
    assert last.result(PATIENCE) == 1
    assert select.select([fd], [], [], PATIENCE)[0]
    os.close(fd)


def test_an_exception_that_leaves_the_block_cancels_what_has_not_started(tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate:
        with pytest.raises(KeyError), ProcessPoolExecutor(1) as pool:
            started = pool.submit(hold, gate.path, "held")
            gate.wait_for(1)
            others = [pool.submit(abs, -1) for _ in range(2000)]
            started.add_done_callback(lambda _: None)
            gate.open()
            raise KeyError
        assert started.result(0) == "held"
        assert all(future.done() for future in others)
        assert sum(future.cancelled() for future in others) > 1000
        assert pool.statistics().pids == ()


@pytest.mark.parametrize("wait", [True, False])
def test_shutdown_ends_workers_and_leaves_no_grandchild_of_ours(wait: bool) -> None:
    pool = Pool(processes=2)
    pids = {pool.submit(os.getpid).result(PATIENCE) for _ in range(5)}
    fds = [os.pidfd_open(pid) for pid in pids]
    pool.shutdown(wait=wait)
    for fd in fds:
        assert select.select([fd], [], [], 0 if wait else PATIENCE)[0]
        os.close(fd)
    pool.shutdown()
