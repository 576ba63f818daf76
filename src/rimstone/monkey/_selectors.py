"""selectors: their `select` waits cooperatively, in place on the classes. What asyncio's stock loop stands on.

An epoll descriptor can itself be waited for, so `EpollSelector` parks on its own epoll and then asks it, without
waiting. The other selectors get a temporary epoll for the length of one wait.

A `select` that does not wait (timeout 0) lets the other tasks run as well: an asyncio loop that is never idle calls
nothing else. Where there is no epoll, selectors stay as they are.
"""

import select
import selectors
from typing import Any

from rimstone import clock
from rimstone.hub import current_hub
from rimstone.hub.scheduler import Hub
from rimstone.iomodel.base import READ

__all__ = ["patch"]


def _cooperative(original: Any, wait: Any) -> Any:
    def select(self: Any, timeout: float | None = None) -> Any:
        hub = current_hub()
        if hub is None:
            return original(self, timeout)
        if timeout is not None and timeout <= 0:
            hub.reschedule()
            return original(self, 0)
        deadline = clock.deadline_after(timeout)
        while True:
            ready = original(self, 0)
            if ready or (deadline is not None and deadline <= clock.monotonic()):
                return ready
            if not wait(hub, self, deadline):
                return original(self, 0)

    select.__doc__ = original.__doc__
    return select


def _wait_epoll(hub: Hub, selector: Any, deadline: float | None) -> bool:
    return hub.io.wait(selector._selector.fileno(), READ, deadline)


def _wait_any(hub: Hub, selector: Any, deadline: float | None) -> bool:
    with select.epoll() as temporary:
        for key in selector.get_map().values():
            mask = (select.EPOLLIN if key.events & selectors.EVENT_READ else 0) | (
                select.EPOLLOUT if key.events & selectors.EVENT_WRITE else 0
            )
            temporary.register(key.fd, mask)
        return hub.io.wait(temporary.fileno(), READ, deadline)


def patch() -> None:
    if not hasattr(select, "epoll"):
        return
    selectors.EpollSelector.select = _cooperative(selectors.EpollSelector.select, _wait_epoll)  # type: ignore[method-assign]
    for cls in (selectors.SelectSelector, selectors.PollSelector):
        cls.select = _cooperative(cls.select, _wait_any)  # type: ignore[method-assign]
