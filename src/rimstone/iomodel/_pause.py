"""A sleep that somebody else can cut short, for models whose `poll` waits for no descriptor."""

from rimstone._originals import allocate_lock

__all__ = ["Pause"]


class Pause:
    """A sleep that `set` cuts short, or the next one. It needs no descriptor, so nobody must be asked about it."""

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def set(self) -> None:
        """Any thread, also from a signal handler."""
        try:
            self._lock.release()
        except RuntimeError:
            pass  # somebody was faster, and it has not been noticed yet

    def is_cut_short(self, seconds: float | None) -> bool:
        """Sleep, None for ever; True if `set` was called, before or meanwhile."""
        if seconds is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=seconds) if seconds > 0 else self._lock.acquire(blocking=False)

    def close(self) -> None:
        """There is nothing to give back."""
