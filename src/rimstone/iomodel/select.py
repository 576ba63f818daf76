"""select(2): portable, simple, for descriptors below FD_SETSIZE (1,024). Read `base.py` and `_readiness.py` first.

Level-triggered and without registration: the kernel gets the sets of descriptors that somebody waits for. That makes it
the reference that the other models are compared with, and the model where there is no epoll.
"""

import errno
import os

from rimstone._originals import select_select
from rimstone.errors import IOModelUnavailable
from rimstone.iomodel._readiness import ReadinessModel
from rimstone.iomodel._wakeup import Wakeup
from rimstone.iomodel.base import READ, WRITE, Scheduler

__all__ = ["SelectModel"]

FD_SETSIZE = 1024


class SelectModel(ReadinessModel):
    """Works on every system that has sockets."""

    name = "select"

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(scheduler)
        self._wakeup = Wakeup()
        self._reading: set[int] = set()
        self._writing: set[int] = set()
        if self._wakeup.fd >= FD_SETSIZE:
            self._wakeup.close()
            raise IOModelUnavailable(
                f"the select model ends at descriptor {FD_SETSIZE - 1}, and this process has more open already; "
                "use another one (RIMSTONE_IO_MODEL=epoll) or fewer connections"
            )

    def _watch(self, fd: int) -> None:
        if fd >= FD_SETSIZE:
            raise OSError(
                errno.EINVAL,
                f"descriptor {fd} is too large for the select model, which ends at {FD_SETSIZE - 1}; "
                "use another one (RIMSTONE_IO_MODEL=epoll) or fewer connections",
            )
        wanted = self._wanted(fd)
        if wanted:
            os.fstat(fd)  # a closed descriptor must fail here, for the task that waits, not in `poll` for all of them
        for direction, waiting in ((READ, self._reading), (WRITE, self._writing)):
            if wanted & direction:
                waiting.add(fd)
            else:
                waiting.discard(fd)

    def _ready(self, fd: int, events: int) -> None:
        super()._ready(fd, events)
        self._watch_quietly(fd)

    def poll(self, timeout: float | None) -> None:
        try:
            readable, writable, exceptional = select_select(
                [self._wakeup.fd, *self._reading], list(self._writing), list(self._writing), timeout
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

    def _wake_closed(self) -> None:
        """Somebody closed a descriptor behind our back; whoever waits for it finds out by trying again."""
        for fd in {*self._reading, *self._writing}:
            try:
                os.fstat(fd)
            except OSError:
                self._ready(fd, READ | WRITE)

    def wake(self) -> None:
        self._wakeup.set()

    def close(self) -> None:
        super().close()
        self._wakeup.close()

    def __repr__(self) -> str:
        return f"<SelectModel, {self._state()}>"
