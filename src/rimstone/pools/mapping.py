"""`map` and `outcomes`: many calls of one function, pulled from their input as they are needed. Read future.py first.

Two objects stand for one map. `LazyCalls` is the work: it pulls an input, submits it, remembers the future; the pool
holds it while input is left, because leaving the pool's block finishes every accepted map, also one that nobody
iterates. `MapIterator` and `OutcomeIterator` are what the user holds. When that is dropped, what happens depends on
whether results were taken, as in `concurrent.futures`: an iterator never started leaves its calls to be run, a started
one cancels what has not started.

Look-ahead: of the inputs pulled, at most `buffersize` have not been yielded. The next input is pulled when the consumer
asks for the next result, not before it has returned from the last one, so the bound is exact.

The input is pulled in the thread that calls `map`, `next` or `shutdown`, one at a time, never in a thread of the pool.
Closing drops the input and does not close it: a generator that nobody else holds ends there and then, while one that
the caller still holds can be read on.

A call that could not be submitted fails in its place, unless the pool takes no call at all, being closed or broken:
then no more input is pulled, and the pool's error is raised after the results of the calls it did accept.

Interrupts: KeyboardInterrupt out of `map` or `next` closes the map. At most one call, which the pool had just accepted,
may still run without anybody waiting for it.
"""

import weakref
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from rimstone import _originals, clock, errors
from rimstone._outcome import Outcome
from rimstone.hub import Waiter, waiter
from rimstone.pools.future import Future

__all__ = ["Completions", "LazyCalls", "MapCalls", "MapIterator", "OutcomeCalls", "OutcomeIterator", "lookahead"]

T = TypeVar("T")
R = TypeVar("R")  # what the consumer gets: a T, or an Outcome[T]

_SPARE_MAX = 256

# From `submit`: no further call will be accepted either. Not looked for in futures, where a call that has a pool of its
# own may have raised it; a pool that breaks refuses the next call anyhow.
_POOL_ENDED = (errors.PoolClosed, errors.InitializerFailed, errors.WorkerStartFailed)


def lookahead(capacity: int) -> int:
    """The default `buffersize` of a pool with room for *capacity* calls in flight.

    One spare call for each slot keeps the pool busy while the consumer handles a result, and behind a slow call at the
    head of an ordered map. Past 256 spares more of them only cost memory: no consumer is that far behind for long.
    """
    return capacity + min(capacity, _SPARE_MAX)


class Completions:
    """Futures in the order in which they finish, for one consumer. Adding costs O(1), whatever else is watched."""

    def __init__(self) -> None:
        self._done: deque[Future[Any]] = deque()
        self._sleeper: Waiter | None = None

    def watch(self, future: Future[Any]) -> None:
        """Hand *future* out once it is done, also when it is already."""
        future.attach(self)

    def get_nowait(self) -> Future[Any] | None:
        """A finished future not handed out before, or None."""
        return self._done.popleft() if self._done else None

    def get(self) -> Future[Any]:
        """Wait for a finished future not handed out before."""
        while not self._done:
            mine = self._sleeper = waiter()
            # Adding appends first and looks for a sleeper then; this side in the opposite order. One sees the other.
            if self._done:
                mine.cancel()
                break
            try:
                mine.park(None)
            finally:
                mine.cancel()
        return self._done.popleft()

    # The listener protocol of `Future.attach`.

    def add_result(self, future: Future[Any]) -> None:
        self._done.append(future)
        sleeper = self._sleeper
        if sleeper is not None:
            sleeper.unpark()

    add_exception = add_result
    add_cancelled = add_result


class _Ended(Exception):
    """There are no more results."""


