"""`Pool`: processes x threads x coroutines behind one executor. Read `process.py` first.

The three levels are not three queues that somebody chooses from: every worker process has threads, every thread a hub,
and a call spills to the level it needs (`workers/admission.py`).
"""

from collections.abc import Callable
from typing import Any

from rimstone.pools.executor import checked_count
from rimstone.pools.process import ProcessBackedExecutor, default_processes

__all__ = ["Pool"]


class Pool(ProcessBackedExecutor):
    """Runs plain, blocking functions, each on the level it needs.

    A call that computes takes a process, a call that blocks takes a thread, a call that waits takes a coroutine.
    A `concurrent.futures.Executor`. The worker processes are created at the first call, once, and reused; blocking
    calls of the standard library are cooperative in them (`rimstone.monkey`), while this process stays as it is.

    Args:
        max_workers: Most calls in flight, all together; default: processes x threads x coroutines.
        processes: Worker processes; default: the CPUs this process may use.
        threads: Most threads that run calls, in each process; default 5.
        coroutines: Most calls that one thread holds at once; default 1,000.
        initializer: Called once in each process before its first call, with *initargs*.
    Raises:
        CannotTravel: the initializer or its arguments cannot be sent to a process.

    Example:
        >>> from rimstone import Pool
        >>> with Pool(processes=1) as pool:
        ...     list(pool.map(abs, [-1, 2, -3]))
        [1, 2, 3]
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        processes: int | None = None,
        threads: int | None = None,
        coroutines: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        processes = checked_count("processes", processes, default_processes())
        threads = checked_count("threads", threads, 5)
        coroutines = checked_count("coroutines", coroutines, 1000)
        super().__init__(
            "pool",
            processes=processes,
            threads=threads,
            coroutines=coroutines,
            most_in_flight=checked_count("max_workers", max_workers, processes * threads * coroutines),
            patch=True,
            initializer=initializer,
            initargs=initargs,
        )
