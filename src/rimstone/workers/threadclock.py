"""Tells computing from blocking: how long a thread has run, or wanted to.

The CPU clock alone misjudges a busy machine: a thread that computes but gets a third of a CPU looks as if it blocked
two thirds of the time. Linux also keeps how long a thread stood in the run queue; the two together are the time in
which it did not block.
"""

import resource
import time
from collections.abc import Callable

from rimstone._originals import get_ident
from rimstone.workers.placement import COMPUTING_SHARE

__all__ = ["Usage", "runnable_clock"]

_STARVED_SHARE = 0.1


def runnable_clock() -> Callable[[], float]:
    """A function that tells, on any thread, for how many seconds the calling thread has run.

    Not from /proc: reading a file gives up the interpreter lock several times, with admission's lock held.
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
