"""os.fork and os.forkpty refuse waits in their hooks, in whatever order those were registered. See `hub/guard.py`."""

import os

from rimstone.hub.guard import guarded

__all__ = ["patch"]


def patch() -> None:
    for name in ("fork", "forkpty"):
        if hasattr(os, name):
            setattr(os, name, guarded(getattr(os, name)))
