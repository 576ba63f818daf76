"""map: order, laziness and ends, beyond what the executor contract says of every pool; and what mypy sees of it."""

import concurrent.futures
import gc
import importlib.util
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rimstone import errors
from rimstone.pools.mapping import LazyCalls, lookahead
from rimstone.pools.thread import ThreadPoolExecutor

PATIENCE = 30.0


@settings(max_examples=40, deadline=None)
@given(length=st.integers(0, 30), buffersize=st.integers(1, 12), workers=st.integers(1, 4), taken=st.integers(0, 30))
def test_order_and_bound_for_any_sizes(length: int, buffersize: int, workers: int, taken: int) -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for item in range(length):
            read += 1
            yield item

    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda x: x * x, items(), buffersize=buffersize)
        for number in range(min(taken, length)):
            assert read - number <= buffersize
            assert next(results) == number * number
        assert read <= min(length, taken + buffersize)
    assert read == length
    assert list(results) == [x * x for x in range(taken, length)]


def test_lookahead_keeps_a_spare_for_each_slot_but_not_without_end() -> None:
    assert [lookahead(capacity) for capacity in (1, 10, 256, 4000)] == [2, 20, 512, 4256]


def test_yielded_results_are_not_kept() -> None:
    class Big:
        pass

    with ThreadPoolExecutor(1) as pool:
        results = pool.map(lambda _: Big(), range(3))
        watched = weakref.ref(next(results))
        pool.submit(abs, 1).result(PATIENCE)
        gc.collect()
        assert watched() is None
        results.close()


def test_a_slow_head_does_not_idle_the_other_threads() -> None:
    release = threading.Event()
    others = threading.Semaphore(0)

    def work(x: int) -> int:
        if x == 0:
            release.wait(PATIENCE)
        else:
            others.release()
        return x

    with ThreadPoolExecutor(2) as pool:
        results = pool.map(work, range(4))
        for _ in range(3):
            assert others.acquire(timeout=PATIENCE)
        release.set()
        assert list(results) == [0, 1, 2, 3]


def test_a_failed_call_cancels_the_ones_behind_it() -> None:
    started, release = threading.Event(), threading.Event()
    ran: list[int] = []

    def work(x: int) -> None:
        ran.append(x)
        if x == 0:
            raise ValueError
        started.set()
        release.wait(PATIENCE)

    with ThreadPoolExecutor(1) as pool:
        results = pool.map(work, range(10), buffersize=5)
        with pytest.raises(ValueError):
            next(results)
        release.set()
    assert set(ran) <= {0, 1}


def test_keyboard_interrupt_from_the_input_closes_the_map() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2, 3)
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as pool:
        results = pool.map(abs, items(), buffersize=1)
        assert [next(results) for _ in range(3)] == [1, 2, 3]
        with pytest.raises(KeyboardInterrupt):
            next(results)
        assert list(results) == []
        with pytest.raises(KeyboardInterrupt):
            pool.map(abs, items(), buffersize=10)
        assert not pool._maps


def test_closing_drops_a_generator_that_nobody_else_holds() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    with ThreadPoolExecutor(1) as pool:
        with pool.map(abs, items()) as results:
            assert next(results) == 1
        assert closed.is_set()


def test_an_iterator_is_used_after_the_pool_is_gone() -> None:
    pool = ThreadPoolExecutor(1)
    results = pool.map(abs, range(10), buffersize=2)
    del pool
    assert list(results) == list(range(10))


def test_shutdown_in_another_thread_cancels_a_map_that_is_read() -> None:
    gate = threading.Event()
    pool = ThreadPoolExecutor(1)
    results = pool.map(lambda _: gate.wait(PATIENCE), iter(int, 1), buffersize=3)

    def end() -> None:
        pool.shutdown(wait=False, cancel_futures=True)
        gate.set()

    ender = threading.Thread(target=end)
    ender.start()
    with pytest.raises(concurrent.futures.CancelledError):
        for _ in results:
            pass
    ender.join()
    pool.shutdown()


def test_leaving_submits_no_more_than_the_lookahead_at_a_time() -> None:
    ended: list[int] = []
    peak = 0

    def items() -> Iterator[int]:
        nonlocal peak
        for item in range(200):
            peak = max(peak, item + 1 - len(ended))
            yield item

    def work(x: int) -> int:
        ended.append(x)
        return x

    with ThreadPoolExecutor(2) as pool:
        results = pool.map(work, items(), buffersize=4)
    assert peak <= 4
    assert list(results) == list(range(200))


