"""Ctrl-C once is enough, and at any bytecode it leaves a pool that still works."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from rimstone import Pool
from rimstone.errors import WorkerDied
from rimstone.testing.calls import Gate, hold, is_running

pytestmark = pytest.mark.slow

PATIENCE = 60.0

# Each call says at the gate that it has started, then sleeps for ever.
SLEEPING = {
    "map": """
        with Pool(processes=2) as pool:
            print(*pids(pool), flush=True)
            list(pool.map(forever, [sys.argv[1]] * 50))
    """,
    "process-map": """
        with ProcessPoolExecutor(2) as pool:
            print(*pids(pool), flush=True)
            list(pool.map(forever, [sys.argv[1]] * 50))
    """,
    "result": """
        with Pool(processes=2) as pool:
            print(*pids(pool), flush=True)
            [pool.submit(forever, sys.argv[1]) for _ in range(50)][0].result()
    """,
    "leaving": """
        with Pool(processes=2) as pool:
            print(*pids(pool), flush=True)
            futures = [pool.submit(forever, sys.argv[1]) for _ in range(50)]
    """,
    "no-block": """
        pool = Pool(processes=2)
        print(*pids(pool), flush=True)
        print(*pool.map(forever, [sys.argv[1]] * 50))
    """,
    "exit": """
        pool = Pool(processes=2)
        print(*pids(pool), flush=True)
        futures = [pool.submit(forever, sys.argv[1]) for _ in range(50)]
    """,
}

HEAD = """
import sys, time
from rimstone import Pool, ProcessPoolExecutor
from rimstone.testing.calls import hold

def forever(path):
    hold(path)
    time.sleep(60)

def pids(pool):
    list(pool.map(abs, range(10)))
    return pool.statistics().pids

"""


@pytest.mark.parametrize("to_group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize("shape", SLEEPING)
def test_one_interrupt_ends_a_program_and_its_workers(shape: str, to_group: bool, tmp_path: Path) -> None:
    """To the whole group is how a terminal sends it; the workers must not take it for theirs."""
    with Gate(tmp_path / "gate") as gate:
        program = subprocess.Popen(
            [sys.executable, "-c", HEAD + textwrap.dedent(SLEEPING[shape]), gate.path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            assert program.stdout is not None
            pids = [int(word) for word in program.stdout.readline().split()]
            assert len(pids) == 2
            gate.wait_for(2)
            gate.open()
            send = os.killpg if to_group else os.kill
            send(program.pid, signal.SIGINT)
            _, errors = program.communicate(timeout=10)  # two seconds are promised; a busy machine may need more
        finally:
            program.kill()
            program.communicate()
        if shape == "exit":
            # It strikes in the exit handler, where there is nobody left to catch it.
            assert program.returncode in (0, -signal.SIGINT)
        else:
            assert program.returncode == -signal.SIGINT
            assert errors.rstrip().endswith("KeyboardInterrupt")
        assert errors.count("Traceback") <= 1
        assert not any(map(is_running, pids))


@pytest.mark.parametrize("name", ["Pool", "ProcessPoolExecutor"])
def test_an_interrupt_that_the_program_survives_touches_neither_workers_nor_calls(name: str, tmp_path: Path) -> None:
    """As in a notebook, or a REPL at a terminal, which sends Ctrl-C to the workers as well."""
    source = f"""
        import os, sys
        from rimstone import {name}
        from rimstone.testing.calls import hold
        pool = {name}(1)
        pid = pool.submit(os.getpid).result()
        future = pool.submit(hold, sys.argv[1], "held")
        try:
            print("waiting", flush=True)
            future.result()
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        assert future.result() == "held"
        assert pool.submit(os.getpid).result() == pid
        pool.shutdown()
        print("well")
    """
    with Gate(tmp_path / "gate") as gate:
        program = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(source).replace("Pool(1)", "Pool(processes=1)"), gate.path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            gate.wait_for(1)
            assert program.stdout is not None
            assert program.stdout.readline() == "waiting\n"
            os.killpg(program.pid, signal.SIGINT)
            assert program.stdout.readline() == "interrupted\n"
            gate.open()
            out, errors = program.communicate(timeout=PATIENCE)
        finally:
            program.kill()
            program.communicate()
        assert (program.returncode, out, errors) == (0, "well\n", "")


STORM = """
    import os, signal, subprocess, sys
    from rimstone import Pool, ProcessPoolExecutor

    def double(x):
        return 2 * x

    pool = Pool(processes=1) if sys.argv[1] == "Pool" else ProcessPoolExecutor(1)
    assert list(pool.map(double, range(10))) == list(range(0, 20, 2))
    before = pool.statistics().pids

    # The default handler, but for this program to survive it strikes no more often than there is a `try` around.
    strikes_left = interrupts = 0

    def strike(number, frame):
        global strikes_left, interrupts
        if strikes_left:
            strikes_left -= 1
            interrupts += 1
            signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, strike)
    # From outside, as Ctrl-C comes: an interval timer would strike at few places only.
    storm = subprocess.Popen([sys.executable, "-c",
        "import os, random, signal, sys, time\\n"
        "rng, pid, end = random.Random(3), int(sys.argv[1]), time.monotonic() + 2\\n"
        "while time.monotonic() < end:\\n"
        "    os.kill(pid, signal.SIGINT)\\n"
        "    time.sleep(rng.random() * 0.0008)\\n", str(os.getpid())])

    def work():
        for future in [pool.submit(double, x) for x in range(3)]:
            assert future.result() % 2 == 0
        for x, y in enumerate(pool.map(double, range(5))):
            assert y == 2 * x
        for outcome in pool.outcomes(double, range(5)):
            assert outcome.unwrap() == 2 * outcome.input
        future = pool.submit(double, 1)
        if not future.cancel():
            assert future.result() == 2

    done = 0
    while storm.poll() is None:
        try:
            try:
                strikes_left = 2
                work()
                strikes_left = 0
                done += 1
            except KeyboardInterrupt:
                strikes_left = 0  # unless the second one was faster
        except KeyboardInterrupt:
            pass
    # What had been accepted when an interrupt struck may still be on its way.
    assert [pool.submit(double, x).result(30) for x in range(100)] == list(range(0, 200, 2))
    assert list(pool.map(double, range(500))) == list(range(0, 1000, 2))
    assert sum(outcome.value for outcome in pool.outcomes(double, range(100))) == 9900
    assert pool.statistics().pids == before, (pool.statistics().pids, before)
    pool.shutdown()
    assert pool.statistics().in_flight == 0, pool.statistics()
    print("interrupts", interrupts, "done", done)
