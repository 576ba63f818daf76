"""ProcessWorker: one worker process as the pool sees it. Read `wire.py` and `setup.py` first, `main.py` for its inside.

States: STARTING -> READY -> STOPPING -> GONE.

The process is exec'ed, never forked from this (threaded) one, and never imports the user's `__main__`. It is started
by the pool's dispatcher thread, which lives as long as the pool does: that matters, because the kernel kills a worker
when the *thread* that started it ends.

Death is seen by pidfd or by the end of the wire, whichever comes first (a process that a call started may have
inherited the wire and keep it open), and is dealt with after everything on the wire has been read.
"""

import contextlib
import enum
import fcntl
import itertools
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

from rimstone.workers.setup import Mark, Setup, StartedSlots
from rimstone.workers.wire import ChannelClosed, Kind, channel_pair

__all__ = ["ProcessWorker", "WorkerState"]

_BOOT = (
    # Not "" (the working directory): a file there named like a module of the standard library must not be imported.
    "import sys; sys.path[:] = [sys.argv[1], *filter(None, sys.path)]; "
    "from rimstone.workers.main import main; main(*map(int, sys.argv[2:]))"
)


class WorkerState(enum.Enum):
    """See the head of this file."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    GONE = "gone"


class ProcessWorker:
    """One worker process. Used by one thread, the pool's dispatcher.

    Attributes:
        pid: Its process id.
        pidfd: A descriptor that becomes readable when it ends; -1 where the kernel has none.
        in_flight: slot -> call that was sent to it and has not come back.
        known: Ids of the functions it has been sent.
        limit: How many calls may be sent to it, counted since its beginning; `sent` is how many were.
        was_ready: It has got through its start, initializer included.

    Args:
        setup: What it is told once.
        slots: Most calls that it is sent at once.
        inherited: Descriptors, above those of the standard streams, that it is to have under the same numbers.
    """

    def __init__(self, setup: Setup, slots: int, inherited: Sequence[int] = ()) -> None:
        self.name = setup.name
        self.state = WorkerState.STARTING
        self.in_flight: dict[int, Any] = {}
        self.known: set[int] = set()
        self.limit = 0
        self.sent = 0
        self.was_ready = False
        self.exit_code: int | None = None
        self.exit_signal: int | None = None
        self._free_slots = list(range(slots - 1, -1, -1))
        self._unsent: deque[tuple[Kind, Any]] = deque()
        self._unsendable: list[tuple[Any, Exception]] = []
        self._started = StartedSlots.create(slots)
        try:
            self.channel, theirs = channel_pair()
            try:
                self._process = _start(theirs.fileno(), self._started.file, slots, inherited)
            except BaseException:
                self.channel.close()
                raise
            finally:
                theirs.close()
        except BaseException:
            self._started.close()
            raise
        self._started.close_file()
        self.pid = self._process.pid
        self.pidfd = -1
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self.pidfd = os.pidfd_open(self.pid)
        try:
            self.send(Kind.SETUP, setup)
        except BaseException:
            self.kill()
            self.wait()
            self.close()
            raise

    # -- sending -----------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many more calls it takes now."""
        if self.state is not WorkerState.READY or self._unsent:
            return 0
        return min(self.limit - self.sent, len(self._free_slots))

    def assign(self, call: Any) -> int:
        """Give *call* a slot; it counts as sent."""
        slot = self._free_slots.pop()
        self._started[slot] = Mark.UNTOUCHED
        self.in_flight[slot] = call
        self.sent += 1
        return slot

    def release(self, slot: int) -> Any:
        """The call in *slot* has come back."""
        call = self.in_flight.pop(slot)
        self._free_slots.append(slot)
        return call

    def send(self, kind: Kind, content: Any) -> None:
        """Send a message now, or as soon as there is room. Never waits; to a dead worker it does nothing."""
        self._unsent.append((kind, content))
        self.flush()

    def flush(self) -> None:
        """Send what is still unsent, as far as there is room."""
        try:
            while self._unsent and self.channel.try_send(*self._unsent[0]):
                self._unsent.popleft()
        except ChannelClosed:
            self._unsent.clear()  # its death is about to be seen
        except (OSError, MemoryError) as error:  # too large for a file, no memory: this message, not the others
            if self._unsent[0][0] is not Kind.CALLS:
                raise
            self._unsendable.append((self._unsent.popleft()[1], error))
            self.flush()

    def take_unsendable(self) -> list[tuple[Any, Exception]]:
        """The contents of Kind.CALLS messages that can never be sent, and why; each once."""
        taken, self._unsendable = self._unsendable, []
        return taken

    @property
    def has_unsent(self) -> bool:
        """True while a message waits for room."""
        return bool(self._unsent)

    # -- ending ------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask it to exit when it has answered every call."""
        if self.state in (WorkerState.STARTING, WorkerState.READY):
            self.state = WorkerState.STOPPING
            self.send(Kind.STOP, None)

    def signal(self, number: int) -> None:
        """Send it a signal; nothing happens if it has ended."""
        self.state = WorkerState.STOPPING
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def terminate(self) -> None:
        """End it now; it may still catch the signal."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now."""
        self.signal(signal.SIGKILL)

    def has_ended(self) -> bool:
        """True when the process is gone and has been reaped. Never waits."""
        code = self._process.poll()
        if code is None:
            return False
        self.exit_code = code if code >= 0 else None
        self.exit_signal = -code if code < 0 else None
        return True

    def wait(self) -> None:
        """Block until the process is gone. Only after `kill`."""
        self._process.wait()
        self.has_ended()

    def take_calls(self) -> tuple[list[Any], list[Any], list[Any]]:
        """After its death: (calls it had started, calls whose function it was loading, calls it had not touched)."""
        by_mark: dict[Mark, list[Any]] = {mark: [] for mark in Mark}
        for slot, call in self.in_flight.items():
            by_mark[self._started[slot]].append(call)
        self.in_flight.clear()
        return by_mark[Mark.STARTED], by_mark[Mark.LOADING], by_mark[Mark.UNTOUCHED]

    def close(self) -> None:
        """Give back every descriptor. The process must have ended. Idempotent."""
        self.state = WorkerState.GONE
        self.channel.close()
        self._started.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def __repr__(self) -> str:
        return f"<ProcessWorker {self.name} pid={self.pid} {self.state.value}, {len(self.in_flight)} calls in flight>"


