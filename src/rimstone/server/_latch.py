"""Latch: something that happens once and that tasks, threads and signal handlers tell each other."""

from collections import deque
from collections.abc import Callable
from threading import main_thread

from rimstone import clock
from rimstone._originals import get_ident
from rimstone.hub import Waiter, current_hub, waiter

__all__ = ["Latch"]

_SIGNAL_CHECK_SECONDS = 1.0


class Latch:
    """Starts unset; `set` is for good."""

    def __init__(self) -> None:
        self._waiters: deque[Waiter] = deque()
        self._calls: deque[Callable[[], object]] = deque()
        self.is_set = False

    def set(self) -> None:
        """It has happened. Any thread, any signal handler; again does nothing."""
        self.is_set = True
        try:
            self._call()  # first: who waits shall find it done
        finally:
            for waiting in tuple(self._waiters):
                waiting.unpark()

    def call(self, function: Callable[[], object]) -> None:
        """Call *function* once when it has happened, in the thread where it does; now if it has. It must not wait."""
        self._calls.append(function)
        if self.is_set:
            self._call()

    def _call(self) -> None:
        while self._calls:
            try:
                function = self._calls.popleft()
            except IndexError:  # another thread was faster
                return
            function()

    def wait(self, deadline: float | None = None) -> bool:
        """Wait until it has happened; False if *deadline* (on `clock.monotonic`) came first. Any task, any thread."""
        while not self.is_set:
            waiting = waiter()
            self._waiters.append(waiting)
            try:
                # It may have been set before the line above.
                if self.is_set or waiting.park(_next_look(deadline)):
                    continue
                if deadline is not None and clock.monotonic() >= deadline:
                    return self.is_set
            finally:
                self._waiters.remove(waiting)
        return True


def _next_look(deadline: float | None) -> float | None:
    """Until when to park at most.

    A signal that comes just before the main thread blocks does not wake it, and its handler runs only when the thread
    is back in Python code: the compiled `park` is not, however often it wakes.
    """
    if current_hub() is not None or get_ident() != main_thread().ident:
        return deadline
    look = clock.monotonic() + _SIGNAL_CHECK_SECONDS
    return look if deadline is None else min(look, deadline)
