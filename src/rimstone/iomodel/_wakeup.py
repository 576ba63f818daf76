"""Ends another thread's poll: an eventfd where there is one, else a pipe."""

import os

__all__ = ["Wakeup"]


class Wakeup:
    """A descriptor that becomes readable when somebody calls `set`.

    Writing is one system call and async-signal-safe; a write to a full pipe is dropped on purpose, since the
    reader is then going to wake anyway.
    """

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self.fd = self._write_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:  # macOS
            self.fd, self._write_fd = os.pipe()
            os.set_blocking(self.fd, False)
            os.set_blocking(self._write_fd, False)

    def set(self) -> None:
        """Make the descriptor readable. Any thread."""
        try:
            os.write(self._write_fd, b"\x01\0\0\0\0\0\0\0")
        except BlockingIOError:
            pass  # already as readable as it gets
        except OSError:
            if self._write_fd >= 0:
                raise

    def clear(self) -> None:
        """Take back what `set` did."""
        try:
            os.read(self.fd, 4096)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Close it. Idempotent; a `set` that comes later does nothing."""
        read_fd, write_fd, self.fd, self._write_fd = self.fd, self._write_fd, -1, -1
        for fd in {read_fd, write_fd} - {-1}:
            os.close(fd)
