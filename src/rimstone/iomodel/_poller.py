"""The kernel's epoll object. `_poller.pyx` is its twin in C, which keeps the interpreter lock unless it must wait."""

import select
from collections import deque
from itertools import chain, starmap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rimstone.iomodel.epoll import EpollModel

__all__ = ["Poller"]

_MAX_EVENTS = 512


class Poller:
    """As `select.epoll`, but for `poll`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._events: deque[tuple[int, int]] = deque()  # reported by the kernel and not passed on yet
        self.register = self._epoll.register
        self.modify = self._epoll.modify
        self.unregister = self._epoll.unregister
        self.close = self._epoll.close

    def poll(self, model: "EpollModel", timeout: float | None) -> None:
        """Pass all events there are to `model.happened`, waiting up to *timeout* seconds for one.

        What the kernel reports goes into `_events` within one C call, and leaves it only when it has been dealt with: a
        signal handler may raise anywhere, and an edge that is dropped is never reported again.
        """
        events = self._events
        if events:  # a signal handler interrupted the last poll
            timeout = 0
        events.extend(chain.from_iterable(starmap(self._epoll.poll, ((timeout, _MAX_EVENTS),))))
        happened = model.happened
        while events:
            fd, mask = events[0]
            happened(fd, mask)
            del events[0]
