"""threading.Lock, RLock and local, queue.SimpleQueue and Thread.join: the leaves that the others stand on.

Condition, Event, Semaphore, Barrier and the other queues are Python code over these. Threads stay threads; joining one
waits in C, so `Thread.join` is replaced in place, on its class. So is `Semaphore.__init__`, for the sake of the lock it
makes: a task that is killed while it leaves `with semaphore:` must not keep its permit.
`_thread.allocate_lock` is left alone: the import system takes its locks there.
"""

import functools
import queue
import threading

from rimstone import clock
from rimstone.hub import current_hub, local
from rimstone.hub.offload import offload
from rimstone.sync import Lock, NotifyLock, RLock, SimpleQueue
from rimstone.sync.lock import ShieldedLock

__all__ = ["patch"]

# Joins share the offload threads with DNS and with each other, and what they join may need one of those: a join gives
# its thread back now and then.
_JOIN_SECONDS = 0.5
_original_join = threading.Thread.join


def join(self: threading.Thread, timeout: float | None = None) -> None:
    """Wait until the thread ends; in a hub, let the other tasks run meanwhile."""
    # The original raises for a thread that cannot be joined, and need not wait for one that has ended.
    if (
        current_hub() is None
        or not getattr(self, "_initialized", False)
        or self is threading.current_thread()
        or not threading.Thread.is_alive(self)
    ):
        return _original_join(self, timeout)
    deadline = clock.deadline_after(timeout)
    while threading.Thread.is_alive(self):
        left = clock.remaining(deadline)
        if left is not None and left <= 0:
            return None
        wait = _JOIN_SECONDS if left is None else min(left, _JOIN_SECONDS)
        try:
            offload(_original_join, self, wait)
        except RuntimeError:  # no thread can be started, or the interpreter is ending: wait as it always did
            return _original_join(self, clock.remaining(deadline))
    return _original_join(self, 0)  # 3.13 has something left to do for a thread that has just ended


_original_semaphore_init = threading.Semaphore.__init__


@functools.wraps(_original_semaphore_init)
def init_semaphore(self: threading.Semaphore, value: int = 1) -> None:
    """Give it a lock of ours whose taking is shielded."""
    _original_semaphore_init(self, value)
    self._cond = threading.Condition(ShieldedLock())  # type: ignore[attr-defined, arg-type]


def patch() -> None:
    threading.Lock = Lock  # type: ignore[assignment]
    threading.RLock = RLock  # type: ignore[assignment]
    threading._allocate_lock = NotifyLock  # type: ignore[attr-defined]  # Condition.wait parks on one of these
    threading.local = local  # type: ignore[assignment]
    threading.Thread.join = join  # type: ignore[method-assign]
    threading.Semaphore.__init__ = init_semaphore  # type: ignore[method-assign]
    queue.SimpleQueue = SimpleQueue  # type: ignore[assignment, misc]
