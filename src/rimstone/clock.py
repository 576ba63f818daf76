"""The one source of time: seconds on the monotonic clock, captured before anything is patched.

`timeout` always means seconds from now, `deadline` a time on this clock.
"""

from math import inf
from time import monotonic

__all__ = ["deadline_after", "monotonic", "remaining", "until_after"]


def deadline_after(timeout: float | None) -> float | None:
    """The deadline that lies *timeout* seconds from now; None stays None (wait for ever)."""
    return None if timeout is None else monotonic() + timeout


def until_after(timeout: float | None) -> float:
    """The same as a plain number: infinity for None."""
    return inf if timeout is None else monotonic() + timeout


def remaining(deadline: float | None) -> float | None:
    """Seconds left until *deadline*, never negative; None stays None."""
    return None if deadline is None else max(0.0, deadline - monotonic())
