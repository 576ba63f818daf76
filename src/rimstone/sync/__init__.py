"""Locks and queues that park a task in a hub and block the thread elsewhere. All stand on `rimstone.hub.waiter`.

The standard library's classes on these locks (`standard.py`) are loaded at their first use: workers do without.
"""

import sys
from typing import TYPE_CHECKING, Any

from rimstone.sync.lock import Lock, NotifyLock
from rimstone.sync.rlock import RLock
from rimstone.sync.simplequeue import SimpleQueue

if TYPE_CHECKING:
    from rimstone.sync.standard import (
        Barrier,
        BoundedSemaphore,
        BrokenBarrierError,
        Condition,
        Empty,
        Event,
        Full,
        LifoQueue,
        PriorityQueue,
        Queue,
        Semaphore,
    )

    if sys.version_info >= (3, 13):
        from rimstone.sync.standard import ShutDown

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
if sys.version_info >= (3, 13):
    __all__ += ["ShutDown"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rimstone.sync import standard

    value = globals()[name] = getattr(standard, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
