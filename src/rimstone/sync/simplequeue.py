"""SimpleQueue: what `queue.SimpleQueue` becomes. `put` never blocks and may be called from signal handlers."""

import queue
from collections import deque
from types import GenericAlias
from typing import Any

from rimstone import clock
from rimstone.hub import Waiter, waiter

__all__ = ["SimpleQueue"]


class SimpleQueue:
    """An unbounded FIFO; the interface of `queue.SimpleQueue`. `get` parks a task, or blocks a thread without a hub."""

    __slots__ = ("__weakref__", "_items", "_waiters")

    __class_getitem__: Any = classmethod(GenericAlias)

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._waiters: deque[Waiter] = deque()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ARG002 - as in queue
        """Append *item*; the other arguments are there for compatibility and ignored. Never blocks."""
        self._items.append(item)
        self._wake_next()

    put_nowait = put

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the oldest item, waiting at most *timeout* seconds for one.

        Raises:
            queue.Empty: there is none (in time).
        """
        if block and timeout is not None and not timeout >= 0:
            raise ValueError("'timeout' must be a non-negative number")
        items = self._items
        try:
            return items.popleft()
        except IndexError:
            if not block:
                raise queue.Empty from None
        deadline = clock.deadline_after(timeout)
        while True:
            waiting = waiter()
            try:
                self._waiters.append(waiting)
                if not items and not waiting.park(deadline) and not items:
                    raise queue.Empty
                return items.popleft()
            except IndexError:
                continue  # somebody who did not wait was faster
            finally:
                # If a `put` chose us and there is still something to take, the next one in line must look: we may be
                # going away with an exception, or with an item that was there before.
                if not self._leave(waiting) and items:
                    self._wake_next()

    def get_nowait(self) -> Any:
        """Take the oldest item or raise `queue.Empty`."""
        return self.get(block=False)

    def _wake_next(self) -> None:
        while True:
            try:
                waiting = self._waiters.popleft()
            except IndexError:
                return
            if waiting.unpark():
                return

    def _leave(self, waiting: Waiter) -> bool:
        try:
            self._waiters.remove(waiting)
        except ValueError:
            return False
        return True

    def empty(self) -> bool:
        """True when there is nothing to take now."""
        return not self._items

    def qsize(self) -> int:
        """How many items there are now."""
        return len(self._items)

    def __repr__(self) -> str:
        return f"<rimstone.sync.SimpleQueue, {len(self._items)} items, {len(self._waiters)} waiting, at {id(self):#x}>"