class LazyCalls(Generic[T, R]):
    """The work of one map: its input, its calls, how far it has come.

    Args:
        label: How the map is named to the user, such as `map(fetch, ...)`.
        iterables: Pulled in step, as `zip` does.
        submit: Gives one call to the pool.
        buffersize: Most inputs that are pulled and not yielded.
        on_exhausted: Told once when there is no more input to pull: the pool need not remember this map.
    """

    def __init__(
        self,
        label: str,
        iterables: tuple[Iterable[Any], ...],
        submit: Callable[[tuple[Any, ...]], Future[T]],
        buffersize: int,
        on_exhausted: "Callable[[LazyCalls[T, R]], None]",
    ) -> None:
        self.label = label
        self.buffersize = buffersize
        self.finished = 0  # calls seen to end while `finish` runs, for its message
        self._inputs: Iterator[tuple[Any, ...]] | None = zip(*iterables, strict=False)
        self._submit: Callable[[tuple[Any, ...]], Future[T]] | None = submit
        self._on_exhausted: Callable[[LazyCalls[T, R]], None] | None = on_exhausted
        # Taken while one input is pulled and submitted; two threads meet here only when one of them ends the pool.
        self._pulling = _originals.RLock()
        self._error: BaseException | None = None  # raised to the consumer after all accepted calls
        self._stopped = False
        self._consumer: weakref.ref[Any] | None = None

    def belongs_to(self, consumer: "_CallsIterator[Any]") -> None:
        """Once *consumer* is collected, nobody will ask for the results; they are not kept any longer."""
        self._consumer = weakref.ref(consumer)

    @property
    def _abandoned(self) -> bool:
        return self._consumer is not None and self._consumer() is None

    @property
    def exhausted(self) -> bool:
        """True when no further input will be pulled."""
        return self._inputs is None or self._stopped

    @abstractmethod
    def _remember(self, args: tuple[Any, ...], future: Future[T]) -> None:
        """Keep *future* for the consumer."""

    @abstractmethod
    def pending(self) -> list[Future[T]]:
        """The futures that the consumer has not taken."""

    @abstractmethod
    def __len__(self) -> int:
        """How many inputs were pulled and not yielded."""

    def accept(self) -> Future[T] | None:
        """Pull one input and submit it; None when there is none left. In the caller's thread only."""
        with self._pulling:
            inputs, submit = self._inputs, self._submit
            if inputs is None or submit is None or self._stopped:
                return None
            try:
                args = next(inputs, None)
            except Exception as error:  # noqa: BLE001 - the consumer gets it, after the results of the inputs before
                self._fail(error)
                return None
            if args is None:  # not told by StopIteration: a Ctrl-C while it is handled would show its traceback, too
                self._exhaust()
                return None
            if self._stopped:
                return None
            future = self._submitted(submit, args)
            if future is not None and not self._abandoned:
                self._remember(args, future)
            return future

    def _submitted(self, submit: Callable[[tuple[Any, ...]], Future[T]], args: tuple[Any, ...]) -> Future[T] | None:
        try:
            return submit(args)
        except _POOL_ENDED as error:
            if not self._stopped:  # else the pool was ended meanwhile, and `cancel` has said so
                self._fail(error)
            return None
        except Exception as error:  # noqa: BLE001 - it belongs to this input
            if self._stopped:
                return None
            future: Future[T] = Future()
            future.set_exception(error)
            return future

    def _fail(self, error: Exception) -> None:
        """Pull no more; the consumer gets *error* at the end. The pool keeps this map, for nobody may be left to."""
        self._error = error
        self._inputs = self._submit = None

    def fill(self) -> None:
        """Pull and submit up to the look-ahead."""
        while len(self) < self.buffersize and self.accept() is not None:
            pass

    def finish(self, *, wait: bool) -> None:
        """Pull and submit the rest; with *wait*, never more than `buffersize` unfinished calls at a time.

        Raises:
            Exception: the input raised it, or the pool took no more, and there is no iterator left that could.
        """
        landed = Completions()
        in_flight = 0
        for future in self.pending():
            landed.watch(future)
            in_flight += 1
        if self._abandoned:
            self._clear()
        while True:
            while landed.get_nowait() is not None:
                in_flight -= 1
                self.finished += 1
            if wait and in_flight >= self.buffersize:
                landed.get()
                in_flight -= 1
                self.finished += 1
            accepted = self.accept()
            if accepted is None:
                break
            landed.watch(accepted)
            in_flight += 1
            del accepted
        if self._abandoned and self._error is not None:
            raise self._end()

    def cancel(self) -> None:
        """Stop pulling and cancel what has not started; the consumer gets CancelledError there. From any thread."""
        if not self.exhausted and self._error is None:
            self._error = CancelledError(f"the pool was ended before {self.label} had read all of its input")
        self._stopped = True
        for future in self.pending():
            future.cancel()

    def close(self) -> None:
        """Stop pulling, cancel what has not started, forget the rest. From any thread; may be repeated."""
        self._stopped = True
        self._error = None
        for future in self.pending():
            future.cancel()
        self._clear()
        self._exhaust()

    @abstractmethod
    def _clear(self) -> None:
        """Forget the futures."""

    def _exhaust(self) -> None:
        # Also drops the pool, the function and the input.
        self._inputs = None
        self._submit = None
        on_exhausted, self._on_exhausted = self._on_exhausted, None
        if on_exhausted is not None:
            on_exhausted(self)

    @abstractmethod
    def take(self) -> R:
        """Wait for the next result. Raises `_Ended` after the last."""

    def _end(self) -> BaseException:
        """What the consumer gets after the last result."""
        error, self._error = self._error, None
        return error if error is not None else _Ended()


