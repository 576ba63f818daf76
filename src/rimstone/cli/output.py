"""Output: writes lines to a descriptor so that none is torn, doubled or lost, and Ctrl-C can break the wait.

A pipe takes at most PIPE_BUF bytes in one piece and, when select says it is ready, without blocking (pipe(7)); so
whole lines are packed into writes of that size, and the waiting happens in select. Files take everything at once.
"""

import os
import select
import stat
from collections import deque

from rimstone.cli.interrupts import Interrupts
from rimstone.clock import deadline_after, remaining

__all__ = ["Output", "OutputFailed"]

_MUCH_BYTES = 1 << 15


class OutputFailed(Exception):
    """Results can no longer be written.

    Attributes:
        error: Why; BrokenPipeError when the reader went away.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


class Output:
    """Collects lines and writes them to *fd* when asked to."""

    def __init__(self, fd: int, interrupts: Interrupts) -> None:
        self._fd = fd
        self._interrupts = interrupts
        self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self._write_bytes = _MUCH_BYTES if self._is_file else select.PIPE_BUF
        self._lines: deque[bytes] = deque()
        self._kept_bytes = 0
        # What is being written now; kept here because KeyboardInterrupt may rise between two writes of one line.
        self._current = memoryview(b"")

    def add(self, line: bytes) -> None:
        """Take one line, newline included."""
        self._lines.append(line)
        self._kept_bytes += len(line)

    @property
    def has_much(self) -> bool:
        """True when enough has come together that it should be flushed."""
        return self._kept_bytes >= _MUCH_BYTES

    def flush(self, *, timeout: float | None = None) -> None:
        """Write what has been added.

        Args:
            timeout: Seconds after which the rest stays unwritten because nobody takes it; None waits for ever.
        Raises:
            OutputFailed: the reader went away, or the device is full or gone.
            KeyboardInterrupt: Ctrl-C while waiting for the reader; a later flush goes on where this one stopped.
        """
        deadline = deadline_after(timeout)
        while self._lines or self._current:
            if not self._current:
                self._current = memoryview(self._next_piece())
            if not self._is_file and not self._wait_writable(deadline):
                return
            try:
                written = os.write(self._fd, self._current[: self._write_bytes])
            except BlockingIOError:
                continue  # somebody else made it non-blocking, and filled it first
            except OSError as error:
                raise OutputFailed(error) from error
            self._current = self._current[written:]

    def _next_piece(self) -> bytes:
        """As many whole lines as fit into one write, at least one."""
        piece = [self._lines.popleft()]
        size_bytes = len(piece[0])
        while self._lines and size_bytes + len(self._lines[0]) <= self._write_bytes:
            piece.append(self._lines.popleft())
            size_bytes += len(piece[-1])
        self._kept_bytes -= size_bytes
        return b"".join(piece)

    def _wait_writable(self, deadline: float | None) -> bool:
        if deadline is not None:  # the last words after Ctrl-C: the flag is up already
            return bool(select.select([], [self._fd], [], remaining(deadline))[1])
        with self._interrupts.breakable():
            return bool(select.select([], [self._fd], [])[1])
