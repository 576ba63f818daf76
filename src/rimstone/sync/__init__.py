"""Locks and queues that park a task in a hub and block the thread elsewhere. All stand on `rimstone.hub.waiter`."""

from rimstone.sync.lock import Lock, NotifyLock
from rimstone.sync.rlock import RLock
from rimstone.sync.simplequeue import SimpleQueue

__all__ = ["Lock", "NotifyLock", "RLock", "SimpleQueue"]