"""


@pytest.mark.parametrize("name", ["Pool", "ProcessPoolExecutor"])
def test_a_pool_survives_a_storm_of_interrupts(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(STORM), name],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[0] == "interrupts"
    assert int(words[1]) > 50


def test_a_second_interrupt_while_workers_end_does_no_harm(tmp_path: Path) -> None:
    """The worker is slow to follow SIGTERM here, so that ending it takes a moment."""
    source = """
        import signal, sys, time
        from rimstone import ProcessPoolExecutor
        from rimstone.testing.calls import hold

        def slow_to_end(path):
            signal.signal(signal.SIGTERM, lambda *_: hold(path))
            hold(path)
            time.sleep(60)

        with ProcessPoolExecutor(1) as pool:
            pool.submit(slow_to_end, sys.argv[1]).result()
    """
    with Gate(tmp_path / "gate") as gate:
        program = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(source), gate.path], stderr=subprocess.PIPE, text=True
        )
        try:
            [pid] = gate.wait_for(1)
            gate.open()
            program.send_signal(signal.SIGINT)
            assert gate.wait_for(1) == [pid]
            program.send_signal(signal.SIGINT)
            program.communicate(timeout=15)
        finally:
            program.kill()
            program.communicate()
        assert program.returncode == -signal.SIGINT
        assert not is_running(pid)


def test_the_pool_is_told_to_end_just_before_it_falls_asleep(tmp_path: Path) -> None:
    """Between the pool thread's last look at what it is asked and its wait for events."""
    pool = Pool(processes=1)
    dispatcher = pool._dispatcher
    with Gate(tmp_path / "gate") as gate:
        future = pool.submit(hold, gate.path)
        gate.wait_for(1)
        while not dispatcher._functions:  # no report of the worker is to wake the thread later
            time.sleep(0.005)
        dispatch, told = dispatcher._dispatch, threading.Event()

        def dispatch_and_be_told() -> None:
            dispatch()
            if not told.is_set():
                told.set()
                dispatcher.close(cancel=True, abandon=True)

        dispatcher._dispatch = dispatch_and_be_told  # type: ignore[method-assign]
        dispatcher._wake()
        assert isinstance(future.exception(PATIENCE), WorkerDied)
    pool.shutdown()
