"""Deadlines of parked tasks: a heap with at most one live timer for each task.

Nearly every timeout is satisfied long before it is due, and the next one of the same task lies a little later. So a
timer is never taken out when its task is woken, and not moved when the task parks again with a later deadline: the
task just remembers its `deadline`. Only when the timer comes to the top does anybody look: it is due, or it goes on to
where the deadline is now, or nothing waits for it any more. A socket timeout on every call costs two stores a call.

`task.timer` is the time of its live timer; one that says another time is a tombstone, left behind by an earlier
deadline. Tombstones leave when they come to the top, or all at once when they are the greater part of the heap.

A signal handler may raise between any two calls. Whatever is left half done then must be a timer too many, never one
too few: hence the order of the statements.
"""

import heapq
from itertools import count
from typing import TYPE_CHECKING

from rimstone.iomodel.base import NEVER

if TYPE_CHECKING:
    from rimstone.hub.taskcore import TaskCore

__all__ = ["NEVER", "Timers"]

_COMPACT_ABOVE = 256


class Timers:
    """Deadlines on `clock.monotonic`; a task's own is `task.deadline`, NEVER while it has none."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, TaskCore]] = []
        self._order = count()  # equal deadlines fire in the order they were set
        self._compact_at = _COMPACT_ABOVE

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, task: "TaskCore") -> None:
        """See to it that *task*, whose `deadline` is earlier than its `timer`, is found in time."""
        heapq.heappush(self._heap, (task.deadline, next(self._order), task))
        task.timer = task.deadline
        if len(self._heap) > self._compact_at:
            self._compact()

    def next_look(self) -> float:
        """When to call `due` at the latest. At that time it may find nothing, and then the time of the next look."""
        return self._heap[0][0] if self._heap else NEVER

    def next_deadline(self) -> float:
        """When the next task is due, exactly; NEVER if there is none."""
        while self._heap:
            deadline, _, task = self._heap[0]
            if task.timer == deadline == task.deadline:
                return deadline
            self._settle_first()
        return NEVER

    def due(self, now: float) -> "TaskCore | None":
        """A task whose deadline has come, the earliest first; None if there is none.

        It is found again until its deadline is another one.
        """
        while self._heap:
            deadline, _, task = self._heap[0]
            if deadline > now:
                break
            if task.timer == deadline == task.deadline:
                return task
            self._settle_first()
        return None

    def _settle_first(self) -> None:
        """The first timer is a tombstone, or its task has another deadline now."""
        deadline, _, task = self._heap[0]
        if task.timer == deadline:
            if task.deadline != NEVER:  # later, or `add` would have made an earlier timer
                heapq.heappush(self._heap, (task.deadline, next(self._order), task))
            task.timer = task.deadline
        heapq.heappop(self._heap)

    def _compact(self) -> None:
        live = []
        for timer in self._heap:
            task = timer[2]
            if task.timer == timer[0]:
                if task.deadline == NEVER:
                    task.timer = NEVER
                else:
                    live.append(timer)
        heapq.heapify(live)
        self._heap = live
        self._compact_at = max(_COMPACT_ABOVE, 2 * len(live))
