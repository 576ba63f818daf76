"""Latch: something that happens once and that tasks, threads and signal handlers tell each other."""

from collections import deque
from collections.abc import Callable

from rimstone.hub import Waiter, waiter

__all__ = ["Latch"]


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
                if not self.is_set and not waiting.park(deadline):
                    return self.is_set
            finally:
                self._waiters.remove(waiting)
        return True
