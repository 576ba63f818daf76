"""outcomes: as the calls finish, one bad input ends nothing; beyond what the executor contract says of every pool."""

import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from rimstone import errors
from rimstone.pools.executor import CallOptions
from rimstone.pools.future import Future
from rimstone.pools.mapping import Completions
from rimstone.pools.thread import ThreadPoolExecutor

PATIENCE = 30.0
T = TypeVar("T")


def test_the_first_to_finish_comes_first() -> None:
    gates = [threading.Event() for _ in range(3)]

    def work(x: int) -> int:
        gates[x].wait(PATIENCE)
        return x

    with ThreadPoolExecutor(3) as pool:
        outcomes = pool.outcomes(work, range(3))
        for x in (2, 0, 1):
            gates[x].set()
            assert next(outcomes).input == x
        assert next(outcomes, None) is None


def test_what_is_there_is_yielded_before_the_next_input_is_read() -> None:
    second_read = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        second_read.set()
        yield 2

    with ThreadPoolExecutor(1) as pool:
        outcomes = pool.outcomes(abs, items(), buffersize=1)
        pool.submit(abs, 1).result(PATIENCE)  # the one thread has then finished the first call
        assert next(outcomes).value == 1
        assert not second_read.is_set()
        assert next(outcomes).value == 2


class PickyPool(ThreadPoolExecutor):
    """Stands for a pool that cannot send every argument."""

    def _submit(
        self, options: CallOptions, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[T]:
        if args == (3,):
            raise errors.CannotTravel("3 is open here")
        return super()._submit(options, fn, args, kwargs)


def test_an_input_that_cannot_be_submitted_is_an_outcome() -> None:
    with PickyPool(2) as pool:
        outcomes = {outcome.input: outcome for outcome in pool.outcomes(abs, range(6), buffersize=2)}
    assert set(outcomes) == set(range(6))
    assert isinstance(outcomes[3].error, errors.CannotTravel)
    assert sum(outcome.ok for outcome in outcomes.values()) == 5


def test_in_map_an_input_that_cannot_be_submitted_fails_in_its_place() -> None:
    with PickyPool(2) as pool:
        results = pool.map(abs, range(6))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(errors.CannotTravel):
            next(results)


def test_a_pool_that_breaks_reads_no_further_and_its_error_comes_after_all_outcomes() -> None:
    release, read = threading.Event(), 0

    def items() -> Iterator[int]:
        nonlocal read
        for item in range(100):
            read += 1
            yield item

    def initialize() -> None:
        release.wait(PATIENCE)
        raise OSError("no database")

    seen = []
    with ThreadPoolExecutor(1, initializer=initialize) as pool:
        outcomes = pool.outcomes(abs, items(), buffersize=3)
        release.set()
        with pytest.raises(errors.InitializerFailed, match="no database"):
            while True:
                seen.append(next(outcomes))
    assert [type(outcome.error) for outcome in seen] == [errors.InitializerFailed] * 3
    assert read == 4  # the fourth was refused


def test_a_call_that_raises_the_error_of_another_pool_ends_nothing() -> None:
    def work(x: int) -> int:
        if x == 1:
            raise errors.InitializerFailed("of a pool that the call has made")
        return x

    with ThreadPoolExecutor(1) as pool:
        assert sorted(outcome.input for outcome in pool.outcomes(work, range(5), buffersize=1)) == [0, 1, 2, 3, 4]


def test_an_error_of_the_input_comes_after_all_outcomes() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2, 3)
        raise OSError("disk on fire")

    seen = []
    with ThreadPoolExecutor(2) as pool:
        outcomes = pool.outcomes(abs, items(), buffersize=2)
        with pytest.raises(OSError, match="disk on fire"):
            while True:
                seen.append(next(outcomes).value)
    assert sorted(value for value in seen if value is not None) == [1, 2, 3]


def test_calls_cancelled_by_the_end_of_the_pool_are_outcomes_and_the_rest_raises() -> None:
    gate, started = threading.Event(), threading.Event()

    def work(x: int) -> int:
        started.set()
        gate.wait(PATIENCE)
        return x

    pool = ThreadPoolExecutor(1)
    outcomes = pool.outcomes(work, iter(range(100)), buffersize=3)
    started.wait(PATIENCE)
    pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    seen = []
    with pytest.raises(concurrent.futures.CancelledError, match=r"outcomes\(.*work, ...\)"):
        while True:
            seen.append(next(outcomes))
    assert {outcome.input: type(outcome.error) for outcome in seen} == {
        0: type(None),
        1: concurrent.futures.CancelledError,
        2: concurrent.futures.CancelledError,
    }
    pool.shutdown()


def test_closing_cancels_what_has_not_started() -> None:
    gate, started = threading.Event(), threading.Event()
    ran: list[int] = []

    def work(x: int) -> None:
        ran.append(x)
        started.set()
        gate.wait(PATIENCE)

    with ThreadPoolExecutor(1) as pool:
        outcomes = pool.outcomes(work, range(100), buffersize=10)
        started.wait(PATIENCE)
        outcomes.close()
        gate.set()
    assert ran == [0]


def test_completions_hand_out_each_future_once_whenever_it_was_watched() -> None:
    completions = Completions()
    early, late = Future[int](), Future[int]()
    early.set_result(1)
    completions.watch(early)
    completions.watch(late)
    assert completions.get() is early
    assert completions.get_nowait() is None
    thread = threading.Thread(target=lambda: late.set_result(2))
    thread.start()
    assert completions.get() is late
    thread.join()
    assert completions.get_nowait() is None
