"""A kqueue made of two epolls, for the contract of the kqueue model where there is no kqueue (`iomodel/kqueue.py`).

It keeps what the manual pages of macOS and FreeBSD promise, and fails a test where the model asks for what they leave
open. It cannot show how a real one differs from its manual.
"""

import errno
import os
import select
import stat
from itertools import chain, repeat, starmap
from types import SimpleNamespace

import pytest

__all__ = ["FakeKqueue", "install"]

# The values of macOS.
_CONSTANTS = {
    "KQ_FILTER_READ": -1,
    "KQ_FILTER_WRITE": -2,
    "KQ_EV_ADD": 0x1,
    "KQ_EV_DELETE": 0x2,
    "KQ_EV_ONESHOT": 0x10,
    "KQ_EV_CLEAR": 0x20,
}
_KQ = SimpleNamespace(**_CONSTANTS)


class KEvent:
    """As `select.kevent`: what to change, or what has happened."""

    def __init__(self, ident: int, filter: int = _KQ.KQ_FILTER_READ, flags: int = _KQ.KQ_EV_ADD) -> None:  # noqa: A002 - the name it has there
        self.ident = ident
        self.filter = filter
        self.flags = flags


class FakeKqueue:
    """As `select.kqueue`, with the filters for reading and writing."""

    def __init__(self) -> None:
        self._epolls = {_KQ.KQ_FILTER_READ: select.epoll(), _KQ.KQ_FILTER_WRITE: select.epoll()}
        self._knotes: dict[tuple[int, int], tuple[int, tuple[int, int]]] = {}  # (number, filter) -> flags, which file
        self._found: list[tuple[tuple[int, int], int]] = []  # by the epolls: ((number, mask), filter)
        self._to_report: list[KEvent] = []
        self._any = select.poll()
        for epoll in self._epolls.values():
            self._any.register(epoll.fileno(), select.POLLIN)

    def control(self, changes: list[KEvent] | None, max_events: int, timeout: float | None = None) -> list[KEvent]:
        """Apply *changes*, then report up to *max_events*; none if that is 0."""
        for change in changes or ():
            self._apply(change)
        if not max_events:
            return []
        events = self._happened(max_events)
        if not events and timeout != 0:
            self._any.poll(None if timeout is None else timeout * 1000)
            events = self._happened(max_events)
        return events

    def _apply(self, change: KEvent) -> None:
        key = change.ident, change.filter
        epoll = self._epolls[change.filter]
        now = _which_file(change.ident)
        flags, file = self._knotes.get(key, (0, now))
        if file != now:  # the number was closed, and the filter went with it
            self._knotes.pop(key)
            flags = 0
        if change.flags & _KQ.KQ_EV_DELETE:
            if self._knotes.pop(key, None) is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            epoll.unregister(change.ident)
            return
        kind = change.flags & (_KQ.KQ_EV_ONESHOT | _KQ.KQ_EV_CLEAR)
        assert not flags or flags == kind, "the manual does not say what adding a filter again does to its flags"
        assert not stat.S_ISREG(os.fstat(change.ident).st_mode), "at the end of a file it would wait for ever"
        if flags:
            return  # nor that it is reported again
        mask = select.EPOLLIN | select.EPOLLRDHUP if change.filter == _KQ.KQ_FILTER_READ else select.EPOLLOUT
        mask |= {0: 0, _KQ.KQ_EV_CLEAR: select.EPOLLET, _KQ.KQ_EV_ONESHOT: select.EPOLLONESHOT}[kind]
        try:
            epoll.register(change.ident, mask)
        except FileExistsError:
            epoll.modify(change.ident, mask)
        self._knotes[key] = kind, now

    def _happened(self, max_events: int) -> list[KEvent]:
        """What the epolls report, as events. A signal handler may raise anywhere here, and nothing is lost by it."""
        found = self._found
        for number, epoll in self._epolls.items():
            # Into the list within one C call, and out only when it has been dealt with.
            found.extend(zip(chain.from_iterable(starmap(epoll.poll, ((0, max_events),))), repeat(number)))
        while found:
            (fd, _), number = found[0]
            kind, file = self._knotes.get((fd, number), (_KQ.KQ_EV_ONESHOT, None))
            gone = file is None or file != _which_file(fd, missing_ok=True)
            if not gone:
                self._to_report.append(KEvent(fd, number, kind))  # twice does no harm
            if gone or kind == _KQ.KQ_EV_ONESHOT:
                self._knotes.pop((fd, number), None)
                self._take_out(self._epolls[number], fd)
            del found[0]
        events = self._to_report[:max_events]
        count = len(events)
        del self._to_report[:count]  # no call from here to the end
        return events

    def _take_out(self, epoll: "select.epoll", fd: int) -> None:
        try:
            epoll.unregister(fd)
        except OSError:
            pass  # closed; if a copy is open, epoll goes on reporting it, and it will be left out again

    def close(self) -> None:
        """Idempotent."""
        for epoll in self._epolls.values():
            epoll.close()


def _which_file(fd: int, *, missing_ok: bool = False) -> tuple[int, int]:
    try:
        status = os.fstat(fd)
    except OSError:
        if missing_ok:
            return -1, -1
        raise
    return status.st_dev, status.st_ino


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it what `select.kqueue` is, until the test ends."""
    for name, value in {**_CONSTANTS, "kqueue": FakeKqueue, "kevent": KEvent}.items():
        monkeypatch.setattr(select, name, value, raising=False)
