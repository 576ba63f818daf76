"""epoll(7): one persistent edge-triggered registration per socket. Linux. Read `base.py` and `_readiness.py` first.

What the kernel does, and what follows
--------------------------------------
* A socket is registered once, at its first EAGAIN, for both directions with EPOLLET, and never modified: a connection
  that never has to wait costs no epoll_ctl at all, one that waits a thousand times costs one.
* An edge is reported once. None is lost, because every operation tries the system call first and waits only after
  EAGAIN: whatever arrives after that EAGAIN makes a new edge. An edge that nobody waits for is dropped.
* One report can stand for several things (data and FIN, two datagrams, data on both sides of an urgent mark). So a
  woken task tries until EAGAIN. One exception, which saves a system call a message: after a `recv` that got less than
  it asked for, a TCP stream is *dry*, and the next `recv` waits at once. Whatever comes later makes a new edge, and
  the marks that end a read early (end, error, urgent data) show in the events: once one was seen, never again.
* Edge-triggered also means that a stale registration (a descriptor that was dup'ed or inherited and closed here) can
  not spin the loop; under a reused number it causes one spurious wake, which "try again" absorbs.
* A raw descriptor (`wait`) may be closed by anybody at any time, so it is registered for one wait only and taken out
  again after it. If it was dup'ed before, the registration outlives the number and cannot be taken out; therefore
  EPOLLONESHOT: such a one reports once, where a level would spin. Whoever still waits after a report is armed again.
  If the number belongs to a registered socket, EPOLL_CTL_MOD makes the kernel look again, which turns the edge into a
  level for that one wait.
* Urgent data (EPOLLPRI) makes nothing readable: it wakes nobody, and only ends the use of `dry`.
"""

import select
from typing import Any

from rimstone.iomodel import _entry, _poller
from rimstone.iomodel._readiness import ReadinessModel
from rimstone.iomodel._wakeup import Wakeup
from rimstone.iomodel.base import IO, READ, WRITE, Scheduler

__all__ = ["EpollModel"]

_SOCKET_EVENTS = _READABLE = _WRITABLE = _MARKS = 0
if hasattr(select, "epoll"):  # this file must import everywhere
    _SOCKET_EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET
    _READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
    _WRITABLE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
    _MARKS = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLPRI


class EpollModel(ReadinessModel):
    """The default on Linux."""

    name = "epoll"

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(scheduler)
        self._poller = _poller.Poller()
        self._wakeup = Wakeup()
        self._wakeup_fd = self._wakeup.fd
        self._poller.register(self._wakeup_fd, select.EPOLLIN)
        self._watched: dict[int, int] = {}  # raw descriptors -> events registered

    @classmethod
    def why_unavailable(cls) -> str | None:
        return None if hasattr(select, "epoll") else "this system has no epoll, which is for Linux"

    def _arm(self, entry: _entry.SocketEntry) -> None:
        if entry.armed:
            return
        self._watched.pop(entry.fd, None)
        try:
            self._poller.register(entry.fd, _SOCKET_EVENTS)
        except FileExistsError:
            self._poller.modify(entry.fd, _SOCKET_EVENTS)
        entry.armed = True

    def _pause_in_vain(self, entry: _entry.SocketEntry, sock: Any, direction: int, until: float) -> int:
        return IO  # what is there already is not reported again

    def _disarm(self, entry: _entry.SocketEntry) -> None:
        pass  # the registration stays: that is the point of it

    def _watch(self, fd: int) -> None:
        wanted = self._wanted(fd)
        entry = self._entry_at(fd)
        if entry is not None and entry.armed:
            if wanted:
                entry.armed = False
                self._arm(entry)
            return
        mask = (select.EPOLLIN if wanted & READ else 0) | (select.EPOLLOUT if wanted & WRITE else 0)
        if mask == 0:
            if self._watched.pop(fd, None) is not None:
                self._poller.unregister(fd)
            return
        mask |= select.EPOLLONESHOT
        # Whatever we remember of it: the number may have been closed and handed out again since.
        try:
            self._poller.register(fd, mask)
        except FileExistsError:
            self._poller.modify(fd, mask)
        self._watched[fd] = mask

    def _unwatch(self, fd: int, entry: "_entry.SocketEntry | None") -> None:
        if self._watched.pop(fd, None) is not None or (entry is not None and entry.armed):
            try:
                self._poller.unregister(fd)
            except OSError:
                pass  # closed already: the kernel has dropped it

    def poll(self, timeout: float | None) -> None:
        self._poller.poll(self, timeout)

    def happened(self, fd: int, mask: int) -> None:
        """The kernel reports *mask* of *fd*."""
        if fd == self._wakeup_fd:
            self._wakeup.clear()
            return
        if mask & _MARKS:
            self._note_marks(fd)
        self._ready(fd, (READ if mask & _READABLE else 0) | (WRITE if mask & _WRITABLE else 0))
        if self._watched and fd in self._watched:
            self._watch_quietly(fd)  # one shot has been used: arm it for those who are left, or take it out

    def _note_marks(self, fd: int) -> None:
        entry = self._entry_at(fd)
        if entry is not None:
            entry.plain_tcp = entry.dry = False

    def wake(self) -> None:
        self._wakeup.set()

    def close(self) -> None:
        super().close()
        self._poller.close()
        self._wakeup.close()

    def __repr__(self) -> str:
        return f"<EpollModel, {self._state()}>"
