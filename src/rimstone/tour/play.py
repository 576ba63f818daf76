"""Runs one lesson as anybody would run a script: in a process of its own, of which nothing is left afterwards."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rimstone import clock
from rimstone.tour.chapters import Lesson

__all__ = ["LessonFailed", "Measured", "play"]

_LIMIT_SECONDS = 60.0  # a lesson takes less than ten, but not on every machine
_END_SECONDS = 2.0  # what an ended lesson has to end its own processes


class LessonFailed(Exception):
    """A lesson's program went wrong, or did not end; the message says which and how."""


@dataclass(frozen=True)
class Measured:
    """What a lesson's program took, as seen from outside.

    Attributes:
        seconds: From its start to its end, Python's own start included.
        cpu_seconds: Of all CPUs, its worker processes included, as far as it has waited for them.
    """

    seconds: float
    cpu_seconds: float


def play(
    lesson: Lesson,
    show: Callable[[str], object],
    *,
    arguments: Sequence[str] | None = None,
    limit_seconds: float = _LIMIT_SECONDS,
) -> Measured:
    """Run the program of *lesson*.

    Whatever ends this call early, Ctrl-C included, ends the program and its worker processes.

    Args:
        lesson: Which.
        show: Called with each line of its output as it comes, errors included, without the line's end.
        arguments: For the program; None: those of the lesson.
        limit_seconds: When it is ended.
    Raises:
        LessonFailed: its exit code was not 0, or the time was up.
    """
    given = lesson.arguments if arguments is None else tuple(arguments)
    # -P: the folder of the lessons is nobody's module path. -u: a line is shown when it is printed.
    command = [sys.executable, "-P", "-u", "-X", "utf8", lesson.path, *given]
    expired = threading.Event()
    started, cpu_before = clock.monotonic(), _cpu_of_children()
    # In a session of its own, Ctrl-C does not reach it: it hears of it from us, and has nothing to say about it.
    with subprocess.Popen(
        command,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as program:

        def expire() -> None:
            expired.set()
            _signal_all(program, signal.SIGKILL)

        timer = threading.Timer(limit_seconds, expire)
        timer.daemon = True
        try:
            timer.start()
            assert program.stdout is not None
            for line in program.stdout:
                show(line.rstrip("\n"))
            program.wait()
        except BaseException:
            _end(program)
            raise
        finally:
            timer.cancel()
            timer.join()
    if expired.is_set():
        raise LessonFailed(f"{lesson.name} was ended after {limit_seconds:g} s; is the machine busy with other things?")
    if program.returncode != 0:
        raise LessonFailed(f"{lesson.name} ended with exit code {program.returncode}; what it wrote says why")
    return Measured(clock.monotonic() - started, _cpu_of_children() - cpu_before)


def _end(program: "subprocess.Popen[str]") -> None:
    _signal_all(program, signal.SIGTERM)
    try:
        program.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _signal_all(program, signal.SIGKILL)


def _signal_all(program: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """To its process group, which is its own: worker processes are in it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(program.pid, number)


def _environment() -> dict[str, str]:
    """One in which the program finds this very rimstone, installed or not."""
    import rimstone

    environment = dict(os.environ)
    home = os.path.dirname(os.path.dirname(os.path.abspath(rimstone.__file__)))
    # Installed, it is found anyhow; and what lies beside it there could hide parts of the standard library.
    if os.path.basename(home) not in {"site-packages", "dist-packages"}:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (home, environment.get("PYTHONPATH"))))
    return environment


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
