"""time.sleep lets the other tasks of the thread run."""

import time

from rimstone.hub import sleep

__all__ = ["patch"]


def patch() -> None:
    time.sleep = sleep  # type: ignore[assignment]  # it asks less of its argument
