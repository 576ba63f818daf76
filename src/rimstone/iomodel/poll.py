"""poll(2): select without its limit at descriptor 1,023. Read `base.py` and `_level.py` first.

The kernel still gets all descriptors that somebody waits for at each call, and looks at each of them: a thousand idle
connections cost every wait some hundred microseconds, and epoll none.
"""

import select

from rimstone import _originals
from rimstone.iomodel._level import LevelModel
from rimstone.iomodel._wakeup import Wakeup
from rimstone.iomodel.base import READ, WRITE, Scheduler

__all__ = ["PollModel"]

_READABLE = _WRITABLE = _ENDED = 0
if hasattr(select, "poll"):  # this file must import everywhere
    _READABLE, _WRITABLE = select.POLLIN, select.POLLOUT
    _ENDED = select.POLLHUP | select.POLLERR | select.POLLNVAL  # asked for or not, the kernel reports them


class PollModel(LevelModel):
    """Where there is neither epoll nor kqueue, the one for many connections."""

    name = "poll"

    def __init__(self, scheduler: Scheduler) -> None:
        self._wakeup = Wakeup()
        super().__init__(scheduler, self._wakeup)
        assert _originals.poll is not None
        self._poll = _originals.poll()
        self._poll.register(self._wakeup.fd, _READABLE)

    @classmethod
    def why_unavailable(cls) -> str | None:
        return None if hasattr(select, "poll") else "this system has no poll"

    def _interest_changed(self, fd: int, wanted: int) -> None:
        if wanted:
            mask = (_READABLE if wanted & READ else 0) | (_WRITABLE if wanted & WRITE else 0)
            self._poll.register(fd, mask)  # replaces the mask that it has
            return
        try:
            self._poll.unregister(fd)
        except KeyError:
            pass  # not waited for before either

    def poll(self, timeout: float | None) -> None:
        for fd, mask in self._poll.poll(None if timeout is None else timeout * 1000):
            if fd == self._wakeup.fd:
                self._wakeup.clear()
            else:
                # An end shows to whoever waits, in either direction; POLLNVAL: closed behind our back.
                self._ready(
                    fd, (READ if mask & (_READABLE | _ENDED) else 0) | (WRITE if mask & (_WRITABLE | _ENDED) else 0)
                )
