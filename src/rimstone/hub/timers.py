"""Deadlines of parked tasks: a heap with tombstones.

A timer is never taken out when its task is woken early, which is what nearly always happens: it is simply no longer
valid, since the task's ticket has moved on. Dead timers leave when they come to the top, or all at once when they are
the greater part of the heap, so the cost is O(1) a cancellation, amortised.
"""

import heapq
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rimstone.hub.task import AnyTask

__all__ = ["Timers"]

_COMPACT_ABOVE = 256


class Timers:
    """Deadlines on `clock.monotonic`, each for one park of one task."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, AnyTask, int]] = []
        self._order = count()  # equal deadlines fire in the order they were set
        self._compact_at = _COMPACT_ABOVE

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, deadline: float, task: "AnyTask") -> None:
        """Wake *task* at *deadline*, unless its present park has ended by then."""
        heap = self._heap
        heapq.heappush(heap, (deadline, next(self._order), task, task.ticket))
        if len(heap) > self._compact_at:
            heap[:] = [timer for timer in heap if timer[2].ticket == timer[3]]
            heapq.heapify(heap)
            self._compact_at = max(_COMPACT_ABOVE, 2 * len(heap))

    def next_deadline(self) -> float | None:
        """When the next valid timer is due; None when there is none."""
        heap = self._heap
        while heap:
            deadline, _, task, ticket = heap[0]
            if task.ticket == ticket:
                return deadline
            heapq.heappop(heap)
        return None

    def pop_due(self, now: float) -> "Iterator[AnyTask]":
        """The tasks whose deadline has come, in order.

        A timer leaves when the next one is asked for, so a signal handler that raises while its task is being woken
        costs nobody the wake. Nothing may be added meanwhile.
        """
        heap = self._heap
        while heap and heap[0][0] <= now:
            _, _, task, ticket = heap[0]
            if task.ticket == ticket:
                yield task
            heapq.heappop(heap)