def test_leaving_keeps_no_results_that_nobody_can_ask_for() -> None:
    class Big:
        alive = 0

        def __init__(self, _: int) -> None:
            type(self).alive += 1

        def __del__(self) -> None:
            type(self).alive -= 1

    peak = 0

    def items() -> Iterator[int]:
        nonlocal peak
        for item in range(200):
            peak = max(peak, Big.alive)
            yield item

    with ThreadPoolExecutor(1) as pool:
        pool.map(Big, items(), buffersize=2)
    assert peak <= 8


def test_an_error_of_the_input_is_not_lost_when_the_iterator_is_gone_early() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"), ThreadPoolExecutor(1) as pool:
        pool.map(abs, items())


def test_a_broken_pool_ends_a_map_and_reads_no_further() -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for item in range(100):
            read += 1
            yield item

    def initialize() -> None:
        raise OSError("no database")

    pool = ThreadPoolExecutor(1, initializer=initialize)
    with pytest.raises(errors.InitializerFailed, match="no database"):
        pool.submit(abs, 1).result(PATIENCE)
    with pytest.raises(errors.InitializerFailed, match="no database"):
        next(pool.map(abs, items()))
    assert read == 1
    with pytest.raises(errors.InitializerFailed, match="no database"), pool:
        pool.map(abs, items())  # nobody iterates: leaving says it
    assert read == 2


def test_a_map_that_ends_while_shutdown_looks_for_the_next_one() -> None:
    class TakenOut(set[LazyCalls[Any, Any]]):
        """In the midst of iterating, a map goes, as when its consumer in another thread closes it."""

        def __iter__(self) -> Iterator[LazyCalls[Any, Any]]:
            iterator = super().__iter__()
            pool._maps.discard(first._calls)
            return iterator

    with ThreadPoolExecutor(1) as pool:
        first, second = (pool.map(abs, range(5), buffersize=1) for _ in range(2))
        pool._maps = TakenOut(pool._maps)
        first.close()
        pool._maps.add(first._calls)
        pool.shutdown()
        assert list(second) == [0, 1, 2, 3, 4]


def test_in_a_forked_child_leaving_the_pool_finishes_no_map() -> None:
    script = """
        import os, signal, sys, threading
        from rimstone.pools.thread import ThreadPoolExecutor
        gate = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            results = pool.map(lambda item: gate.wait(30) and item, [1, 2, 3], buffersize=1)
            child = os.fork()
            if child == 0:
                signal.alarm(20)
            else:
                print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
                gate.set()
        if child == 0:
            sys.exit(7)
        print(list(results))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "7\n[1, 2, 3]\n", done.stderr


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_types_are_right(tmp_path: Path) -> None:
    file = tmp_path / "typed.py"
    file.write_text(
        textwrap.dedent("""
        import concurrent.futures
        from typing import assert_type
        from rimstone._outcome import Outcome
        from rimstone.pools.future import Future
        from rimstone.pools.thread import ThreadPoolExecutor

        def fetch(url: str, retries: int = 3) -> bytes: return b""
        def length(url: str) -> int: return 0

        with ThreadPoolExecutor() as pool:
            assert_type(pool.submit(fetch, "u", retries=1), Future[bytes])
            assert_type(pool.submit(fetch, "u").result(), bytes)
            assert_type(pool.options(level="thread").submit(length, "u"), Future[int])
            for page in pool.map(length, ["u"]):
                assert_type(page, int)
            for page2 in pool.map(fetch, ["u"], [1]):
                assert_type(page2, bytes)
            for outcome in pool.outcomes(length, ["u"]):
                assert_type(outcome, Outcome[int])
            executor: concurrent.futures.Executor = pool
            for done in concurrent.futures.as_completed([pool.submit(length, "u")]):
                assert_type(done.result(), int)
            pool.submit(fetch, 5)  # wrong type
            pool.submit(fetch, "u", retry=1)  # wrong argument
            pool.map(length, [5])  # wrong item
            pool.options(level="fiber")  # wrong level
        """).lstrip()
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(file)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    errors = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    wrong = {number for number, line in enumerate(file.read_text().splitlines(), 1) if "# wrong" in line}
    assert len(wrong) == 4
    assert errors == wrong, done.stdout + done.stderr
