"""kqueue(2) of macOS and the BSDs, used as `epoll.py` uses epoll. Read `base.py`, `_readiness.py` and `epoll.py` first.

Tried with the shared contract against a kqueue made of epolls (`rimstone.testing.fake_kqueue`), which knows what the
manuals say; the same test file takes the kernel's where there is one.

What the kernel does, and what follows
--------------------------------------
* A socket gets its two filters once, at its first EAGAIN, with EV_CLEAR: each change is reported once. None is lost,
  for the reason that `epoll.py` gives. Adding a filter reports what is there already.
* A filter belongs to the number and goes when that is closed, also if a copy lives on: no stale registration. What is
  left to do by hand is `detach`, which gives up a number that stays open.
* A raw descriptor (`wait`) gets EV_ONESHOT, for one wait; what was not used up is taken out after it. The manuals do
  not say what a second EV_ADD does to the flags of the first, so a filter is deleted before it is added otherwise.
* The read filter of a regular file reports nothing at its end, where a read does not wait either. So regular files
  never come here: they are always ready.
* A short read does not end the trying here (`dry` of the epoll model): which marks end one early is not documented.
"""

import errno
import os
import select
import stat
from collections import deque
from itertools import chain, starmap
from typing import Any

from rimstone.iomodel import _entry
from rimstone.iomodel._readiness import ReadinessModel
from rimstone.iomodel._wakeup import Wakeup
from rimstone.iomodel.base import IO, READ, WRITE, Scheduler

__all__ = ["KqueueModel"]

_MAX_EVENTS = 512
_kq: Any = select  # its names for kqueue exist on macOS and the BSDs only


class KqueueModel(ReadinessModel):
    """The default on macOS."""

    name = "kqueue"

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(scheduler)
        self._pid = os.getpid()
        self._kqueue = _kq.kqueue()
        self._wakeup = Wakeup()
        self._watched: dict[int, int] = {}  # raw descriptors -> READ, WRITE or both
        # Reported by the kernel and not passed on yet: a signal handler may raise anywhere, and an edge that is dropped
        # is never reported again.
        self._events: deque[Any] = deque()
        self._add(self._wakeup.fd, READ, 0)

    @classmethod
    def why_unavailable(cls) -> str | None:
        return None if hasattr(select, "kqueue") else "this system has no kqueue, which is for macOS and the BSDs"

    def _add(self, fd: int, events: int, flags: int) -> None:
        self._change(fd, events, _kq.KQ_EV_ADD | flags)

    def _delete(self, fd: int, events: int) -> None:
        for one in (READ, WRITE):
            if events & one:
                try:
                    self._change(fd, one, _kq.KQ_EV_DELETE)
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.EBADF):  # used up; closed
                        raise

    def _change(self, fd: int, events: int, flags: int) -> None:
        filters = [number for one, number in ((READ, _kq.KQ_FILTER_READ), (WRITE, _kq.KQ_FILTER_WRITE)) if events & one]
        self._kqueue.control([_kq.kevent(fd, number, flags) for number in filters], 0, 0)

    def _arm(self, entry: _entry.SocketEntry) -> None:
        if not entry.armed:
            self._delete(entry.fd, self._watched.pop(entry.fd, 0))
            self._add(entry.fd, READ | WRITE, _kq.KQ_EV_CLEAR)
            entry.armed = True
            entry.plain_tcp = False  # hence never dry

    def _pause_in_vain(self, entry: _entry.SocketEntry, sock: Any, direction: int, until: float) -> int:
        return IO  # what is there already is not reported again

    def _disarm(self, entry: _entry.SocketEntry) -> None:
        pass  # the filters stay

    def _watch(self, fd: int) -> None:
        wanted = self._wanted(fd)
        entry = self._entry_at(fd)
        if entry is not None and entry.armed:
            if wanted:  # make the kernel look again, which turns the edge into a level for that one wait
                self._delete(fd, READ | WRITE)
                entry.armed = False
                self._arm(entry)
            return
        # Taken out and put in again whatever we remember of it: the number may have been handed out anew since.
        self._delete(fd, self._watched.pop(fd, 0) & ~wanted)
        if wanted:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                raise PermissionError(errno.EPERM, f"descriptor {fd} is a regular file, which is always ready")
            self._add(fd, wanted, _kq.KQ_EV_ONESHOT)
            self._watched[fd] = wanted

    def _unwatch(self, fd: int, entry: "_entry.SocketEntry | None") -> None:
        armed = READ | WRITE if entry is not None and entry.armed else 0
        self._delete(fd, self._watched.pop(fd, 0) | armed)

    def poll(self, timeout: float | None) -> None:
        events = self._events
        if events:  # a signal handler interrupted the last poll
            timeout = 0
        # Into `_events` within one C call, and out only when they have been dealt with.
        events.extend(chain.from_iterable(starmap(self._kqueue.control, ((None, _MAX_EVENTS, timeout),))))
        while events:
            event = events[0]
            if event.ident == self._wakeup.fd:
                self._wakeup.clear()
            else:
                direction = READ if event.filter == _kq.KQ_FILTER_READ else WRITE
                if event.ident in self._watched:
                    self._watched[event.ident] &= ~direction  # one shot has been used, and all who waited for it go on
                self._ready(event.ident, direction)
            del events[0]

    def wake(self) -> None:
        self._wakeup.set()

    def close(self) -> None:
        super().close()
        if os.getpid() == self._pid:  # a forked child does not inherit it, and the number is somebody else's there
            self._kqueue.close()
        self._wakeup.close()

    def __repr__(self) -> str:
        return f"<KqueueModel, {self._state()}>"
