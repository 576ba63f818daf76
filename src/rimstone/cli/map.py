"""`rimstone map`: a function over the lines of a file or a pipe, one JSON line out for each. Flow: pipeline.py."""

import os
import stat
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from rimstone.cli.functions import load_function
from rimstone.cli.output import OutputFailed
from rimstone.cli.pipeline import Counts, InputFailed, map_lines
from rimstone.cli.problem import FAILED, Problem, reason
from rimstone.clock import monotonic
from rimstone.errors import RimstoneError

if TYPE_CHECKING:
    from rimstone.cli.progress import PipelineProgress

__all__ = ["map_command"]

_OUTPUT_CLOSED = 128 + 13  # what a shell reports for a program that SIGPIPE ended


def map_command(
    function: Annotated[str, typer.Argument(metavar="FUNCTION", help="FILE.py:FUNCTION or MODULE:FUNCTION.")],
    inputs: Annotated[
        str | None, typer.Argument(metavar="INPUTS", help="A file, one input a line. Default, or -: stdin.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Each line is a JSON value, not text.")] = False,
    out: Annotated[str | None, typer.Option("--out", metavar="FILE", help="Write there instead of to stdout.")] = None,
    max_in_flight: Annotated[
        int,
        typer.Option("--max-in-flight", min=1, metavar="N", help="Most inputs worked on at once: be kind to servers."),
    ] = 256,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, metavar="N", help="Worker processes. Default: one a CPU.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, metavar="N", help="Threads a process.")] = None,
    coroutines: Annotated[
        int | None, typer.Option("--coroutines", min=1, metavar="N", help="Coroutines a thread.")
    ] = None,
) -> None:
    r"""Call a plain, blocking function with each line of INPUTS, on processes x threads x coroutines.

    Each line, without its line end, is the only argument of one call; empty lines count. For each, one JSON line is
    written as soon as its call completes, in the order of completion:

        {"input": ..., "value": ...}  or  {"input": ..., "error": {"type": ..., "message": ...}}

    Output is UTF-8 and strict JSON: a value without a JSON form (also NaN and Infinity) is that input's error. Bytes
    of a text line that are not UTF-8 come out as \udc80 to \udcff. What the function prints goes to stderr.

    On a terminal, progress is shown on stderr, unless the results go to a terminal too.

    Exit code: 0 all well, 1 some inputs failed or the results could not be written, 2 usage, 130 Ctrl-C, 141 the
    reader of the results went away (as with "| head").
    """
    with ExitStack() as stack:
        stdout_fd = stack.enter_context(_private_stdout())
        source = stack.enter_context(_opened_input(inputs))
        fn = load_function(function)
        # Opened last, because opening empties the file: nobody loses results to a misspelt function.
        output_fd = stdout_fd if out is None or out == "-" else stack.enter_context(_opened_output(out, source))
        if output_fd is None:
            raise Problem("standard output is closed; name a file with --out FILE")

        counts = Counts()
        started = monotonic()
        stack.callback(_print_summary, counts, started)
        try:
            with _opened_pool(processes, threads, coroutines) as pool, _progress(counts, source, output_fd):
                try:
                    map_lines(
                        pool, fn, source.fd, output_fd, as_json=as_json, max_in_flight=max_in_flight, counts=counts
                    )
                except OutputFailed as failed:
                    raise _LeaveAtOnce(failed.error) from None
        except _LeaveAtOnce as leaving:
            raise _output_problem(leaving.error, out) from None
        except InputFailed as failed:
            raise Problem(
                f"stopped after {counts.done} inputs: {source.name} could not be read on: {reason(failed.error)}",
                FAILED,
            ) from None
        except RimstoneError as error:
            raise Problem(f"stopped after {counts.done} inputs: {error}", FAILED) from None
        except OSError as error:
            raise Problem(f"stopped after {counts.done} inputs: the pool could not go on: {error}", FAILED) from None
    if counts.failed:
        raise typer.Exit(FAILED)


