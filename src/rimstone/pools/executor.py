"""`Executor`: what all pools share: submit, map, outcomes, options, and the ways to end. Read mapping.py first.

States, entered in this order and never left for an earlier one:

- CREATED: no call was accepted yet; no thread or process exists.
- RUNNING: calls are accepted.
- DRAINING: `shutdown` was called. No new call is accepted; maps accepted before are still pulled and submitted.
- CLOSED: nothing is left.

Three flags stand for them, each only ever set, because `submit` and `shutdown` may meet in two threads: a state looked
at and then stored could turn CLOSED back into RUNNING.

A fork of the process has a pool's memory and none of its threads: there the ends of a pool do nothing.

A pool of a new kind implements `_submit`, `_capacity`, `_shutdown` and `statistics`; nothing else needs to be known.
"""

import concurrent.futures
import contextlib
import enum
import os
import sys
from _thread import start_new_thread
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar, get_args, overload

from rimstone import _originals, clock, errors
from rimstone.pools.future import CallbackThread, Future, shielded
from rimstone.pools.mapping import LazyCalls, MapCalls, MapIterator, OutcomeCalls, OutcomeIterator, lookahead

__all__ = ["CallOptions", "Executor", "ExecutorView", "Level", "State", "Statistics", "checked_count"]

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

Level = Literal["process", "thread", "coroutine"]


class State(enum.Enum):
    """Where a pool is in its life; see the head of this file."""

    CREATED = "created"
    RUNNING = "running"
    DRAINING = "draining"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How calls are to be run.

    Attributes:
        level: Where a call goes; None lets the pool decide.
    """

    level: Level | None = None

    def __post_init__(self) -> None:
        if self.level is not None and self.level not in get_args(Level):
            allowed = ", ".join(repr(level) for level in get_args(Level))
            raise ValueError(f"level={self.level!r} is not a level; use {allowed}, or None to let the pool decide")


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a pool holds at one moment.

    Attributes:
        in_flight: Calls accepted and not finished.
        workers: Threads or processes alive.
    """

    in_flight: int
    workers: int


def checked_count(name: str, value: int | None, default: int) -> int:
    """*value* if it can be a number of workers or of items, *default* for None.

    Raises:
        TypeError, ValueError: saying what was given and what is allowed.
    """
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r} must be an integer of at least 1, or None for the default ({default})")
    if value < 1:
        raise ValueError(f"{name}={value!r} must be at least 1, or None for the default ({default})")
    return value


