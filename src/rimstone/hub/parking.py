"""park / unpark: the one primitive on which every lock, queue, join and future of the library stands.

`waiter()` makes a one-shot object for whoever runs now. In a thread with a hub that is the current task, and `park`
lets the other tasks run; in any other thread it blocks the thread, natively. `unpark` works from any thread and from
signal handlers. So one lock serves tasks of different threads and plain threads alike.
"""

from typing import Protocol

from rimstone import clock
from rimstone._originals import allocate_lock
from rimstone.hub.scheduler import Hub, current_hub
from rimstone.iomodel.base import TIMEOUT

__all__ = ["Waiter", "waiter"]


class Waiter(Protocol):
    """One wait of one task or thread. Create it, tell others of it, then `park` - or `cancel` if there is no need."""

    def park(self, deadline: float | None = None) -> bool:
        """Wait for `unpark`; False if *deadline* (on `clock.monotonic`) passed first. Once only, by its creator."""

    def unpark(self) -> None:
        """End the wait, now or in advance. Any thread, any signal handler; never blocks; again does nothing."""

    def cancel(self) -> None:
        """There is no need to park: make a later `unpark` harmless. By its creator."""


class _TaskWaiter:
    __slots__ = ("_hub", "_task", "_ticket")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._task = hub.current
        self._ticket = hub.current.ticket

    def park(self, deadline: float | None = None) -> bool:
        return self._hub.park(deadline) != TIMEOUT

    def unpark(self) -> None:
        self._hub.unpark(self._task, self._ticket)

    def cancel(self) -> None:
        task = self._task
        if task.ticket == self._ticket:
            task.ticket += 1
            task.permit = False


class _ThreadWaiter:
    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def park(self, deadline: float | None = None) -> bool:
        if deadline is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=max(0.0, deadline - clock.monotonic()))

    def unpark(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:
            pass  # unparked before

    def cancel(self) -> None:
        pass


def waiter() -> Waiter:
    """A `Waiter` for the current task, or for the current thread where no hub runs."""
    hub = current_hub()
    return _ThreadWaiter() if hub is None else _TaskWaiter(hub)
