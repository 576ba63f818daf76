"""Service: what accepts connections for a StreamServer; `tasks.py`, `blocking.py`, `threads.py`, `processes.py` do it.

States: CREATED -> SERVING -> STOPPING -> DONE. A service accepts from its start until `stop_soon`; then its handlers
have until the deadline to finish, then they are ended, and then it is done.
"""

import contextlib
import errno
import logging
import traceback
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from rimstone import clock, machine
from rimstone.server._latch import Latch

__all__ = [
    "END_SECONDS",
    "GONE",
    "Backoff",
    "Cells",
    "Handler",
    "Service",
    "Warnings",
    "default_limit",
    "handler_name",
    "report",
    "say",
    "shares",
]

Handler = Callable[[Any, Any], object]
# One number of connections for each hub; with worker processes it is a piece of shared memory.
Cells: TypeAlias = "list[int] | memoryview[int]"

log = logging.getLogger("rimstone.server")

END_SECONDS = 2.0  # for the `finally` blocks of handlers that were killed
_RESERVED_DESCRIPTORS = 64  # the hub's, the log's, modules that are being imported
_DESCRIPTORS_A_CONNECTION = 2  # its socket, and one that its handler opens
_RESERVED_THREADS = 32
_UNLIMITED = 1 << 20

# The listener has been closed, or is none.
GONE = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})
# One client's trouble, told by accept (accept(2), "Error handling"): the next client is not concerned.
_OF_ONE_CLIENT = frozenset(
    getattr(errno, name)
    for name in (
        *("ECONNABORTED", "EPROTO", "ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN", "ENONET", "EHOSTUNREACH", "EOPNOTSUPP"),
        *("ENETUNREACH", "EPERM", "ECONNRESET", "ETIMEDOUT", "EAGAIN"),
    )
    if hasattr(errno, name)
)
_SHORTAGES = {
    errno.EMFILE: "this process has no descriptor left (raise 'ulimit -n', or lower max_connections)",
    errno.ENFILE: "the machine has no descriptor left (fs.file-max)",
    errno.ENOBUFS: "the kernel has no memory left for sockets",
    errno.ENOMEM: "the machine has no memory left",
}
_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 1.0
_SAY_AGAIN_SECONDS = 60.0


class Service(Protocol):
    """Accepts connections and runs a handler for each.

    Attributes:
        done: Set when it has stopped, in whatever way, and everything of it is closed.
        error: Why it ended by itself; None if it was told to.
        cells: How many connections each of its hubs has open.
    """

    done: Latch
    cells: Cells
    error: BaseException | None

    def start(self) -> None:
        """Return when it accepts. Raises what keeps it from that; then everything of it is closed."""

    def stop_soon(self, deadline: float) -> None:
        """Accept no more, and end the handlers at *deadline*; again with an earlier one is fine. Never waits.

        Call from: any thread, any signal handler.
        """

    def runs_current_task(self) -> bool:
        """True if it is one of the handlers that asks."""

    def end_interrupted(self) -> None:
        """Raise TaskExit if it is one of the handlers that the calling signal handler has interrupted, and computes."""

    def pids(self) -> list[int]:
        """The worker processes there are now."""


class Warnings:
    """Says that no connection is accepted, and why: each reason once a minute, for all hubs of a process together."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._silent_until: dict[str, float] = {}

    def say(self, error: Exception) -> None:
        """No connection can be accepted: why, and what to do."""
        why = _SHORTAGES.get(getattr(error, "errno", None) or 0, f"{type(error).__name__}: {error}")
        self._say(
            "shortage",
            f"no connection can be accepted: {why}; those that come wait in the kernel, and accepting goes on as soon "
            "as it can",
        )

    def say_full(self, limit: int) -> None:
        """*limit* connections are open, and more are not wanted."""
        self._say(
            "full",
            f"{limit} connections are open, as many as one hub may have here (its share of max_connections, or of half "
            "the descriptors that 'ulimit -n' allows); those that come wait in the kernel until one of them ends",
        )

    def _say(self, kind: str, what: str) -> None:
        now = clock.monotonic()
        if now >= self._silent_until.get(kind, 0.0):
            self._silent_until[kind] = now + _SAY_AGAIN_SECONDS
            say(logging.WARNING, "%s: %s (said once a minute)", self._name, what)


class Backoff:
    """How long to wait after a failed accept."""

    def __init__(self, warnings: Warnings) -> None:
        self._warnings = warnings
        self._pause = 0.0

    def after(self, error: Exception) -> float:
        """Seconds to wait before the next accept; grows from failure to failure."""
        if getattr(error, "errno", None) in _OF_ONE_CLIENT:
            return 0.0
        self._pause = min(max(_FIRST_PAUSE_SECONDS, 2 * self._pause), _LONGEST_PAUSE_SECONDS)
        self._warnings.say(error)
        return self._pause

    def over(self) -> None:
        """A connection was accepted."""
        self._pause = 0.0


def say(level: int, message: str, *args: object, exc_info: BaseException | None = None) -> None:
    """Log. A log handler of the user's that raises must not end the server: its error goes to stderr instead."""
    try:
        log.log(level, message, *args, exc_info=exc_info, stacklevel=2)
    except Exception:
        with contextlib.suppress(Exception):  # stderr is closed or gone: there is nowhere left to say so
            traceback.print_exc()


def report(handler: Handler, peer: str, error: BaseException) -> None:
    """Log what a handler raised."""
    say(logging.ERROR, "the connection of %s is closed: %s() failed", peer, handler_name(handler), exc_info=error)


def handler_name(handler: Any) -> str:
    """Its qualified name, for messages."""
    name = getattr(handler, "__qualname__", None) or getattr(getattr(handler, "func", None), "__qualname__", None)
    return name if isinstance(name, str) else type(handler).__qualname__


def default_limit(*, threads: bool = False) -> int:
    """Most connections of this process: half of the descriptors that are left to it, so that handlers have some too.

    Args:
        threads: Each connection also takes a thread.
    """
    limit = machine.descriptors()[0].value
    most = _UNLIMITED
    if limit is not None:
        free = limit - (machine.open_descriptors().value or 0) - _RESERVED_DESCRIPTORS
        most = max(1, free // _DESCRIPTORS_A_CONNECTION)
    if threads:
        allowed = machine.processes().value
        if allowed is not None:
            most = min(most, max(1, (allowed - _RESERVED_THREADS) // 2))
    return most


def shares(total: int, parts: int) -> list[int]:
    """*total* in *parts* that differ by at most one."""
    return [total // parts + (number < total % parts) for number in range(parts)]
