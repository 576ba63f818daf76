"""Lock: what `threading.Lock` becomes. One object for tasks of any thread and for plain threads.

The state is a native lock that is only ever *tried*, so that taking a free lock costs one C call. Who finds it taken
puts a waiter in line, tries once more (the owner may have left in between), and parks. `release` frees the lock first
and then wakes the head of the line, who tries again: a running thread may slip in before it (as with the native
lock), which is why a lock that is passed around in a loop does not cost a switch each time.

That may happen to a waiter once. Beaten, it becomes an *heir*: it gets into a line of its own, and while somebody is in
that line `release` does not free the lock but hands it over. To be taken out of the line of heirs *is* to own the lock,
so whoever takes one out must hold the native lock.

No wake is lost: a waiter that was woken but leaves without the lock (timeout, kill) wakes the next one, and an heir
that goes away with an exception releases what it was given. Waiters whose thread has ended, or was left behind by a
fork, are passed over.

What `threading.Condition` asks of its locks
--------------------------------------------
`Condition.wait` is Python code of the standard library: it parks on a fresh lock of its own (`NotifyLock` here), and in
its `finally` takes the caller's lock back (`_acquire_restore`). Taking it back is shielded from kills, since the caller
relies on holding it, whatever ended the wait. And a notify must not be lost with a task that is killed: `notify` gives
the wake to one waiter and counts it, unless releasing that waiter's lock raises RuntimeError. So a `NotifyLock` whose
wait is ended by an exception frees itself, and one whose waiter is gone for ever says so as well.
"""

from collections import deque
from types import TracebackType

from rimstone import clock
from rimstone._originals import allocate_lock
from rimstone.errors import HubError
from rimstone.hub import Waiter, current_task, waiter
from rimstone.hub.scheduler import append_context
from rimstone.hub.timeout import throw_later

__all__ = ["Lock", "NotifyLock", "ShieldedLock", "acquire_shielded", "check_timeout"]


