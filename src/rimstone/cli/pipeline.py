"""The flow of `rimstone map`: reader thread -> this thread submits -> pool -> this thread writes.

Everything that happens arrives in one queue: a line from the reader, a finished call from the pool, Ctrl-C. One
thread, the main one, takes them out, so all state has one owner and no lock. What lies between reader and writer is
bounded by the reader's slots: a line gives its slot back when its result has been handed to the output.
"""

import functools
import queue
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from rimstone.cli.interrupts import Interrupts
from rimstone.cli.lines import EndOfInput, Line, LineReader
from rimstone.cli.output import Output
from rimstone.cli.records import error_record, parse_json_line, text_as_json, value_record
from rimstone.errors import WorkerStartFailed

__all__ = ["Counts", "InputFailed", "map_lines"]

# How long finished lines may take to reach a reader that does not read, after Ctrl-C.
_LAST_WORDS_SECONDS = 1.0
_SIGNAL_CHECK_SECONDS = 1.0


class InputFailed(Exception):
    """The input could not be read on.

    Attributes:
        error: Why.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


@dataclass(slots=True)
class Counts:
    """How far the work is. Written by the thread that runs `map_lines`; others may read it at any time.

    Attributes:
        done: Inputs whose result has been handed to the output, failed ones included.
        failed: Those of them that failed.
        in_flight: Calls submitted and not yet done.
        done_bytes: How much of the input the done ones took up.
    """

    done: int = 0
    failed: int = 0
    in_flight: int = 0
    done_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Finished:
    line: Line
    future: Future[Any]


# What wakes the queue's reader after Ctrl-C.
_Event = Line | EndOfInput | _Finished | None


def map_lines(
    pool: Executor,
    fn: Callable[[Any], Any],
    input_fd: int,
    output_fd: int,
    *,
    as_json: bool,
    max_in_flight: int,
    counts: Counts,
) -> None:
    """Call *fn* in *pool* with each line of *input_fd*, and write one JSON line each to *output_fd* as completed.

    Args:
        pool: Runs the calls; may call back from any of its threads.
        fn: Called with the line's text, or with the JSON value on it.
        input_fd: Read to its end, by another thread. Left open.
        output_fd: Left open.
        as_json: Take each line as JSON.
        max_in_flight: Most lines between reader and writer, at least 1.
        counts: Kept up to date.
    Raises:
        KeyboardInterrupt: Ctrl-C; what had finished by then is written.
        OutputFailed: The results can no longer be written.
        InputFailed: The input could not be read on; all before it is done and written.
        WorkerStartFailed: No call can run.
    """
    events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
    with (
        # SimpleQueue.put may be called in a signal handler, also while the same thread is inside get.
        Interrupts(lambda: events.put(None)) as interrupts,
        LineReader(input_fd, events.put, max_in_flight) as reader,
    ):
        output = Output(output_fd, interrupts)
        _Pipeline(pool, fn, events, reader, output, interrupts, as_json, counts).run()


class _Pipeline:
    def __init__(
        self,
        pool: Executor,
        fn: Callable[[Any], Any],
        events: "queue.SimpleQueue[_Event]",
        reader: LineReader,
        output: Output,
        interrupts: Interrupts,
        as_json: bool,
        counts: Counts,
    ) -> None:
        self._pool = pool
        self._fn = fn
        self._events = events
        self._reader = reader
        self._output = output
        self._interrupts = interrupts
        self._as_json = as_json
        self._counts = counts

    def run(self) -> None:
        try:
            end = self._work()
            self._output.flush()
        except KeyboardInterrupt:
            self._write_what_has_finished()
            raise
        except WorkerStartFailed:
            self._output.flush()
            raise
        if end.error is not None:
            raise InputFailed(end.error)

    def _work(self) -> EndOfInput:
        end: EndOfInput | None = None
        while end is None or self._counts.in_flight:
            match self._next_event():
                case Line() as line:
                    self._submit(line)
                case _Finished() as finished:
                    self._write(finished)
                    if self._output.has_much:
                        self._output.flush()
                case EndOfInput() as end:
                    pass
            if self._interrupts.pressed:
                raise KeyboardInterrupt
        return end

    def _next_event(self) -> _Event:
        try:
            return self._events.get_nowait()
        except queue.Empty:
            self._output.flush()  # nothing more is ready: what is finished goes out before we wait
        while True:
            try:
                return self._events.get(timeout=_SIGNAL_CHECK_SECONDS)
            except queue.Empty:
                pass  # a Ctrl-C that came just before the wait began does not end it, but is heard here

    def _submit(self, line: Line) -> None:
        argument: Any = line.text
        if self._as_json:
            try:
                argument = parse_json_line(line.text, line.number)
            except ValueError as error:
                self._done(line, error_record(text_as_json(line.text), error), failed=True)
                return
        self._counts.in_flight += 1
        future = self._pool.submit(self._fn, argument)
        future.add_done_callback(functools.partial(self._finished, line))

    def _finished(self, line: Line, future: Future[Any]) -> None:
        """Called by the pool, in a thread of its choice."""
        self._events.put(_Finished(line, future))

    def _write(self, finished: _Finished) -> None:
        self._counts.in_flight -= 1
        line, future = finished.line, finished.future
        # What was valid JSON goes out as it came in: no digit of a number changes. CR can only stand between tokens.
        input_json = line.text.strip().replace("\r", " ") if self._as_json else text_as_json(line.text)
        error = future.exception()
        if isinstance(error, WorkerStartFailed):
            raise error
        if error is not None:
            self._done(line, error_record(input_json, error), failed=True)
        else:
            record, has_json_form = value_record(input_json, future.result())
            self._done(line, record, failed=not has_json_form)

    def _done(self, line: Line, record: bytes, *, failed: bool) -> None:
        self._counts.done += 1
        self._counts.failed += failed
        self._counts.done_bytes += line.size_bytes
        self._output.add(record)
        self._reader.finish_one()

    def _write_what_has_finished(self) -> None:
        """After Ctrl-C: results that wait in the queue are complete, and complete results are never lost."""
        try:
            while True:
                event = self._events.get_nowait()
                if isinstance(event, _Finished) and not event.future.cancelled():
                    self._write(event)
        except queue.Empty:
            pass
        self._output.flush(timeout=_LAST_WORDS_SECONDS)
