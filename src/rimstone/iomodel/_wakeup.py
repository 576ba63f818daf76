"""Ends another thread's poll: an eventfd where there is one, else a pipe."""

import os
import sys

from rimstone._originals import RLock, os_close, os_read, os_write

__all__ = ["Wakeup"]


class Wakeup:
    """A descriptor that becomes readable when somebody calls `set`.

    Writing is one system call and async-signal-safe; a write to a full pipe is dropped on purpose, since the
    reader is then going to wake anyway.
    """

    def __init__(self) -> None:
        # `close` must not come between looking at the number and writing to it: by then it may belong to a stranger.
        # Reentrant, since a signal handler may interrupt `set` and call it.
        self._lock = RLock()
        self._pid = os.getpid()
        if hasattr(os, "eventfd"):
            self.fd = self._write_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:  # macOS
            self.fd, self._write_fd = os.pipe()
            os.set_blocking(self.fd, False)
            os.set_blocking(self._write_fd, False)

    def set(self) -> None:
        """Make the descriptor readable. Any thread."""
        with self._lock:
            if self._write_fd >= 0:
                try:
                    os_write(self._write_fd, b"\x01\0\0\0\0\0\0\0")
                except BlockingIOError:
                    pass  # already as readable as it gets

    def clear(self) -> None:
        """Take back what `set` did."""
        try:
            os_read(self.fd, 4096)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Close it. Idempotent; a `set` that comes later does nothing."""
        if os.getpid() != self._pid or sys.is_finalizing():
            # In a forked child, or when the interpreter ends: a thread that is not there any more may have held it.
            self._lock = RLock()
        with self._lock:
            read_fd, write_fd, self.fd, self._write_fd = self.fd, self._write_fd, -1, -1
            for fd in {read_fd, write_fd} - {-1}:
                os_close(fd)
