"""asyncio as a guest: `asyncio.run()` works inside a task, several at once on one thread.

The stock loop runs as it is; its selector waits cooperatively (`monkey/_selectors.py`). What is left to do is to hide
its traces: "the running loop" and the async generator hooks belong to the OS thread, so a sibling task would see the
loop of whoever parked. They are taken away when the loop's task parks, and put back when it goes on.
"""

import sys
from asyncio import base_events, events
from typing import Any

from rimstone.hub import swap_guest

__all__ = ["patch"]


class _RunningLoop:
    """The per-thread state of one running loop; the hub calls this around each park of the task that hosts it."""

    __slots__ = ("_hooks", "_loop")

    def suspend(self) -> None:
        self._loop = events._get_running_loop()
        self._hooks = sys.get_asyncgen_hooks()
        events._set_running_loop(None)
        sys.set_asyncgen_hooks(None, None)

    def resume(self) -> None:
        events._set_running_loop(self._loop)
        sys.set_asyncgen_hooks(*self._hooks)


_original_run_forever = base_events.BaseEventLoop.run_forever


def _run_forever(self: Any) -> None:
    # Also where no hub runs yet: a coroutine may spawn the thread's first task.
    outer = swap_guest(_RunningLoop())
    try:
        _original_run_forever(self)
    finally:
        swap_guest(outer)


def patch() -> None:
    """Make every event loop of this process that is written in Python a guest wherever a hub runs."""
    base_events.BaseEventLoop.run_forever = _run_forever  # type: ignore[method-assign]
