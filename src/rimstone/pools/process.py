"""Pools of worker processes: what `ProcessPoolExecutor` and `Pool` have in common, and `ProcessPoolExecutor`.

Read `executor.py` (the front) and `dispatcher.py` (the thread behind it) first.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from rimstone import machine
from rimstone.errors import CannotTravel
from rimstone.pools.dispatcher import Dispatcher, PoolCall, close_when_collected
from rimstone.pools.executor import CallOptions, Executor, Statistics, checked_count
from rimstone.pools.future import Future
from rimstone.workers.code import CodeBook
from rimstone.workers.pickling import dump_arguments
from rimstone.workers.placement import FunctionKind, kind_of_level
from rimstone.workers.setup import Setup, main_script

__all__ = ["ProcessBackedExecutor", "ProcessPoolExecutor", "ProcessStatistics"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ProcessStatistics(Statistics):
    """What a pool of processes holds at one moment, and has done.

    Attributes:
        finished: Calls that have ended, in whatever way.
        most_in_flight: Most calls that were with the workers at once, so far.
        pids: Process ids of the workers.
    """

    finished: int
    most_in_flight: int
    pids: tuple[int, ...]


def default_processes() -> int:
    """As many as there are CPUs for this process."""
    return machine.cpus().value or 1


class ProcessBackedExecutor(Executor):
    """An executor whose calls run in worker processes. Not used directly."""

    _forced_kind: ClassVar[FunctionKind] = FunctionKind.UNKNOWN

    def __init__(
        self,
        name: str,
        *,
        processes: int,
        threads: int,
        coroutines: int,
        most_in_flight: int,
        patch: bool,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
    ) -> None:
        super().__init__(name)
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer={initializer!r} must be callable, or None")
        self.processes = processes
        self.threads = threads
        self.coroutines = coroutines
        self._most_in_flight = most_in_flight
        self._code = CodeBook()
        encoded = None
        if initializer is not None:
            function = self._code.encode(initializer)
            encoded = (function.blob, dump_arguments(function.name, tuple(initargs), {}))
        setup = Setup(
            name=f"rimstone-{name}",
            parent_pid=os.getpid(),
            path=[],
            argv=[],
            script=main_script(),
            patch=patch,
            threads=threads,
            coroutines=coroutines,
            initializer=encoded,
        )
        self._dispatcher = Dispatcher(setup, processes, most_in_flight, self._code.take_forgotten, self._callbacks)
        close_when_collected(self, self._dispatcher)
        self._dispatcher.start()

    def _submit(
        self, options: CallOptions, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[T]:
        future: Future[T] = Future(self._callbacks, self._dispatcher.on_cancel)
        try:
            function = self._code.encode(fn)
            arguments = dump_arguments(function.name, args, kwargs)
        except CannotTravel as error:
            # As in concurrent.futures: one bad argument must not end the loop that submits the others.
            future.set_exception(error)
            return future
        hint = kind_of_level(options.level) if options.level is not None else self._forced_kind
        self._dispatcher.submit(PoolCall(future, function, arguments, hint))
        return future

    def _capacity(self) -> int:
        return self._most_in_flight

    def _shutdown(self, *, wait: bool, cancel_futures: bool, abandon: bool) -> None:
        self._dispatcher.close(cancel=cancel_futures, abandon=abandon)
        if wait:
            self._dispatcher.join()

    def statistics(self) -> ProcessStatistics:
        """What the pool holds now, and has done."""
        dispatcher = self._dispatcher
        pids = tuple(dispatcher.pids())
        return ProcessStatistics(
            in_flight=dispatcher.in_flight,
            workers=len(pids),
            finished=dispatcher.finished,
            most_in_flight=dispatcher.most_seen_in_flight,
            pids=pids,
        )


class ProcessPoolExecutor(ProcessBackedExecutor):
    """Worker processes for calls that compute: one call at a time in each, nothing patched.

    A `concurrent.futures.Executor` that takes lambdas, closures and functions of `__main__`, needs no `__main__`
    guard, and lives on when a worker dies.

    Args:
        max_workers: Number of processes; default: the CPUs this process may use.
        initializer: Called once in each process before its first call, with *initargs*.
    Raises:
        CannotTravel: the initializer or its arguments cannot be sent to a process.
    """

    _forced_kind = FunctionKind.COMPUTING

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        processes = checked_count("max_workers", max_workers, default_processes())
        super().__init__(
            "process",
            processes=processes,
            threads=1,
            coroutines=1,
            # Short calls queue up in the workers, so more are with them than run.
            most_in_flight=processes * 1024,
            patch=False,
            initializer=initializer,
            initargs=initargs,
        )

    def _capacity(self) -> int:
        return self.processes

    def _lookahead(self) -> int:
        # Short calls travel in batches of as many as a worker does in 2 ms; a few per process would starve it.
        return 256 * self.processes

    def _check_options(self, options: CallOptions) -> None:
        if options.level not in (None, "process"):
            raise ValueError(
                f"level={options.level!r} is not to be had in a ProcessPoolExecutor, whose calls each take a process; "
                "use a Pool, which has all three levels"
            )