def _start(wire_fd: int, started_fd: int, slots: int, inherited: Sequence[int]) -> "subprocess.Popen[bytes]":
    """Start the process. SIGINT is blocked in it until it has said what it does with it (see `main`)."""
    package_folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    command = [sys.executable, *_interpreter_options(), "-c", _BOOT, package_folder]
    with contextlib.ExitStack() as opened:
        passed = [_above_standard_streams(fd, opened) for fd in (wire_fd, started_fd)]
        stderr = None if _is_open(2) else subprocess.DEVNULL
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return subprocess.Popen(
                [*command, *map(str, passed), str(slots)],
                stdin=subprocess.DEVNULL,
                stdout=stderr or 2,
                stderr=stderr,
                pass_fds=[*passed, *inherited],
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _interpreter_options() -> list[str]:
    """The options this Python was started with, also the -X options that `multiprocessing` would leave out."""
    options: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # nothing public does it
    given = {value for option, value in itertools.pairwise(options) if option == "-X"}
    for name, value in sys._xoptions.items():
        text = name if value is True else f"{name}={value}"
        if text not in given:
            options += ["-X", text]
    return options


def _above_standard_streams(fd: int, opened: contextlib.ExitStack) -> int:
    """*fd*, or a duplicate if it is in the way of the standard streams, which a daemon may have closed."""
    if fd > 2:
        return fd
    duplicate = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    opened.callback(os.close, duplicate)
    return duplicate


def _is_open(fd: int) -> bool:
    """True if *fd* is open and was when this process began: what it has opened itself goes away with an exec."""
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False
