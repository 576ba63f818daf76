"""What select, poll and nonblocking share: they ask anew each time. Read `base.py` and `_readiness.py` first.

Level-triggered and without a registration that outlives the wait: a descriptor is asked about while somebody waits for
it, and no longer. So none of these models can miss an event, whatever is raised in the middle of a poll, or be misled
by a number that was closed and handed out again.
"""

import os
from typing import Protocol

from rimstone.iomodel._readiness import ReadinessModel
from rimstone.iomodel.base import READ, WRITE, Scheduler

__all__ = ["LevelModel"]


class _Wakes(Protocol):
    """What `wake` needs: a `Wakeup`, or what does without a descriptor."""

    def set(self) -> None: ...

    def close(self) -> None: ...


class LevelModel(ReadinessModel):
    """Knows what is waited for. Subclasses ask about it in `poll`, and hear of changes by `_interest_changed`."""

    def __init__(self, scheduler: Scheduler, wakeup: _Wakes) -> None:
        super().__init__(scheduler)
        self._ends_poll = wakeup
        self._interest: dict[int, int] = {}  # descriptor -> READ, WRITE or both; never 0

    def _interest_changed(self, fd: int, wanted: int) -> None:
        """Somebody waits for *wanted* of *fd*, or nobody any more (0). May be called again for what is known."""

    def _watch(self, fd: int) -> None:
        wanted = self._wanted(fd)
        if wanted:
            os.fstat(fd)  # a closed descriptor must fail here, for the task that waits, not in `poll` for all of them
            self._interest[fd] = wanted
        else:
            self._interest.pop(fd, None)
        self._interest_changed(fd, wanted)

    def _ready(self, fd: int, events: int) -> None:
        super()._ready(fd, events)
        self._drop_if_closed(fd)

    def _drop_if_closed(self, fd: int) -> None:
        """Go on asking about *fd* for who still waits, unless somebody closed it behind our back."""
        try:
            self._watch(fd)
        except OSError:
            self._interest.pop(fd, None)
            self._interest_changed(fd, 0)

    def _wake_closed(self) -> None:
        """Somebody closed a descriptor behind our back; whoever waits for it finds out by trying again."""
        for fd in tuple(self._interest):
            try:
                os.fstat(fd)
            except OSError:
                self._ready(fd, READ | WRITE)

    def wake(self) -> None:
        self._ends_poll.set()

    def close(self) -> None:
        super().close()
        self._ends_poll.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, {self._state()}>"
