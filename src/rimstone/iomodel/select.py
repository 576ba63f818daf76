"""select(2): portable, simple, for descriptors below FD_SETSIZE (1,024). Read `base.py` and `_level.py` first.

The kernel gets the sets of descriptors that somebody waits for, at each call, and both sides walk them from end to end.
That makes it the reference that the other models are compared with.
"""

import errno
import sys

from rimstone._originals import select_select
from rimstone.errors import IOModelUnavailable
from rimstone.iomodel._level import LevelModel
from rimstone.iomodel._wakeup import Wakeup
from rimstone.iomodel.base import READ, WRITE, Scheduler

__all__ = ["SelectModel"]

FD_SETSIZE = 1024


class SelectModel(LevelModel):
    """Works on every system that has sockets."""

    name = "select"
    max_fd = FD_SETSIZE - 1

    def __init__(self, scheduler: Scheduler) -> None:
        self._wakeup = Wakeup()
        super().__init__(scheduler, self._wakeup)
        self._reading: set[int] = set()
        self._writing: set[int] = set()
        if self._wakeup.fd >= FD_SETSIZE:
            self._wakeup.close()
            raise IOModelUnavailable(
                f"the select model ends at descriptor {FD_SETSIZE - 1}, and this process has more open already; "
                "use another one (RIMSTONE_IO_MODEL=epoll or poll) or fewer connections"
            )

    def _watch(self, fd: int) -> None:
        if fd >= FD_SETSIZE:
            raise OSError(
                errno.EINVAL,
                f"descriptor {fd} is too large for the select model, which ends at {FD_SETSIZE - 1}; "
                "use another one (RIMSTONE_IO_MODEL=epoll or poll) or fewer connections",
            )
        super()._watch(fd)

    def _interest_changed(self, fd: int, wanted: int) -> None:
        for direction, waiting in ((READ, self._reading), (WRITE, self._writing)):
            if wanted & direction:
                waiting.add(fd)
            else:
                waiting.discard(fd)

    def poll(self, timeout: float | None) -> None:
        writing = list(self._writing)
        # Windows reports a connection that was refused as an exception. Elsewhere that means urgent data, which wakes
        # nobody: a task that waits for room would be woken by it again and again.
        exceptions = writing if sys.platform == "win32" else []
        try:
            readable, writable, exceptional = select_select(
                [self._wakeup.fd, *self._reading], writing, exceptions, timeout
            )
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            self._wake_closed()
            return
        for fd in readable:
            if fd == self._wakeup.fd:
                self._wakeup.clear()
            else:
                self._ready(fd, READ)
        for fd in {*writable, *exceptional}:
            self._ready(fd, WRITE)
