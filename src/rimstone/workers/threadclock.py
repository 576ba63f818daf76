"""Tells computing from blocking: how much CPU time a thread has used.

While a call runs, its thread's CPU clock is read from outside (`thread_cpu_clock`). That clock misjudges a busy
machine: a thread that computes but gets a third of a CPU looks as if it blocked two thirds of the time. So the verdict
at the end of a call (`Usage`) also asks how the thread left the CPU: pushed off it, or by itself.
"""

import resource
import time
from collections.abc import Callable

from rimstone._originals import get_ident
from rimstone.workers.placement import COMPUTING_SHARE

__all__ = ["Usage", "thread_cpu_clock"]

_STARVED_SHARE = 0.1


def thread_cpu_clock() -> Callable[[], float]:
    """A function that tells, on any thread, how many seconds of CPU time the calling thread has used.

    Called with admission's lock held, so it must not give up the interpreter lock.
    """
    if not hasattr(time, "pthread_getcpuclockid"):
        return time.process_time  # macOS: an upper bound, so that a doubtful call counts as computing
    clock_id = time.pthread_getcpuclockid(get_ident())
    return lambda: time.clock_gettime(clock_id)


class Usage:
    """What the calling thread used between two moments; about a microsecond each."""

    __slots__ = ("_cpu", "_involuntary", "_voluntary", "_wall")

    def __init__(self) -> None:
        self._wall = time.monotonic()
        self._cpu, self._voluntary, self._involuntary = _thread_usage()

    def since(self) -> tuple[float, bool]:
        """(wall seconds, whether it computed rather than blocked) since this object was made. On the same thread."""
        wall = time.monotonic() - self._wall
        cpu, voluntary, involuntary = _thread_usage()
        cpu -= self._cpu
        if cpu >= COMPUTING_SHARE * wall:
            return wall, True
        # Much less CPU than wall time, but it was pushed off the CPU rather than left it: a busy machine.
        starved = involuntary - self._involuntary > voluntary - self._voluntary
        return wall, starved and cpu >= _STARVED_SHARE * wall


def _thread_usage() -> tuple[float, int, int]:
    if not hasattr(resource, "RUSAGE_THREAD"):
        return time.thread_time(), 0, 0
    used = resource.getrusage(resource.RUSAGE_THREAD)
    return used.ru_utime + used.ru_stime, used.ru_nvcsw, used.ru_nivcsw
