"""threading.Lock, RLock and local, and queue.SimpleQueue: the leaves that the other primitives stand on.

Condition, Event, Semaphore, Barrier and the other queues are Python code over these. Threads stay threads.
`_thread.allocate_lock` is left alone: the import system takes its locks there.
"""

import queue
import threading

from rimstone.hub import local
from rimstone.sync import Lock, NotifyLock, RLock, SimpleQueue

__all__ = ["patch"]


def patch() -> None:
    threading.Lock = Lock  # type: ignore[assignment]
    threading.RLock = RLock  # type: ignore[assignment]
    threading._allocate_lock = NotifyLock  # type: ignore[attr-defined]  # Condition.wait parks on one of these
    threading.local = local  # type: ignore[assignment]
    queue.SimpleQueue = SimpleQueue  # type: ignore[assignment, misc]
