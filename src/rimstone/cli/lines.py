"""LineReader: reads lines from a descriptor in a thread of its own, so that a slow producer never delays results.

Raw os.read and our own splitting, not a buffered file: a thread that waits inside a buffered file holds its lock,
and the interpreter aborts at exit when it wants that lock. The thread takes one slot per line before it hands the
line on, and waits when there is none: that bounds what lies between reader and writer.
"""

import codecs
import os
import select
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

__all__ = ["EndOfInput", "Line", "LineReader"]

_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Line:
    """One input.

    Attributes:
        number: Counted from 1.
        text: Without its line end (LF or CRLF); bytes that are not UTF-8 as lone surrogates (`surrogateescape`).
        size_bytes: What it takes up in the input, line end included.
    """

    number: int
    text: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class EndOfInput:
    """After the last line; *error* is what stopped the reading, or None at the end of the input."""

    error: OSError | None


class LineReader:
    """Reads *fd* to its end and hands each line, then one EndOfInput, to *emit*, from its own thread."""

    def __init__(self, fd: int, emit: Callable[[Line | EndOfInput], None], max_unfinished: int) -> None:
        self._fd = fd
        self._emit = emit
        self._slots = threading.Semaphore(max_unfinished)
        self._stopped = False
        # A byte in this pipe ends a wait for the next line. (Closing it would not: a child may have a copy.)
        self._stop_reading_end, self._stop_writing_end = os.pipe()
        self._thread = threading.Thread(target=self._run, name="rimstone-map-reader", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Stop the thread, wherever it waits."""
        self._stopped = True
        os.write(self._stop_writing_end, b"x")
        self._slots.release()
        self._thread.join()
        os.close(self._stop_writing_end)
        os.close(self._stop_reading_end)

    def finish_one(self) -> None:
        """Say that one line has been dealt with: there is room for another."""
        self._slots.release()

    def _run(self) -> None:
        try:
            for number, data in enumerate(self._lines(), start=1):
                self._slots.acquire()
                if self._stopped:
                    return
                size_bytes = len(data) + 1
                if number == 1:
                    data = data.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901  # editors put it, no function wants it
                text = data.removesuffix(b"\r").decode("utf-8", "surrogateescape")
                self._emit(Line(number, text, size_bytes))
        except OSError as error:
            self._emit(EndOfInput(error))
        else:
            self._emit(EndOfInput(None))

    def _lines(self) -> Iterator[bytes]:
        unfinished: list[bytes] = []  # pieces of a line longer than a chunk: joined once, not at each chunk
        while chunk := self._read():
            first, *others = chunk.split(b"\n")
            unfinished.append(first)
            for piece in others:
                yield b"".join(unfinished)
                unfinished = [piece]
        if last := b"".join(unfinished):
            yield last

    def _read(self) -> bytes:
        while True:
            ready, _, _ = select.select([self._fd, self._stop_reading_end], [], [])
            if self._stop_reading_end in ready:
                return b""
            try:
                return os.read(self._fd, _CHUNK_BYTES)
            except BlockingIOError:
                continue  # somebody else made it non-blocking, and took the bytes first
