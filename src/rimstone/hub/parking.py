"""park / unpark: the one primitive on which every lock, queue, join and future of the library stands.

`waiter()` makes a one-shot object for whoever runs now. In a thread with a hub that is the current task, and `park`
lets the other tasks run; in any other thread it blocks the thread, natively. `unpark` works from any thread and from
signal handlers. So one lock serves tasks of different threads and plain threads alike.

The grant lives in the waiter, not in the task: between `waiter()` and `park()` the task may wait for something else,
and a waiter that is never parked needs no undoing.

A grant that comes before the task has resumed wins over a timeout or a kill that came first: `park` returns True, and
the kill is raised at the task's next park. Whoever unparked has given something away (a lock, an item, a notify) and
must be able to rely on it having arrived.
"""

import os
from threading import main_thread
from typing import TYPE_CHECKING, Protocol

from rimstone import clock
from rimstone._originals import allocate_lock, get_ident
from rimstone.hub.scheduler import Hub, current_hub
from rimstone.iomodel.base import KILLED, NEVER, TIMEOUT, UNPARKED

if TYPE_CHECKING:
    from rimstone.hub.taskcore import TaskCore

__all__ = ["TaskWaiter", "Waiter", "waiter"]

_SIGNAL_CHECK_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 86_400.0 * 365  # what a native lock accepts is limited


class Waiter(Protocol):
    """One wait of one task or thread. Create it, tell others of it, then `park`."""

    def park(self, deadline: float | None = None) -> bool:
        """Wait for `unpark`; False if *deadline* (on `clock.monotonic`) passed first. By its creator."""

    def unpark(self) -> bool:
        """End the wait, now or in advance. Any thread, any signal handler; never blocks; again does nothing.

        Returns:
            False if nobody will ever go on from this wait: its thread has ended, or is not in this forked child. What
            was to be given away with the wake must go to somebody else.
        """

    def cancel(self) -> None:
        """There is no need to park. By its creator; says so to the reader, since nothing has to be undone."""


class TaskWaiter:
    """Parks one task of one hub.

    Attributes:
        granted: True once somebody has unparked it.
    """

    __slots__ = ("_hub", "_task", "granted")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._task = hub.current
        self.granted = False

    def park(self, deadline: float | None = None) -> bool:
        task: TaskCore = self._hub.current
        while not self.granted:
            self._hub.check_wait()
            task.enlisted = True
            reason = self._hub.wait(self, NEVER if deadline is None else deadline)
            if self.granted:  # also if a kill came with it, or before it: what was granted must not be lost
                return True
            if reason == TIMEOUT:
                return False
            if reason == KILLED:
                task.raise_pending()
        return True

    def unpark(self) -> bool:
        hub = self._hub
        if hub.closed:
            return False
        self.granted = True
        if get_ident() != hub.thread_id or not self._task.parked:
            # If it is not parked, this is a signal handler, and the task may have looked at `granted` a moment ago.
            hub.unpark_soon(self)
            return True
        self.wake_task()
        if hub.polling:  # a signal handler, while this thread waits in poll: the system call is going to be retried
            hub.io.wake()
        return True

    def wake_task(self) -> None:
        """Let the task run if it is parked on this waiter. In the hub's thread; again does nothing."""
        if self._task.waiting is self:
            self._hub.make_ready(self._task, UNPARKED)

    def cancel(self) -> None:
        pass


_forks = [0]  # how many forks lie between this process and the first: threads that waited before one are not here


def _after_fork_in_child() -> None:
    _forks[0] += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class _ThreadWaiter:
    __slots__ = ("_forks", "_lock")

    def __init__(self) -> None:
        self._forks = _forks[0]
        self._lock = allocate_lock()
        self._lock.acquire()

    def park(self, deadline: float | None = None) -> bool:
        # A signal that arrives just before the system call begins does not interrupt it, and Ctrl-C would be lost until
        # the next one. So the main thread looks up once a second: to ask which it is calls a function in Python, and
        # there, never in the compiled core, handlers run.
        while get_ident() == main_thread().ident:
            left = _SIGNAL_CHECK_SECONDS if deadline is None else max(0.0, deadline - clock.monotonic())
            if self._lock.acquire(timeout=min(left, _SIGNAL_CHECK_SECONDS)):
                return True
            if left <= _SIGNAL_CHECK_SECONDS and deadline is not None:
                return False
        if deadline is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=min(max(0.0, deadline - clock.monotonic()), _LONGEST_WAIT_SECONDS))

    def unpark(self) -> bool:
        try:
            self._lock.release()
        except RuntimeError:
            pass  # unparked before
        return self._forks == _forks[0]

    def cancel(self) -> None:
        pass


def waiter() -> Waiter:
    """A `Waiter` for the current task, or for the current thread where no hub runs."""
    hub = current_hub()
    return _ThreadWaiter() if hub is None else TaskWaiter(hub)
