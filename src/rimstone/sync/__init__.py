"""Locks and queues that park a task in a hub and block the thread elsewhere. All stand on `rimstone.hub.waiter`.

The standard library's classes on these locks (`standard.py`) are loaded at their first use: workers do without.
"""

from typing import TYPE_CHECKING, Any

from rimstone.sync.lock import Lock, NotifyLock
from rimstone.sync.rlock import RLock
from rimstone.sync.simplequeue import SimpleQueue

if TYPE_CHECKING:  # subclasses of these, with nothing added
    from queue import Empty, Full, LifoQueue, PriorityQueue, Queue
    from threading import Barrier, BoundedSemaphore, BrokenBarrierError, Condition, Event, Semaphore

__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "BrokenBarrierError",
    "Condition",
    "Empty",
    "Event",
    "Full",
    "LifoQueue",
    "Lock",
    "NotifyLock",
    "PriorityQueue",
    "Queue",
    "RLock",
    "Semaphore",
    "SimpleQueue",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rimstone.sync import standard

    value = globals()[name] = getattr(standard, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
