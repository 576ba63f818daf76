"""select(2): portable, simple, for descriptors below FD_SETSIZE (1,024). Read `base.py` and `_readiness.py` first.

Level-triggered and without registration: the sets that the kernel gets are just the keys of who waits. That makes it
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
        if fd in self._readers or fd in self._writers:
            os.fstat(fd)  # a closed descriptor must fail here, for the task that waits, not in `poll` for all of them

    def poll(self, timeout: float | None) -> None:
        try:
            readable, writable, exceptional = select_select(
                [self._wakeup.fd, *self._readers], list(self._writers), list(self._writers), timeout
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
        for fd in {*self._readers, *self._writers}:
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
        waiting = {*self._readers, *self._writers}
        return f"<SelectModel, {len(self._entries)} sockets known, {len(waiting)} descriptors waited for>"
