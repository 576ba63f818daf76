"""Lock: what `threading.Lock` becomes. One object for tasks of any thread and for plain threads.

The state is a native lock that is only ever *tried*, so that taking a free lock costs one C call. Who finds it taken
puts a waiter in line, tries once more (the owner may have left in between), and parks. `release` frees the lock first
and then wakes the head of the line, who tries again: a running thread may slip in before it (as with the native
lock), which is why a lock that is passed around in a loop does not cost a switch each time.

No wake is lost: a waiter that was woken but leaves without the lock (timeout, kill) wakes the next one.
"""

from collections import deque
from types import TracebackType

from rimstone import clock
from rimstone._originals import allocate_lock
from rimstone.hub import Waiter, waiter

__all__ = ["Lock"]


class Lock:
    """Mutual exclusion; the interface of `threading.Lock`. Waiting parks a task, or blocks a thread without a hub."""

    __slots__ = ("__weakref__", "_native", "_waiters")

    def __init__(self) -> None:
        self._native = allocate_lock()
        self._waiters: deque[Waiter] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock; False if it is not to be had (at once, or within *timeout* seconds).

        Raises:
            ValueError: a timeout together with blocking=False, or a negative one other than -1.
        """
        if self._native.acquire(False):
            if timeout != -1:
                _check(blocking, timeout)
            return True
        _check(blocking, timeout)
        if not blocking:
            return False
        return self._acquire_slowly(None if timeout == -1 else clock.monotonic() + timeout)

    def _acquire_slowly(self, deadline: float | None) -> bool:
        native = self._native
        waiters = self._waiters
        while True:
            waiting = waiter()
            waiters.append(waiting)
            if native.acquire(False):
                waiting.cancel()
                _leave(waiters, waiting)
                return True
            woken = False
            try:
                woken = waiting.park(deadline)
            finally:
                # Either the wait failed, or it ends in an exception (a kill). If `release` had chosen us all the same,
                # its wake belongs to the next in line.
                if not woken and not _leave(waiters, waiting):
                    self._wake_next()
            if native.acquire(False):
                return True
            if not woken:
                return False

    def release(self) -> None:
        """Give it back; any thread or task may.

        Raises:
            RuntimeError: it is not held.
        """
        self._native.release()
        if self._waiters:
            self._wake_next()

    def _wake_next(self) -> None:
        try:
            waiting = self._waiters.popleft()
        except IndexError:
            return
        waiting.unpark()

    def locked(self) -> bool:
        """True while somebody holds it."""
        return self._native.locked()

    def __enter__(self) -> bool:
        if self._native.acquire(False):
            return True
        return self._acquire_slowly(None)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _at_fork_reinit(self) -> None:
        self._native = allocate_lock()
        self._waiters = deque()

    acquire_lock = acquire
    release_lock = release
    locked_lock = locked

    def __repr__(self) -> str:
        state = "locked" if self.locked() else "unlocked"
        return f"<{state} rimstone.sync.Lock, {len(self._waiters)} waiting, at {id(self):#x}>"


def _check(blocking: bool, timeout: float) -> None:
    if timeout != -1:
        if not blocking:
            raise ValueError("can't specify a timeout for a non-blocking call")
        if timeout < 0:
            raise ValueError("timeout value must be a non-negative number")


def _leave(waiters: "deque[Waiter]", waiting: Waiter) -> bool:
    """Take *waiting* out of the line; False if it was not in it any more (somebody has woken it)."""
    try:
        waiters.remove(waiting)
    except ValueError:
        return False
    return True