class _LeaveAtOnce(KeyboardInterrupt):
    """Nobody can take results any more. Leaves the pool as Ctrl-C does, so that it ends its workers at once."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


@dataclass(frozen=True, slots=True)
class _Input:
    fd: int
    name: str
    total_bytes: int | None


def _opened_pool(processes: int | None, threads: int | None, coroutines: int | None) -> Executor:
    from rimstone import Pool  # noqa: PLC0415  # start-up time

    return Pool(processes=processes, threads=threads, coroutines=coroutines)


@contextmanager
def _private_stdout() -> Iterator[int | None]:
    """Yield a descriptor for what was stdout; meanwhile descriptor 1 leads to stderr.

    So whatever the user's module, its libraries or their child processes print cannot end up between our lines.
    None when stdout is closed.
    """
    if sys.stdout is None:
        yield None
        return
    sys.stdout.flush()
    private = os.dup(1)
    try:
        os.dup2(2, 1)
    except OSError:  # stderr is closed
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
    try:
        yield private
    finally:
        sys.stdout.flush()
        os.dup2(private, 1)
        os.close(private)


@contextmanager
def _opened_input(inputs: str | None) -> Iterator[_Input]:
    if inputs is None or inputs == "-":
        if sys.stdin is None:
            raise Problem("standard input is closed; name a file of inputs, one a line")
        if inputs is None and os.isatty(0):
            raise Problem("INPUTS is missing and standard input is a terminal; name a file, pipe lines in, or give -")
        yield _Input(0, "standard input", _bytes_left(0, "standard input"))
        return
    try:
        fd = os.open(inputs, os.O_RDONLY)
    except OSError as error:
        raise Problem(f"cannot read the inputs {inputs!r}: {reason(error)}") from None
    try:
        yield _Input(fd, repr(inputs), _bytes_left(fd, f"the inputs {inputs!r}"))
    finally:
        os.close(fd)


def _bytes_left(fd: int, name: str) -> int | None:
    status = os.fstat(fd)
    if stat.S_ISDIR(status.st_mode):
        raise Problem(f"cannot read {name}: it is a folder; name a file with one input a line")
    return status.st_size - os.lseek(fd, 0, os.SEEK_CUR) if stat.S_ISREG(status.st_mode) else None


@contextmanager
def _opened_output(out: str, source: _Input) -> Iterator[int]:
    try:
        fd = os.open(out, os.O_WRONLY | os.O_CREAT, 0o666)
    except OSError as error:
        raise Problem(f"cannot write to --out {out!r}: {reason(error)}") from None
    try:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            if os.path.samestat(status, os.fstat(source.fd)):
                raise Problem(f"--out {out!r} is the file of inputs itself; name another file")
            os.ftruncate(fd, 0)
        yield fd
    finally:
        os.close(fd)


def _output_problem(error: OSError, out: str | None) -> Exception:
    if isinstance(error, BrokenPipeError):
        return typer.Exit(_OUTPUT_CLOSED)
    what = "the results" if out is None or out == "-" else f"the results to {out!r}"
    return Problem(f"stopped, because {what} cannot be written: {reason(error)}", FAILED)


def _progress(counts: Counts, source: _Input, output_fd: int) -> "PipelineProgress | nullcontext[None]":
    # Results that scroll by on the same screen show the progress themselves, and would tear the bar.
    if not _is_terminal(2) or os.isatty(output_fd):
        return nullcontext()
    from rimstone.cli.progress import PipelineProgress  # noqa: PLC0415  # rich, only where it is seen

    return PipelineProgress(counts, source.total_bytes)


def _print_summary(counts: Counts, started: float) -> None:
    if _is_terminal(2):
        seconds = monotonic() - started
        rate = counts.done / seconds if seconds else 0.0
        typer.echo(f"{counts.done:,} done, {counts.failed:,} failed, {seconds:.1f} s, {rate:,.0f}/s", err=True)


def _is_terminal(fd: int) -> bool:
    return sys.stderr is not None and os.isatty(fd)