class MapCalls(LazyCalls[T, T]):
    """The calls of `map`: results in the order of the inputs."""

    def __init__(self, *args: Any, deadline: float | None = None) -> None:
        super().__init__(*args)
        self._deadline = deadline
        self._futures: deque[Future[T]] = deque()

    def _remember(self, args: tuple[Any, ...], future: Future[T]) -> None:  # noqa: ARG002 - the other kind needs it
        self._futures.append(future)

    def pending(self) -> list[Future[T]]:
        return list(self._futures)

    def __len__(self) -> int:
        return len(self._futures)

    def _clear(self) -> None:
        self._futures.clear()

    def take(self) -> T:
        """The next result, in order."""
        self.fill()
        if not self._futures:
            raise self._end()
        future = self._futures[0]
        try:
            value = future.result(clock.remaining(self._deadline))
            self._futures.popleft()
            return value
        finally:
            del future, self  # an exception's traceback must not keep the future that holds the exception


class OutcomeCalls(LazyCalls[T, Outcome[T]]):
    """The calls of `outcomes`: results in the order in which they come."""

    def __init__(self, *args: Any, unpack: bool) -> None:
        super().__init__(*args)
        self._unpack = unpack
        self._landed = Completions()
        self._inputs_of: dict[Future[T], Any] = {}

    def _remember(self, args: tuple[Any, ...], future: Future[T]) -> None:
        self._inputs_of[future] = args[0] if self._unpack else args
        self._landed.watch(future)

    def pending(self) -> list[Future[T]]:
        return list(self._inputs_of)

    def __len__(self) -> int:
        return len(self._inputs_of)

    def _clear(self) -> None:
        self._inputs_of.clear()

    def take(self) -> Outcome[T]:
        """The next outcome. What is there is yielded before an input is pulled, which may take its time."""
        while (future := self._landed.get_nowait()) is None:
            if len(self) < self.buffersize and self.accept() is not None:
                continue
            if not self._inputs_of:
                raise self._end()
            future = self._landed.get()
            break
        if future not in self._inputs_of:  # closed from another thread while this one waited
            raise _Ended
        item = self._inputs_of.pop(future)
        if future.cancelled():
            return Outcome(item, error=CancelledError())
        error = future.exception()
        return Outcome(item, value=None if error else future.result(), error=error)


class _CallsIterator(Generic[R]):
    """What the user holds. It closes its calls when it ends, fails, is closed, or is dropped after it was started.

    A generator does the closing, not `__del__`: one that has ended runs no code when it is dropped, and an interrupt
    in such code would be lost. One not started runs none either, so its calls are left to be run.
    """

    def __init__(self, calls: LazyCalls[Any, R]) -> None:
        self._calls = calls
        self._results = _results(calls)
        calls.belongs_to(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> R:
        return next(self._results)

    def close(self) -> None:
        """Stop reading the input and cancel the calls that have not started. `next` then raises StopIteration."""
        self._calls.close()
        self._results.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._calls.label}, {len(self._calls)} results ahead>"


def _results(calls: LazyCalls[Any, R]) -> Generator[R, None, None]:
    try:
        while True:
            yield calls.take()
    except _Ended:
        pass
    finally:
        calls.close()


class MapIterator(_CallsIterator[T], Iterator[T]):
    """Results of `Executor.map`: the n-th belongs to the n-th input.

    The first call that failed raises its exception in its place; that ends the iterator and cancels the calls after it
    that have not started, as in `concurrent.futures`. An exception of the input itself comes after the results of
    the inputs before it. For one consumer.
    """


class OutcomeIterator(_CallsIterator[Outcome[T]], Iterator[Outcome[T]]):
    """Outcomes of `Executor.outcomes`, as the calls finish. One bad input ends nothing. For one consumer."""
