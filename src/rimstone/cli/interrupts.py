"""Ctrl-C that arrives only where nothing is half done.

As Python has it, KeyboardInterrupt may rise between any two bytecodes: between writing bytes and noting that they
are written, or between taking a result and keeping it. Here the first Ctrl-C sets a flag and calls `notify`; it
rises as KeyboardInterrupt only inside `breakable`. A second one rises at once, wherever we are.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

__all__ = ["Interrupts"]


class Interrupts:
    """Takes over SIGINT between `__enter__` and `__exit__`. Outside of the main thread it changes nothing.

    Attributes:
        pressed: True once Ctrl-C has been pressed.
    """

    def __init__(self, notify: Callable[[], object]) -> None:
        self.pressed = False
        self._notify = notify
        self._breakable = False
        self._installed = False
        self._before: Callable[[int, FrameType | None], object] | int | None = None

    def __enter__(self) -> Self:
        # Started with SIGINT ignored (nohup, or `&` in a script), it stays ignored.
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and before is not signal.SIG_IGN:
            self._before = before
            signal.signal(signal.SIGINT, self._arrived)
            self._installed = True
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """A stretch that waits and keeps no state: here Ctrl-C rises as KeyboardInterrupt, also one from before."""
        self._breakable = True  # before the look at the flag: a Ctrl-C between the two must not be missed
        try:
            if self.pressed:
                raise KeyboardInterrupt
            yield
        finally:
            self._breakable = False

    def _arrived(self, _number: int, _frame: FrameType | None) -> None:
        is_second = self.pressed
        self.pressed = True
        self._notify()
        if is_second or self._breakable:
            raise KeyboardInterrupt