class _Submitter:
    """submit, map and outcomes, written once for a pool and for its views."""

    @abstractmethod
    def _target(self) -> "tuple[Executor, CallOptions]":
        """The pool that takes the calls, and the options they carry."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call `fn(*args, **kwargs)` in the pool. Returns at once.

        Raises:
            PoolClosed: the pool was shut down.
            TypeError: *fn* cannot be called.
        """
        executor, options = self._target()
        executor._check_accepts("submit", fn)
        return executor._submit(options, fn, args, kwargs)

    @overload
    def map(
        self,
        fn: Callable[[A], T],
        first: Iterable[A],
        /,
        *,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> MapIterator[T]: ...

    @overload
    def map(
        self,
        fn: Callable[[A, B], T],
        first: Iterable[A],
        second: Iterable[B],
        /,
        *,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> MapIterator[T]: ...

    @overload
    def map(
        self,
        fn: Callable[[A, B, C], T],
        first: Iterable[A],
        second: Iterable[B],
        third: Iterable[C],
        /,
        *,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> MapIterator[T]: ...

    @overload
    def map(
        self,
        fn: Callable[..., T],
        first: Iterable[Any],
        second: Iterable[Any],
        third: Iterable[Any],
        fourth: Iterable[Any],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> MapIterator[T]: ...

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> MapIterator[T]:
        """Call *fn* with each item (with one item of each of several iterables); yield results in the items' order.

        Lazy: the first `buffersize` items are read and submitted here, each `next` reads on. Items are read only in the
        thread that calls `map`, `next` or `shutdown`. Leaving the pool's `with` block normally reads and runs the
        rest, also of a map that nobody iterates; results not taken yet can still be taken afterwards. Closing the
        iterator, or dropping it half-way, cancels the calls that have not started. An endless input must be closed.

        Args:
            fn: What to call.
            iterables: Read in step until the shortest ends.
            timeout: Seconds from now in which all results must have come.
            chunksize: For code written for concurrent.futures; calls are grouped by time, not by number.
            buffersize: Most items read whose results have not been yielded; None means a little more than the pool can
                run at once.
        Raises:
            PoolClosed: the pool was shut down.
            TimeoutError: from `next`: the result did not come in time.
            BaseException: from `next`: what the call raised; the iterator ends and cancels the rest.
        """
        executor, options = self._target()
        executor._check_accepts("map", fn)
        if chunksize < 1:
            raise ValueError(f"chunksize={chunksize!r} must be >= 1; leave it out, calls are grouped by time")
        calls: MapCalls[T] = MapCalls(
            f"map({_name(fn)}, ...)",
            iterables,
            lambda args: executor._submit(options, fn, args, {}),
            checked_count("buffersize", buffersize, executor._lookahead()),
            executor._maps.discard,
            deadline=clock.deadline_after(timeout),
        )
        iterator: MapIterator[T] = MapIterator(calls)
        try:
            executor._begin(calls)
            return iterator
        finally:
            del iterator  # an exception of the input keeps this frame, and must not keep alive who is to get it

    @overload
    def outcomes(
        self, fn: Callable[[A], T], first: Iterable[A], /, *, buffersize: int | None = None
    ) -> OutcomeIterator[T]: ...

    @overload
    def outcomes(
        self, fn: Callable[[A, B], T], first: Iterable[A], second: Iterable[B], /, *, buffersize: int | None = None
    ) -> OutcomeIterator[T]: ...

    @overload
    def outcomes(
        self,
        fn: Callable[[A, B, C], T],
        first: Iterable[A],
        second: Iterable[B],
        third: Iterable[C],
        /,
        *,
        buffersize: int | None = None,
    ) -> OutcomeIterator[T]: ...

    @overload
    def outcomes(
        self,
        fn: Callable[..., T],
        first: Iterable[Any],
        second: Iterable[Any],
        third: Iterable[Any],
        fourth: Iterable[Any],
        /,
        *iterables: Iterable[Any],
        buffersize: int | None = None,
    ) -> OutcomeIterator[T]: ...

    def outcomes(
        self, fn: Callable[..., T], /, *iterables: Iterable[Any], buffersize: int | None = None
    ) -> OutcomeIterator[T]:
        """As `map`, but yield an `Outcome(input, value, error)` for each item as the calls finish.

        A call that fails is an outcome like any other, and so is an item that could not be submitted (an argument that
        cannot travel to another process). An exception of the input itself is raised after all outcomes, and so is the
        pool's own when it takes no further call.

        Args:
            fn: What to call.
            iterables: Read in step until the shortest ends. With one, `Outcome.input` is its item, else a tuple.
            buffersize: Most items read whose outcomes have not been yielded; None means a little more than the pool can
                run at once.
        Raises:
            PoolClosed: the pool was shut down.
        """
        executor, options = self._target()
        executor._check_accepts("outcomes", fn)
        calls: OutcomeCalls[T] = OutcomeCalls(
            f"outcomes({_name(fn)}, ...)",
            iterables,
            lambda args: executor._submit(options, fn, args, {}),
            checked_count("buffersize", buffersize, executor._lookahead()),
            executor._maps.discard,
            unpack=len(iterables) == 1,
        )
        iterator: OutcomeIterator[T] = OutcomeIterator(calls)
        try:
            executor._begin(calls)
            return iterator
        finally:
            del iterator  # see map

    def options(self, *, level: Level | None = None) -> "ExecutorView":
        """A view of this pool whose calls carry these options. Costs nothing; ends with the pool.

        Args:
            level: Where the calls run: "process", "thread" or "coroutine"; None lets the pool decide.
        Raises:
            ValueError: not a level, or not one that this kind of pool has.
        """
        executor, _ = self._target()
        options = CallOptions(level=level)
        executor._check_options(options)
        return ExecutorView(executor, options)


@dataclass(frozen=True, slots=True)
class ExecutorView(_Submitter):
    """A pool seen through options: it has submit, map and outcomes. Made by `Executor.options`.

    Attributes:
        executor: The pool that takes the calls.
        call_options: What each call carries.
    """

    executor: "Executor"
    call_options: CallOptions

    def _target(self) -> "tuple[Executor, CallOptions]":
        return self.executor, self.call_options


class Executor(_Submitter, concurrent.futures.Executor):  # type: ignore[misc]  # map: stricter on the types of items
    """Base of all pools; a `concurrent.futures.Executor`.

    Leaving its `with` block

    - normally, finishes every accepted map, then waits for all calls; Ctrl-C then does as the last line says;
    - by an exception, cancels what has not started, then waits for the calls that run;
    - by KeyboardInterrupt, SystemExit or another exception that is no Exception, cancels what has not started and waits
      for nothing.

    Args:
        name: Appears in the names of threads and processes, and in the repr.
    """

    # After so many seconds of finishing a map, say which one; an endless input looks like a hang.
    _seconds_until_notice = 5.0

    def __init__(self, name: str) -> None:
        self._name = name
        self._pid = os.getpid()
        self._used = False  # a call or a map was accepted
        self._draining = False
        self._closed = False
        self._maps: set[LazyCalls[Any, Any]] = set()  # those with input left
        self._callbacks = CallbackThread(name)
        self._callbacks.ends_with(self)

    # What a kind of pool implements.

    @abstractmethod
    def _submit(
        self, options: CallOptions, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[T]:
        """Accept one call. Also called while DRAINING, by maps; raises PoolClosed only after `_shutdown`.

        Futures are made with `Future(self._callbacks, ...)`. An interrupt may strike at any bytecode.
        """

    @abstractmethod
    def _capacity(self) -> int:
        """Most calls that run at once; the look-ahead of `map` follows from it."""

    def _lookahead(self) -> int:
        """How far `map` and `outcomes` read ahead unless told otherwise."""
        return lookahead(self._capacity())

    @abstractmethod
    def _shutdown(self, *, wait: bool, cancel_futures: bool, abandon: bool) -> None:
        """Accept nothing more and end. May be called again, each time with more urgency.

        Args:
            wait: Return when all calls have ended and the workers are gone.
            cancel_futures: Cancel the calls that have not started; never twice the same call to its waiters.
            abandon: Give up the running calls too: processes are killed, threads are left behind.
        """

    @abstractmethod
    def statistics(self) -> Statistics:
        """What the pool holds now."""

    def _check_options(self, options: CallOptions) -> None:
        """Raise ValueError when this kind of pool cannot do what *options* ask."""

    # The rest is common.

    @property
    def _max_workers(self) -> int:
        """What dask reads to size its batches."""
        return self._capacity()

    def _target(self) -> "tuple[Executor, CallOptions]":
        return self, CallOptions()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no new calls and end the pool. May be called again.

        Args:
            wait: Finish all maps and calls, run their callbacks, end the workers, then return. False: read the whole
                input of the maps accepted so far and submit it, then return; the calls go on.
            cancel_futures: Cancel the calls that have not started; maps stop reading their input.
        Raises:
            Exception: what ended a map early, whose iterator is gone: its input raised it, or the pool took no further
                call. Raised when all the rest is done.

        In a fork of the process that has the pool: does nothing.
        """
        if self._is_forked():
            return
        self._draining = True
        error = None
        if cancel_futures:
            self._cancel_maps()
        else:
            error = self._finish_maps(wait=wait)
        self._shutdown(wait=wait, cancel_futures=cancel_futures, abandon=False)
        self._callbacks.close()
        if wait:
            self._callbacks.wait()
            self._closed = True
        if error is not None:
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._is_forked():
            return
        try:
            if kind is None:
                self.shutdown(wait=True)
            elif issubclass(kind, Exception):
                self.shutdown(wait=True, cancel_futures=True)
            else:
                self._abandon()
        except Exception:
            raise
        except BaseException:
            self._abandon()
            raise

    def __repr__(self) -> str:
        state, numbers = self._current_state(), self.statistics()
        in_flight = f", {numbers.in_flight:,} in flight" if state in (State.RUNNING, State.DRAINING) else ""
        return f"<{type(self).__name__} {self._name!r} {state.value}{in_flight}>"

    def _current_state(self) -> State:
        if self._closed:
            return State.CLOSED
        if self._draining:
            # After shutdown(wait=False) nobody is there to enter CLOSED when the last call ends.
            numbers = self.statistics()
            is_empty = not (self._maps or numbers.in_flight or numbers.workers)
            return State.CLOSED if is_empty else State.DRAINING
        return State.RUNNING if self._used else State.CREATED

    def _is_forked(self) -> bool:
        """True in a child of the process that has the pool: there are no threads to wait for, and locks may be held."""
        return os.getpid() != self._pid

    def _check_accepts(self, method: str, fn: Any) -> None:
        if not callable(fn):
            raise TypeError(
                f"{method}() was given {fn!r} ({type(fn).__name__}), which cannot be called; give it a function and, "
                f"separately, its arguments: {method}(fetch, url), not {method}(fetch(url))"
            )
        if self._draining:
            raise errors.PoolClosed(
                f"{method}({_name(fn)}, ...) came after shutdown of {self!r}; create a new pool, or {method} before "
                f"the 'with' block ends"
            )
        self._used = True

    def _begin(self, calls: LazyCalls[Any, Any]) -> None:
        try:
            self._maps.add(calls)
            calls.fill()
        except BaseException:
            calls.close()
            raise

    def _cancel_maps(self) -> None:
        # The list keeps them until this thread lets go of it: their inputs must not be dropped in the other thread.
        maps = list(self._maps.copy())

        def cancel() -> None:
            for calls in maps:
                calls.cancel()

        shielded(cancel)
        self._maps.difference_update(maps)

    def _finish_maps(self, *, wait: bool) -> Exception | None:
        first_error = None
        # A consumer in another thread may take its map out at any moment. Copying a set is one step under the GIL;
        # iterating over it is not, and list(set) only almost: it may collect garbage, and so switch, when it has begun.
        while (calls := next(iter(self._maps.copy()), None)) is not None:
            ended = _originals.allocate_lock()
            ended.acquire()
            try:
                if wait:
                    with contextlib.suppress(RuntimeError):  # no thread to be had: then without the notice
                        start_new_thread(_notice, (ended, self._seconds_until_notice, calls))
                calls.finish(wait=wait)
            except Exception as error:  # noqa: BLE001 - raised by shutdown, when the calls have been waited for
                first_error = first_error or error
            finally:
                ended.release()
            self._maps.discard(calls)
        return first_error

    def _abandon(self) -> None:
        self._draining = True
        self._cancel_maps()
        shielded(lambda: self._shutdown(wait=False, cancel_futures=True, abandon=True))
        self._callbacks.close()


def _notice(ended: Any, seconds: float, calls: LazyCalls[Any, Any]) -> None:
    """Say on stderr which map is being finished, unless *ended* is released within *seconds*."""
    if not ended.acquire(timeout=seconds) and sys.stderr is not None:
        print(
            f"rimstone: leaving the pool's block waits for {calls.label} [{calls.finished:,} results so far]; "
            "call close() on the iterator, or close an endless input, to stop it",
            file=sys.stderr,
            flush=True,
        )


def _name(fn: Any) -> str:
    name = getattr(fn, "__qualname__", None)
    return name.rpartition("<locals>.")[2] if isinstance(name, str) else repr(fn)
