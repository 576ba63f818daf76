"""What is known of a function: does it wait, block, or compute? Learned in the worker, told to the pool.

UNKNOWN    nothing has been seen yet: it runs on a thread without waiters, one call at a time a process
WAITING    it has been seen to park: calls pile up on one thread's hub
BLOCKING   it holds its thread without using the CPU (C code that blocks): one thread a call
COMPUTING  it holds its thread and uses the CPU: one call at a time a process
"""

import enum
from dataclasses import dataclass

__all__ = ["BUSY_SECONDS", "COMPUTING_SHARE", "QUEUED_SECONDS", "FunctionKind", "FunctionRecord", "kind_of_level"]

# A thread that has not come back to its hub for so long is busy: calls for it go elsewhere (DESIGN, decision 9).
BUSY_SECONDS = 0.020
# Work that may lie in a worker beyond what it can start at once (DESIGN, decision 8).
QUEUED_SECONDS = 0.002
# Share of the time that a thread must use the CPU to count as computing. Well below 1, because a computing call
# shares the interpreter lock with the hubs of the other threads.
COMPUTING_SHARE = 0.4


class FunctionKind(enum.IntEnum):
    """See the head of this file."""

    UNKNOWN = 0
    WAITING = 1
    BLOCKING = 2
    COMPUTING = 3


_LEVELS = {
    "coroutine": FunctionKind.WAITING,
    "thread": FunctionKind.BLOCKING,
    "process": FunctionKind.COMPUTING,
}


def kind_of_level(level: str) -> FunctionKind:
    """How a call with the hint `level=` is treated: the hint always wins over what was measured."""
    return _LEVELS[level]


@dataclass(slots=True)
class FunctionRecord:
    """What has been measured of one function.

    Attributes:
        kind: As of now. WAITING is for good: a call that parks even once must be able to do so.
        mean_seconds: Of the calls that never parked; a moving average of the wall time.
        told_kind, told_mean: What the pool has been told.
    """

    kind: FunctionKind = FunctionKind.UNKNOWN
    mean_seconds: float = 0.0
    told_kind: FunctionKind = FunctionKind.UNKNOWN
    told_mean: float = 0.0

    def parked(self) -> None:
        """A call was seen to park."""
        self.kind = FunctionKind.WAITING

    def held_thread(self, wall_seconds: float, *, computing: bool) -> None:
        """A call has held its thread for so long without parking: it is *computing*, or it blocks."""
        if self.kind is not FunctionKind.WAITING:
            self.kind = FunctionKind.COMPUTING if computing else FunctionKind.BLOCKING
            self.mean_seconds = 0.8 * self.mean_seconds + 0.2 * wall_seconds if self.mean_seconds else wall_seconds

    def take_news(self) -> bool:
        """True, once, when the pool should be told: another kind, or a mean that is off by a factor of two."""
        if self.kind is self.told_kind and 0.5 * self.mean_seconds <= self.told_mean <= 2 * self.mean_seconds:
            return False
        self.told_kind = self.kind
        self.told_mean = self.mean_seconds
        return True
