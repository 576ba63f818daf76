"""What the scheduler needs of greenlet and of the thread. `_native.pyx` is its twin in C: keep the two alike."""

from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet

from rimstone._originals import native_local
from rimstone.hub import at_exit

__all__ = ["Greenlets", "PerThread"]


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