class Lock:
    """Mutual exclusion; the interface of `threading.Lock`. Waiting parks a task, or blocks a thread without a hub."""

    __slots__ = ("__weakref__", "_heirs", "_native", "_waiters")

    def __init__(self) -> None:
        self._native = allocate_lock()
        self._waiters: deque[Waiter] = deque()
        self._heirs: deque[Waiter] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock; False if it is not to be had (at once, or within *timeout* seconds).

        Raises:
            ValueError: a timeout together with blocking=False, or a negative one other than -1.
        """
        if timeout != -1:
            check_timeout(blocking, timeout)
        if self._native.acquire(False):
            return True
        if not blocking:
            return False
        return self._acquire_slowly(None if timeout == -1 else clock.monotonic() + timeout)

    def _acquire_slowly(self, deadline: float | None) -> bool:
        native = self._native
        waiters = self._waiters
        while True:
            waiting = waiter()
            leaving = True
            try:
                waiters.append(waiting)
                if native.acquire(False):
                    leaving = False
                    return True
                woken = waiting.park(deadline)
                if native.acquire(False):
                    leaving = False
                    return True
                leaving = not woken
            finally:
                # If `release` chose us although we go away without the lock (timeout, kill), its wake belongs to the
                # next in line.
                if not _leave(waiters, waiting) and leaving:
                    self._wake_next()
            if leaving:
                return False
            # Somebody who did not wait was faster. Once is enough.
            taken = self._inherit(deadline)
            if taken is not None:
                return taken

    def _inherit(self, deadline: float | None) -> bool | None:
        """Wait until an owner hands the lock over; False if *deadline* came first, None if it was woken for nothing."""
        heirs = self._heirs
        waiting = waiter()
        taken = False
        try:
            heirs.appendleft(waiting)
            taken = self._native.acquire(False)
            woken = taken or waiting.park(deadline)
        except BaseException:
            if not _leave(heirs, waiting) or taken:
                Lock.release(self)
            raise
        if _leave(heirs, waiting):
            return taken or (None if woken else False)
        if taken:  # and handed over as well: somebody else has released what we had just taken
            Lock.release(self)
        return True

    def release(self) -> None:
        """Give it back; any thread or task may.

        Raises:
            RuntimeError: it is not held.
        """
        if self._heirs and self._native.locked() and self._hand_over():
            return
        self._native.release()
        if self._waiters or self._heirs:
            self._wake_next()

    def _hand_over(self) -> bool:
        """Make the first heir the owner; False if there is none. By the owner, who is it no more if this is True."""
        heirs = self._heirs
        while heirs:
            try:
                waiting = heirs.popleft()
            except IndexError:
                break
            if waiting.unpark():
                return True
        return False

    def _wake_next(self) -> bool:
        """Let the next in line try to take the lock; False if there was somebody, but nobody who can still run."""
        while self._heirs:
            if not self._native.acquire(False):
                return True  # whoever has taken it hands it over
            if self._hand_over():
                return True
            self._native.release()
        found = True
        while True:
            try:
                waiting = self._waiters.popleft()
            except IndexError:
                return found
            if waiting.unpark():
                return True
            found = False

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

    # For threading.Condition; see the head of this file.

    def _release_save(self) -> None:
        self.release()

    def _acquire_restore(self, _: None) -> None:
        acquire_shielded(self)

    def _is_owned(self) -> bool:
        return self.locked()

    def _at_fork_reinit(self) -> None:
        self._native = allocate_lock()
        self._waiters = deque()
        self._heirs = deque()

    acquire_lock = acquire
    release_lock = release
    locked_lock = locked

    def __repr__(self) -> str:
        state = "locked" if self.locked() else "unlocked"
        return f"<{state} rimstone.sync.Lock, {len(self._waiters) + len(self._heirs)} waiting, at {id(self):#x}>"


class NotifyLock(Lock):
    """The lock that `threading.Condition.wait` parks on. A wait that ends in an exception frees it."""

    __slots__ = ()

    def release(self) -> None:
        """Give it back, which is what a notify does.

        Raises:
            RuntimeError: it is not held; or who waited for it can never run again, and the notify belongs to another.
        """
        if self._heirs and self._native.locked() and self._hand_over():
            return
        self._native.release()
        if (self._waiters or self._heirs) and not self._wake_next():
            raise RuntimeError("release lock of a waiter whose thread has ended")

    def _acquire_slowly(self, deadline: float | None) -> bool:
        try:
            return super()._acquire_slowly(deadline)
        except BaseException:
            try:
                self._native.release()
            except RuntimeError:
                pass  # notified a moment ago: by now nobody relies on it any more
            raise


class ShieldedLock(Lock):
    """The lock inside a semaphore: entering it is not cut short by a kill or a Timeout.

    Leaving `with semaphore:` takes this lock, and raising there would lose the permit for good. It is held for some
    steps at a time and never through a wait, so what is thrown comes a moment later: where the task waits next.
    """

    __slots__ = ()

    def __enter__(self) -> bool:
        if self._native.acquire(False):
            return True
        if current_task() is None:  # a thread is neither killed nor timed out; Ctrl-C is raised at once, as ever
            return self._acquire_slowly(None)
        acquire_shielded(self)
        return True


def acquire_shielded(lock: Lock) -> None:
    """Take *lock*, whatever is thrown into this task meanwhile; what was thrown is raised at its next parks, in order.

    A plain thread has no next park: there it is raised at once, the last with those before as its context.
    """
    thrown: list[BaseException] = []
    while True:
        try:
            lock.acquire()
            break
        except HubError as error:  # waiting is impossible here; trying again would be so as well
            for earlier in reversed(thrown):
                append_context(error, earlier)
            raise
        except BaseException as error:
            thrown.append(error)
    if thrown:
        throw_later(thrown)


def check_timeout(blocking: bool, timeout: float) -> None:
    """Refuse a *timeout* (other than -1, which is none) as the standard library does."""
    if not blocking:
        raise ValueError("can't specify a timeout for a non-blocking call")
    if not timeout >= 0:
        raise ValueError("timeout value must be a non-negative number")


def _leave(waiters: "deque[Waiter]", waiting: Waiter) -> bool:
    """Take *waiting* out of the line; False if it was not in it any more (somebody has woken it)."""
    try:
        waiters.remove(waiting)
    except ValueError:
        return False
    return True
