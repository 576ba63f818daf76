"""Starts the programs of a measurement: pinned to one CPU, and ended when the benchmark ends, however it ends."""

import ctypes
import functools
import os
import resource
import select
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import IO

__all__ = ["Failed", "Program", "Skipped", "cpus", "output_of", "started"]

_PR_SET_PDEATHSIG = 1


class Skipped(Exception):
    """The measurement cannot be made on this machine, for the reason given."""


class Failed(Exception):
    """The measurement was tried and came to no good."""


def cpus() -> tuple[int, int]:
    """The CPU for what is measured, and the one for who measures; the same one where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[min(1, len(allowed) - 1)]


class Program:
    """A running program and what it has printed."""

    def __init__(self, process: "subprocess.Popen[bytes]", errors: IO[bytes]) -> None:
        self.process = process
        self._errors = errors

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    def line(self, timeout: float) -> str:
        """The next line that it prints.

        Raises:
            Failed: it ended, or printed nothing in *timeout* seconds.
        """
        assert self.process.stdout is not None
        deadline, text = monotonic() + timeout, b""
        while not text.endswith(b"\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - monotonic()))
            byte = os.read(self.process.stdout.fileno(), 1) if ready else b""
            if not byte:
                raise Failed(f"{self.command} {'ended' if ready else 'printed no line in time'}{self.last_words()}")
            text += byte
        return text.decode().strip()

    def rest(self, timeout: float) -> str:
        """All that it prints until it ends.

        Raises:
            Failed: it ended with an error, or not in *timeout* seconds.
        """
        try:
            out, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.command} was still running after {timeout:.0f} s{self.last_words()}") from None
        if self.process.returncode:
            raise Failed(f"{self.command} ended with {self.process.returncode}{self.last_words()}")
        return out.decode()

    @property
    def command(self) -> str:
        """As it was started, without folders."""
        return " ".join(os.path.basename(str(part)) for part in self.process.args)  # type: ignore[union-attr]

    def last_words(self) -> str:
        """The last line of its stderr, after a colon; nothing when there is none."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        said = [line for line in lines if line.strip()]
        return f": {said[-1].strip()}" if said else ""


@contextmanager
def started(command: Sequence[str], cpu: int, environment: Mapping[str, str] | None = None) -> Iterator[Program]:
    """Run a program on one CPU for the time of the block; it is killed when the block ends."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up here: the child should do as little as possible
    # stderr goes to a file: a pipe that nobody reads would stop a program that complains a lot.
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **(environment or {})},
            preexec_fn=functools.partial(_prepare, prctl, cpu, os.getpid()),  # noqa: PLW1509  # this process has one thread
        )
        try:
            yield Program(process, errors)
        finally:
            process.kill()
            process.communicate()


def output_of(command: Sequence[str], cpu: int, timeout: float, environment: Mapping[str, str] | None = None) -> str:
    """What a program prints that ends by itself."""
    with started(command, cpu, environment) as program:
        return program.rest(timeout)


def _prepare(prctl: "ctypes._NamedFuncPointer", cpu: int, parent: int) -> None:
    """In the child, before exec: dies with its parent, stays on its CPU, may open as much as the hard limit allows."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    os.sched_setaffinity(0, {cpu})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
