"""Non-blocking IO without a multiplexer: ask, and if there is nothing, ask again. Read `base.py` and `_level.py` first.

The textbook's loop calls `recv` on every socket in turn, catches BlockingIOError, and begins anew. So does this model:
an operation tries its system call; while it would block, `poll` asks about its descriptor again and again, one system
call for each descriptor and round, until one says yes and its task tries again. What a round costs grows with the
number of connections, idle ones included, and while nothing comes all of it is in vain: that is what there is to see.

Why the question is poll(2) with one descriptor and no timeout, and not the operation itself: `poll` must not do what a
task may be killed before it takes, and no call asks without doing. A `recv` that fails takes a pending error with it,
MSG_PEEK or not, and neither `accept` nor `send` can be peeked at. The kernel's work is the same as for the `recv` that
gives EAGAIN, and no call ever waits for two descriptors, which is what a multiplexer is for.

The back-off
------------
After a round in vain the next one follows at once, then after pauses that double, up to `longest_pause` (1 ms): half a
millisecond of delay for a few per cent of a CPU. With a longest pause of 0 there are none, and one CPU is busy for as
long as anybody waits for a descriptor. Set it by subclass or argument, or for a whole process by RIMSTONE_BACKOFF_MS:

    class Spinning(NonblockingModel):
        longest_pause = 0.0

While nobody waits for a descriptor there is nothing to ask about, and the hub sleeps as with any other model.
"""

import math
import os
import select
from typing import Any

from rimstone import _originals, clock
from rimstone.iomodel._level import LevelModel
from rimstone.iomodel._pause import Pause
from rimstone.iomodel.base import READ, WRITE, Scheduler

__all__ = ["NonblockingModel", "read_environment"]

_FIRST_PAUSE_SECONDS = 0.000_05  # Linux lets nobody sleep for less anyhow: its timers have that much slack
_READABLE = _WRITABLE = _ENDED = 0
if hasattr(select, "poll"):  # this file must import everywhere
    _READABLE, _WRITABLE = select.POLLIN, select.POLLOUT
    _ENDED = select.POLLHUP | select.POLLERR | select.POLLNVAL


class NonblockingModel(LevelModel):
    """Asks about each descriptor, one after the other, for as long as somebody waits.

    Attributes:
        longest_pause: Where the back-off ends, in seconds; 0 for none.
    """

    name = "nonblocking"
    longest_pause = 0.001

    def __init__(self, scheduler: Scheduler, longest_pause: float | None = None) -> None:
        """Make one for the hub *scheduler*.

        Args:
            scheduler: The hub.
            longest_pause: Where the back-off ends, in seconds, 0 for none. None: what RIMSTONE_BACKOFF_MS says, else
                what the class says.
        Raises:
            ValueError: *longest_pause*, or RIMSTONE_BACKOFF_MS, is no time.
        """
        self._pause = Pause()
        super().__init__(scheduler, self._pause)
        self.longest_pause = _longest_pause(longest_pause, type(self).longest_pause)
        self._questions: dict[int, Any] = {}  # descriptor -> a poll object that has no other one

    @classmethod
    def why_unavailable(cls) -> str | None:
        return None if hasattr(select, "poll") else "this system has no poll to ask about one descriptor"

    def _interest_changed(self, fd: int, wanted: int) -> None:
        if not wanted:
            self._questions.pop(fd, None)
            return
        question = self._questions.get(fd)
        if question is None:
            assert _originals.poll is not None
            question = self._questions[fd] = _originals.poll()
        question.register(fd, (_READABLE if wanted & READ else 0) | (_WRITABLE if wanted & WRITE else 0))

    def poll(self, timeout: float | None) -> None:
        deadline = clock.deadline_after(timeout)
        pause = 0.0
        while not self._ask_all():
            left = clock.remaining(deadline)
            if self._questions:
                left = pause if left is None else min(pause, left)
                pause = min(2 * pause or _FIRST_PAUSE_SECONDS, self.longest_pause)
            if self._pause.is_cut_short(left) or (deadline is not None and clock.monotonic() >= deadline):
                return

    def _ask_all(self) -> bool:
        """One round; True if something has become ready."""
        found = False
        for fd, question in tuple(self._questions.items()):
            for _, mask in question.poll(0):
                found = True
                self._ready(
                    fd, (READ if mask & (_READABLE | _ENDED) else 0) | (WRITE if mask & (_WRITABLE | _ENDED) else 0)
                )
        return found


def read_environment() -> None:
    """Raise ValueError if RIMSTONE_BACKOFF_MS is no time; for whoever makes hubs later, or elsewhere."""
    _longest_pause(None, 0.0)


def _longest_pause(given: float | None, default: float) -> float:
    text = os.environ.get("RIMSTONE_BACKOFF_MS", "")
    if given is not None:
        said, seconds = f"longest_pause={given!r}", given
    elif text:
        said = f"RIMSTONE_BACKOFF_MS={text!r}"
        try:
            seconds = float(text) / 1000
        except ValueError:
            seconds = math.nan
    else:
        return default
    if not 0 <= seconds < math.inf:
        unit = "seconds" if given is not None else "milliseconds"
        raise ValueError(
            f"{said} is no time in {unit}; use 0 (never pause: one CPU is busy while anybody waits) or more"
        )
    return seconds
