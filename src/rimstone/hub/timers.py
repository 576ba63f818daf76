"""Deadlines of parked tasks: a heap with at most one live timer for each task.

Nearly every timeout is satisfied long before it is due, and the next one of the same task lies a little later. So a
timer is never taken out when its task is woken, and not moved when the task parks again with a later deadline: the
task just remembers its `deadline`. Only when the timer comes to the top does anybody look: it is due, or it goes on to
where the deadline is now, or nothing waits for it any more. A socket timeout on every call costs two stores a call.

`task.timer` is the time of its live timer; one that says another time is a tombstone, left behind by an earlier
deadline. Tombstones leave when they come to the top, or all at once when they are the greater part of the heap.

Since timers stay behind, they must not keep what has ended: they refer to tasks weakly. It is the hub that keeps a task
as long as it has not ended; only an alarm, which nobody else need keep, is kept by its timer.

A signal handler may raise between any two calls. Whatever is left half done then must be a timer too many, never one
too few: hence the order of the statements.
"""

import heapq
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import ref

from rimstone.iomodel.base import NEVER

if TYPE_CHECKING:
    from rimstone.hub.taskcore import TaskCore

__all__ = ["NEVER", "Timers"]

_COMPACT_ABOVE = 256


class Timers:
    """Deadlines on `clock.monotonic`; a task's own is `task.deadline`, NEVER while it has none."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Any]] = []  # deadline, order, and an alarm or a weak reference to a task
        self._order = count()  # equal deadlines fire in the order they were set
        self._pushes = 0
        self._compact_at = _COMPACT_ABOVE

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, task: "TaskCore") -> None:
        """See to it that *task*, whose `deadline` is earlier than its `timer`, is found in time while it is there."""
        self._push(task, ref(task))

    def add_kept(self, task: "TaskCore") -> None:
        """The same for one that must not go away before."""
        self._push(task, task)

    def _push(self, task: "TaskCore", who: Any) -> None:
        self._pushes += 1
        heapq.heappush(self._heap, (task.deadline, next(self._order), who))
        task.timer = task.deadline
        if len(self._heap) > self._compact_at:
            self._compact()

    def next_look(self) -> float:
        """When to call `due` at the latest. At that time it may find nothing, and then the time of the next look."""
        return self._heap[0][0] if self._heap else NEVER

    def is_first_live(self) -> bool:
        """True if the first timer is a live one: somebody is going to be woken by a timer, then or later."""
        if not self._heap:
            return False
        deadline, _, who = self._heap[0]
        task = _task_of(who)
        return task is not None and task.timer == deadline and task.deadline != NEVER

    def next_deadline(self) -> float:
        """When the next task is due, exactly; NEVER if there is none."""
        while self._heap:
            deadline, _, who = self._heap[0]
            task = _task_of(who)
            if task is not None and task.timer == deadline == task.deadline:
                return deadline
            self._settle_first()
        return NEVER

    def due(self, now: float) -> "TaskCore | None":
        """A task whose deadline has come, the earliest first; None if there is none.

        It is found again until its deadline is another one.
        """
        while self._heap:
            deadline, _, who = self._heap[0]
            if deadline > now:
                break
            task = _task_of(who)
            if task is not None and task.timer == deadline == task.deadline:
                return task
            self._settle_first()
        return None

    def _settle_first(self) -> None:
        """The first timer is a tombstone, or its task has another deadline now."""
        first = self._heap[0]
        deadline, _, who = first
        task = _task_of(who)
        if task is not None and task.timer == deadline:
            if task.deadline != NEVER:  # later, or `add` would have made an earlier timer
                self._pushes += 1
                heapq.heappush(self._heap, (task.deadline, next(self._order), who))
            task.timer = task.deadline
        heap = self._heap
        if heap and heap[0] is first:  # else a signal handler has set an earlier one, or has waited and taken this out
            heapq.heappop(heap)

    def _compact(self) -> None:
        pushes = self._pushes
        live = []
        for timer in tuple(self._heap):  # a signal handler that waits takes some out
            task = _task_of(timer[2])
            if task is not None and task.timer == timer[0]:
                if task.deadline == NEVER:
                    task.timer = NEVER
                else:
                    live.append(timer)
        heapq.heapify(live)
        self._compact_at = max(_COMPACT_ABOVE, 2 * len(live))
        if self._pushes == pushes:  # else a signal handler has added one, which is not among them: next time, then
            self._heap = live


def _task_of(who: Any) -> "TaskCore | None":
    """The task of a timer; None if it has ended and is gone."""
    return who() if type(who) is ref else who
