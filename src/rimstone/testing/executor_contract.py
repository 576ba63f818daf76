"""The contract of every pool: subclass `ExecutorContract` in a test module, implement `make_pool`, and pytest runs it.

The functions that go through the pool stand at the top of this module and share no memory with the test, so that the
suite runs over processes too. A test that needs one process asks `in_process` first.
"""

import asyncio
import concurrent.futures
import itertools
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from rimstone import errors
from rimstone.pools.executor import Executor, State, Statistics

if TYPE_CHECKING:
    from rimstone.pools.future import Future

__all__ = ["ExecutorContract"]

# Long enough for a slow machine; only a broken pool waits for it.
_PATIENCE = 30.0


def double(x: int) -> int:
    return 2 * x


def add(x: int, y: int = 0, z: int = 0) -> int:
    return x + y + z


def double_but_three(x: int) -> int:
    if x == 3:
        raise ValueError("three is not allowed")
    return 2 * x


def exit_from_call() -> None:
    raise SystemExit(3)


def pause(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


class CountedInput:
    """0, 1, 2, ... and how many were read; endless unless *stop* is given."""

    def __init__(self, stop: int | None = None) -> None:
        self.read = 0
        self.readers: set[int] = set()
        self._stop = stop

    def __iter__(self) -> Iterator[int]:
        while self._stop is None or self.read < self._stop:
            self.read += 1
            self.readers.add(threading.get_ident())
            yield self.read - 1


class ExecutorContract:
    """What holds for every pool. `make_pool` gives a new pool of at least one and at most *workers* workers."""

    in_process = False

    def make_pool(self, workers: int = 2) -> Executor:
        raise NotImplementedError

    # submit and futures

    def test_submit_gives_the_result(self) -> None:
        with self.make_pool() as pool:
            assert pool.submit(double, 21).result(_PATIENCE) == 42
            assert pool.submit(add, 1, y=2, z=3).result(_PATIENCE) == 6

    def test_the_future_is_one_of_concurrent_futures(self) -> None:
        with self.make_pool() as pool:
            futures = [pool.submit(double, x) for x in range(10)]
            assert all(isinstance(future, concurrent.futures.Future) for future in futures)
            done, not_done = concurrent.futures.wait(futures, _PATIENCE)
            assert (done, not_done) == (set(futures), set())
            completed = concurrent.futures.as_completed(futures, _PATIENCE)
            assert sorted(future.result() for future in completed) == [2 * x for x in range(10)]

    def test_wait_and_as_completed_for_calls_that_still_run(self) -> None:
        with self.make_pool() as pool:
            futures = [pool.submit(pause, 0.05), pool.submit(pause, 0.02)]
            assert {future.result() for future in concurrent.futures.as_completed(futures, _PATIENCE)} == {0.05, 0.02}
            slow = pool.submit(pause, 0.05)
            done, _ = concurrent.futures.wait([slow], _PATIENCE, concurrent.futures.FIRST_COMPLETED)
            assert done == {slow}

    def test_the_exception_arrives(self) -> None:
        with self.make_pool() as pool:
            future = pool.submit(double_but_three, 3)
            with pytest.raises(ValueError, match="three is not allowed"):
                future.result(_PATIENCE)
            assert isinstance(future.exception(), ValueError)
            assert pool.submit(double, 1).result(_PATIENCE) == 2

    def test_system_exit_fails_its_future_and_nothing_else(self) -> None:
        with self.make_pool(1) as pool:
            with pytest.raises(SystemExit):
                pool.submit(exit_from_call).result(_PATIENCE)
            assert pool.submit(double, 1).result(_PATIENCE) == 2

    def test_a_timeout_of_result_leaves_the_call_running(self) -> None:
        with self.make_pool() as pool:
            future = pool.submit(pause, 0.1)
            with pytest.raises(TimeoutError):
                future.result(0.001)
            assert future.result(_PATIENCE) == 0.1

    def test_asyncio_takes_the_pool(self) -> None:
        async def main(pool: Executor) -> list[int]:
            loop = asyncio.get_running_loop()
            return await asyncio.gather(*(loop.run_in_executor(pool, double, x) for x in range(5)))

        with self.make_pool() as pool:
            assert asyncio.run(main(pool)) == [0, 2, 4, 6, 8]

    def test_dask_finds_the_number_of_workers(self) -> None:
        with self.make_pool() as pool:
            assert isinstance(pool._max_workers, int)
            assert pool._max_workers >= 1

    # callbacks

    def test_callbacks_run_in_their_own_thread_in_the_order_added(self) -> None:
        seen: list[tuple[str, int]] = []
        with self.make_pool() as pool:
            future = pool.submit(pause, 0.05)
            for number in range(3):
                future.add_done_callback(
                    lambda _, number=number: seen.append((threading.current_thread().name, number))  # type: ignore[misc]
                )
        assert [number for _, number in seen] == [0, 1, 2]
        assert {name for name, _ in seen} == {f"rimstone-{pool._name}-callbacks"}

    def test_a_slow_callback_delays_no_result(self) -> None:
        release = threading.Event()
        with self.make_pool() as pool:
            future = pool.submit(pause, 0.01)
            future.add_done_callback(lambda _: release.wait(_PATIENCE))
            assert future.result(_PATIENCE) == 0.01
            assert list(pool.map(double, range(20))) == [2 * x for x in range(20)]
            assert sum(outcome.ok for outcome in pool.outcomes(double, range(20))) == 20
            release.set()

    # map

    def test_map_keeps_the_order(self) -> None:
        with self.make_pool() as pool:
            assert list(pool.map(pause, [0.03, 0.0, 0.02, 0.0])) == [0.03, 0.0, 0.02, 0.0]
            assert list(pool.map(double, range(500))) == [2 * x for x in range(500)]

    def test_map_takes_several_iterables_to_the_shortest(self) -> None:
        with self.make_pool() as pool:
            assert list(pool.map(add, [1, 2, 3], [10, 20])) == [11, 22]
            assert list(pool.map(double, [])) == []

    @pytest.mark.parametrize("buffersize", [1, 2, 7])
    def test_map_reads_an_endless_input_no_further_than_its_lookahead(self, buffersize: int) -> None:
        items = CountedInput()
        with self.make_pool() as pool:
            results = pool.map(double, items, buffersize=buffersize)
            assert items.read == buffersize
            for taken, result in enumerate(itertools.islice(results, 40)):
                assert result == 2 * taken
                assert items.read - taken <= buffersize
            results.close()
            assert next(results, None) is None
        assert items.readers == {threading.get_ident()}

    def test_map_has_a_bounded_lookahead_by_default(self) -> None:
        items = CountedInput()
        with self.make_pool() as pool:
            results = pool.map(double, items)
            assert pool._capacity() <= items.read <= pool._lookahead()
            results.close()

    def test_the_first_failed_call_ends_map_in_its_place(self) -> None:
        with self.make_pool() as pool:
            results = pool.map(double_but_three, range(10))
            assert [next(results) for _ in range(3)] == [0, 2, 4]
            with pytest.raises(ValueError, match="three"):
                next(results)
            assert list(results) == []

    def test_an_error_of_the_input_comes_after_the_results_before_it(self) -> None:
        def items() -> Iterator[int]:
            yield from (1, 2)
            raise OSError("disk on fire")

        with self.make_pool() as pool:
            results = pool.map(double, items())
            assert [next(results), next(results)] == [2, 4]
            with pytest.raises(OSError, match="disk on fire"):
                next(results)
            assert list(results) == []

    def test_map_times_out(self) -> None:
        with self.make_pool() as pool:
            with pytest.raises(TimeoutError):
                next(pool.map(pause, [0.2], timeout=0.001))
            assert list(pool.map(double, [1], timeout=_PATIENCE)) == [2]

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"chunksize": 0}, ValueError),
            ({"buffersize": 0}, ValueError),
            ({"buffersize": -1}, ValueError),
            ({"buffersize": "8"}, TypeError),
        ],
    )
    def test_map_refuses_wrong_arguments(self, arguments: dict[str, Any], error: type[Exception]) -> None:
        with self.make_pool() as pool, pytest.raises(error, match=next(iter(arguments))):
            pool.map(double, [1], **arguments)

    def test_closing_the_iterator_leaves_the_rest_of_the_input_to_the_caller(self) -> None:
        items = iter(range(100))
        with self.make_pool() as pool:
            results = pool.map(double, items, buffersize=3)
            assert next(results) == 0
            results.close()
        assert next(items) == 3

    # leaving the block

    def test_leaving_finishes_a_map_that_nobody_iterated(self) -> None:
        items = CountedInput(stop=100)
        with self.make_pool() as pool:
            results = pool.map(double, items, buffersize=2)
            assert items.read == 2
        assert items.read == 100
        assert list(results) == [2 * x for x in range(100)]

    def test_leaving_finishes_a_map_whose_iterator_is_gone(self) -> None:
        items = CountedInput(stop=100)
        with self.make_pool() as pool:
            pool.map(double, items, buffersize=2)
        assert items.read == 100

    def test_leaving_finishes_outcomes_too(self) -> None:
        with self.make_pool() as pool:
            outcomes = pool.outcomes(double, range(50), buffersize=2)
        assert sorted(outcome.unwrap() for outcome in outcomes) == [2 * x for x in range(50)]

    def test_dropping_an_iterator_halfway_cancels_the_rest(self) -> None:
        items = CountedInput()
        with self.make_pool() as pool:
            for _ in pool.map(double, items, buffersize=2):
                break
        assert items.read <= 3

    def test_leaving_says_which_map_it_waits_for(self, capsys: pytest.CaptureFixture[str]) -> None:
        with self.make_pool() as pool:
            pool._seconds_until_notice = 0.01
            results = pool.map(pause, [0.1] * 6, buffersize=1)
        assert "waits for map(pause, ...) [" in capsys.readouterr().err
        assert len(list(results)) == 6

    def test_an_error_of_the_input_is_raised_on_leaving_when_the_iterator_is_gone(self) -> None:
        def items() -> Iterator[int]:
            yield from (1, 2, 3)
            raise OSError("disk on fire")

        with pytest.raises(OSError, match="disk on fire"), self.make_pool() as pool:
            pool.map(double, items(), buffersize=1)
        assert pool.statistics().in_flight == 0

    def test_leaving_by_an_exception_stops_maps(self) -> None:
        items = CountedInput()
        pool = self.make_pool()
        with pytest.raises(KeyError), pool:
            results = pool.map(double, items, buffersize=2)
            outcomes = pool.outcomes(double, items, buffersize=2)
            raise KeyError
        assert items.read == 4
        with pytest.raises(concurrent.futures.CancelledError):
            list(results)
        assert list(results) == []
        with pytest.raises(concurrent.futures.CancelledError):
            list(outcomes)

    def test_leaving_by_an_exception_waits_for_started_calls_and_cancels_the_others(self) -> None:
        pool = self.make_pool(1)
        with pytest.raises(KeyError), pool:
            futures = [pool.submit(pause, 0.002) for _ in range(3000)]
            assert futures[0].result(_PATIENCE) == 0.002
            raise KeyError
        assert all(future.done() for future in futures)
        assert any(future.cancelled() for future in futures)
        assert all(future.cancelled() or future.result() == 0.002 for future in futures)

    def test_leaving_by_keyboard_interrupt_gives_up_running_calls(self) -> None:
        if self.in_process:
            pytest.skip("a thread cannot be given up without leaving it behind")
        pool = self.make_pool(1)
        with pytest.raises(KeyboardInterrupt), pool:
            future = pool.submit(pause, 10 * _PATIENCE)
            assert pool.submit(double, 1) is not None
            raise KeyboardInterrupt
        with pytest.raises((errors.WorkerDied, concurrent.futures.CancelledError)):
            future.result(_PATIENCE)

    # outcomes

    def test_outcomes_report_every_input_once(self) -> None:
        with self.make_pool() as pool:
            outcomes = {outcome.input: outcome for outcome in pool.outcomes(double_but_three, range(8))}
        assert set(outcomes) == set(range(8))
        assert isinstance(outcomes.pop(3).error, ValueError)
        assert all(outcome.ok and outcome.value == 2 * item for item, outcome in outcomes.items())

    def test_outcomes_of_several_iterables_have_tuples_as_input(self) -> None:
        with self.make_pool() as pool:
            outcomes = list(pool.outcomes(add, [1, 2, 3], [10, 20]))
        assert {outcome.input: outcome.value for outcome in outcomes} == {(1, 10): 11, (2, 20): 22}

    def test_outcomes_are_bounded_and_can_be_closed(self) -> None:
        items = CountedInput()
        with self.make_pool() as pool:
            outcomes = pool.outcomes(double, items, buffersize=3)
            for taken in range(30):
                assert next(outcomes).ok
                assert items.read - taken <= 3
            outcomes.close()
            assert list(outcomes) == []
        assert items.readers == {threading.get_ident()}

    # the end

    def test_nothing_is_accepted_after_shutdown(self) -> None:
        pool = self.make_pool()
        pool.submit(double, 1)
        pool.shutdown()
        with pytest.raises(errors.PoolClosed, match="double"):
            pool.submit(double, 1)
        with pytest.raises(RuntimeError):
            pool.map(double, [1])
        with pytest.raises(RuntimeError):
            pool.outcomes(double, [1])

    def test_shutdown_may_be_repeated_and_needs_no_call_before(self) -> None:
        pool = self.make_pool()
        pool.shutdown()
        pool.shutdown(wait=False)
        pool.shutdown(cancel_futures=True)
        assert "closed" in repr(pool)

    def test_shutdown_without_waiting_submits_the_rest_of_a_map(self) -> None:
        items = CountedInput(stop=40)
        pool = self.make_pool()
        results = pool.map(double, items, buffersize=2)
        pool.shutdown(wait=False)
        assert items.read == 40
        assert list(results) == [2 * x for x in range(40)]
        pool.shutdown()

    def test_shutdown_with_cancel_futures_ends_every_future(self) -> None:
        pool = self.make_pool(1)
        futures = [pool.submit(pause, 0.002) for _ in range(3000)]
        pool.shutdown(cancel_futures=True)
        assert all(future.done() for future in futures)
        assert any(future.cancelled() for future in futures)
        assert concurrent.futures.wait(futures, _PATIENCE).not_done == set()

    def test_callbacks_have_run_when_shutdown_returns(self) -> None:
        seen: list[Future[Any]] = []
        pool = self.make_pool()
        futures = [pool.submit(double, x) for x in range(50)]
        for future in futures:
            future.add_done_callback(seen.append)  # type: ignore[arg-type]  # it is one of ours
        pool.shutdown()
        assert sorted(map(id, seen)) == sorted(map(id, futures))

    def test_repr_and_statistics_tell_the_state(self) -> None:
        with self.make_pool() as pool:
            assert "created" in repr(pool)
            assert pool.submit(double, 1).result(_PATIENCE) == 2
            assert repr(pool).startswith(f"<{type(pool).__name__} {pool._name!r} running, ")
            assert isinstance(pool.statistics(), Statistics)
        assert pool.statistics().in_flight == pool.statistics().workers == 0
        assert repr(pool) == f"<{type(pool).__name__} {pool._name!r} closed>"
        assert pool._current_state() is State.CLOSED

    # wrong use, options

    def test_what_cannot_be_called_is_refused_by_name(self) -> None:
        with self.make_pool() as pool:
            with pytest.raises(TypeError, match="42"):
                pool.submit(double(21))  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="cannot be called"):
                pool.map(None, [1])  # type: ignore[call-overload]
            with pytest.raises(TypeError, match="iter"):
                pool.map(double, 5)  # type: ignore[call-overload]

    def test_an_unknown_level_is_refused(self) -> None:
        with self.make_pool() as pool, pytest.raises(ValueError, match=r"level='fiber'.*'process', 'thread'"):
            pool.options(level="fiber")  # type: ignore[arg-type]

    def test_a_view_submits_to_its_pool(self) -> None:
        with self.make_pool() as pool:
            view = pool.options()
            assert view.submit(double, 1).result(_PATIENCE) == 2
            assert list(view.map(double, [1, 2])) == [2, 4]
            assert [outcome.value for outcome in view.outcomes(double, [5])] == [10]
        with pytest.raises(errors.PoolClosed):
            view.submit(double, 1)
