"""The kernel's epoll object. `_poller.pyx` is its twin in C, which keeps the interpreter lock unless it must wait."""

import select
from collections import deque
from itertools import chain, starmap

__all__ = ["Poller"]

_MAX_EVENTS = 512


class Poller:
    """As `select.epoll`, but for `collect`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.register = self._epoll.register
        self.modify = self._epoll.modify
        self.unregister = self._epoll.unregister
        self.close = self._epoll.close

    def collect(self, events: deque[tuple[int, int]], timeout: float | None) -> None:
        """Append the events there are to *events*, as (descriptor, mask), waiting up to *timeout* seconds for one.

        Within one C call, since a signal handler may raise after each: an edge that is dropped is never reported again.
        """
        events.extend(chain.from_iterable(starmap(self._epoll.poll, ((timeout, _MAX_EVENTS),))))
