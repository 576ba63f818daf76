"""The servers that are compared: each IO model that rimstone has, on both cores, and what others make of the same task.

IO models are found, not listed: what `rimstone.iomodel` knows is here, and what does not work on this machine is
skipped with the model's own reason.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rimstone import iomodel
from rimstone._core import core
from rimstone.bench.registry import PURE

__all__ = ["FAMILIES", "ONE_AT_A_TIME", "PURE_SUFFIX", "SPINNING", "Server", "choose", "listing", "servers"]

PURE_SUFFIX = "-pure"
SPINNING = "nonblocking-spinning"  # without a back-off: what non-blocking costs is to be seen
ONE_AT_A_TIME = "one-at-a-time"  # blocking without threads; StreamServer's "blocking" has a thread for each connection

FAMILIES = {
    "nonblocking": "non-blocking",
    "select": "multiplexing",
    "poll": "multiplexing",
    "epoll": "multiplexing",
    "kqueue": "multiplexing",
    "uring": "asynchronous",
    "completion_threads": "asynchronous",
}


@dataclass(frozen=True, slots=True)
class Server:
    """One upper-case server.

    Attributes:
        name: Unique; an IO model of rimstone has its own name, and StreamServer's "blocking" is "rimstone-blocking".
        family: One of the four that textbooks know, or "other".
        group: Whose it is: "C", "rimstone", "rimstone, pure core" or "Python".
        file: The program, in `rivals/`.
        what: What it is, in words.
        environment: Variables added to the environment.
        needs: Module without which it is skipped.
        unavailable: Why it does not work here; None if it does.
        serves_one: It talks to one client at a time.
    """

    name: str
    family: str
    group: str
    file: str
    what: str
    environment: tuple[tuple[str, str], ...] = ()
    needs: str = "rimstone"
    unavailable: str | None = None
    serves_one: bool = False


OTHERS = (
    Server(
        "rimstone-blocking",
        "blocking",
        "rimstone",
        "upper_rimstone_blocking.py",
        'StreamServer(io_model="blocking"): a thread for each connection',
    ),
    Server("c-threads", "blocking", "C", "upper_c_threads.c", "C, a thread for each connection"),
    Server("c-epoll", "multiplexing", "C", "upper_c.c", "C, one thread and epoll"),
    Server("c-uring", "asynchronous", "C", "upper_c_uring.c", "C, one thread and io_uring"),
    Server(
        ONE_AT_A_TIME,
        "blocking",
        "Python",
        "upper_blocking.py",
        "recv and send without threads: one client at a time",
        serves_one=True,
    ),
    Server("threads", "blocking", "Python", "upper_threads.py", "threading.Thread for each connection"),
    Server(
        "gevent", "multiplexing", "Python", "upper_gevent.py", "gevent, a greenlet for each connection", needs="gevent"
    ),
    Server(
        "uvloop-streams",
        "multiplexing",
        "Python",
        "upper_uvloop_streams.py",
        "asyncio streams on uvloop",
        needs="uvloop",
    ),
    Server(
        "uvloop-protocol",
        "multiplexing",
        "Python",
        "upper_uvloop_protocol.py",
        "asyncio Protocol on uvloop",
        needs="uvloop",
    ),
)


def servers() -> list[Server]:
    """All of them, rimstone's first."""
    found = [_rimstone(name, reason) for name, reason in iomodel.available().items()]
    for server in found:
        if server.name == "nonblocking":
            environment = (*server.environment, ("RIMSTONE_BACKOFF_MS", "0"))
            what = f"{server.what}, never pausing (RIMSTONE_BACKOFF_MS=0)"
            found = [*found, replace(server, name=SPINNING, what=what, environment=environment)]
    if core() == "compiled":
        found += [
            _rimstone(name, _reason_if_pure(name, reason), pure=True) for name, reason in iomodel.available().items()
        ]
    return [*found, *OTHERS]


def _reason_if_pure(model: str, reason: str | None) -> str | None:
    return reason or ("it needs the compiled core" if iomodel.choose(model).compiled_only else None)


def _rimstone(model: str, reason: str | None, *, pure: bool = False) -> Server:
    return Server(
        model + (PURE_SUFFIX if pure else ""),
        FAMILIES.get(model, "other"),
        "rimstone, pure core" if pure else "rimstone",
        "upper_rimstone.py",
        f"a task for each connection, IO model {model}{', as plain Python' if pure else ''}",
        (("RIMSTONE_IO_MODEL", model), *(PURE if pure else ())),
        unavailable=reason,
    )


def choose(names: list[str]) -> list[Server]:
    """The servers with these names, all when there are none.

    Raises:
        ValueError: there is no such server.
    """
    found = servers()
    known = {server.name for server in found}
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is no server; use some of {', '.join(server.name for server in found)}")
    return [server for server in found if not names or server.name in names]


def listing(chosen: Iterable[Server]) -> Iterator[str]:
    """A line for each: name, family, what it is, and why it does not work here."""
    for server in chosen:
        why_not = "" if server.unavailable is None else f" (not here: {server.unavailable})"
        yield f"{server.name:24} {server.family:13} {server.what}{why_not}"
