"""What the hub needs of greenlet, of the thread and of write(2). `_native.pyx` is its twin in C: keep the two alike."""

import os
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet

from rimstone._originals import native_local, os_pwrite, os_write
from rimstone.clock import monotonic
from rimstone.hub import at_exit

__all__ = ["Greenlets", "PerThread", "timed_write"]

_MAY_BE_LOCK_SECONDS = 0.001


class Greenlets:
    """Switching between greenlets.

    Attributes:
        raised: What a `switch` in C was ended by, but for GreenletExit, which it raises; to be looked at after each. To
            catch an exception around every switch would cost more there. The one in Python raises whatever it is: it
            must be greenlet's own function, since a signal handler may strike wherever a function of ours begins.
    """

    def __init__(self) -> None:
        self.raised: BaseException | None = None

    switch = staticmethod(greenlet.switch)
    current = staticmethod(getcurrent)

    @staticmethod
    def outermost(method: Callable[[], None]) -> Callable[[], None]:
        """What a greenlet of the hub is to run instead of *method*, for it to survive the end of the interpreter."""
        at_exit.prepare()
        return method


class _Slot(native_local):
    value: Any = None


class PerThread:
    """One object for each thread, kept alive by whoever sets it. The fastest thing there is, since all asks it."""

    def __init__(self) -> None:
        self._slot = _Slot()

    def get(self) -> Any:
        """What this thread has set last; None if nothing."""
        return self._slot.value

    def set(self, value: Any) -> None:
        """Set it for the calling thread; None before the object goes away."""
        self._slot.value = value


def timed_write(fd: int, data: Any, offset: int) -> tuple[int, float]:
    """What write(2) returns, or pwrite(2) where *offset* is not negative, and how many seconds the kernel took for it.

    Not how long the thread then waited for the interpreter lock, because others compute: here that is measured, as what
    a call takes that waits for nothing else.
    """
    begun = monotonic()
    count = os_write(fd, data) if offset < 0 else os_pwrite(fd, data, offset)  # type: ignore[misc]  # none on Windows
    ended = monotonic()
    seconds = ended - begun
    if seconds > _MAY_BE_LOCK_SECONDS:
        os.fstat(fd)
        seconds -= monotonic() - ended
    return count, seconds
