"""What is measured, against what, and within which limits. All other files beside this one only carry it out.

A *measurement* is one program, run once a round: its value is a rate, a time or a size. A *row* is what the table
shows: the ratio of two measurements, ours over the rival's, with its limits. A measurement that several rows need is
made once. Names begin with their group (`upper-`, `many-`, ...), and the command line takes groups too.
The benchmark of the IO models has a plan of its own, in iomodels/.
"""

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["PURE", "ROWS", "Measurement", "Pair", "Row", "measurements_of", "select"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One program and the number that it is asked for.

    Attributes:
        name: Unique, and what people see.
        file: The program, in `rivals/`.
        unit: Of the value.
        how: "server": driven by the load generator, the value is its rate. "program": it measures itself and prints
            JSON. "instructions", "syscalls": a server whose instructions or system calls are counted. "turns": its
            round trip at one connection over that of `rival`, both running, in turns.
        value: "program" only: which number of the JSON is the value.
        connections: Open to the server.
        active: How many of them talk; None is all.
        hold_seconds: Before they talk they are silent for so long, and the server's CPU time meanwhile is measured.
        patience_seconds: Connections that have no first answer by then are left out; None waits for all of them.
        arguments: Of the program; a server's port comes before them.
        environment: Variables added to the environment.
        needs: Module without which the measurement is skipped.
        unavailable: Why it cannot be made on this machine; None if it can.
        rival: "turns" only: the other server.
        most_rounds: Where more rounds tell nothing new: counted instructions, or a million tasks.
    """

    name: str
    file: str
    unit: str
    how: str
    value: str = ""
    connections: int = 0
    active: int | None = None
    hold_seconds: float = 0.0
    patience_seconds: float | None = None
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    needs: str = "rimstone"
    unavailable: str | None = None
    rival: "Measurement | None" = None
    most_rounds: int | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A limit that is itself measured: the ratio of two measurements."""

    own: Measurement
    rival: Measurement


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        name: On the command line: group, hyphen, rest.
        what: In the table.
        own: The numerator.
        rival: The denominator; None shows the value of `own` itself.
        must: The limit that has to hold; None where the row only informs.
        aim: The limit that is wished for.
        key: Which number of a round is compared, see measure.py; by CPU there is a figure only for "value".
        at_most: True where less is better (time, memory): then both limits are upper ones.
        on_request: Left out unless it is named.
    """

    name: str
    what: str
    own: Measurement
    rival: Measurement | None = None
    must: float | None = None
    aim: float | Pair | None = None
    key: str = "value"
    at_most: bool = False
    on_request: bool = False

    @property
    def group(self) -> str:
        """What stands before the first hyphen."""
        return self.name.partition("-")[0]


# --- Measurements

PURE = (("RIMSTONE_PURE", "1"),)


def server(rival: str, file: str, connections: int = 500, needs: str = "rimstone", pure: bool = False) -> Measurement:
    """One upper-case server under load, in messages a second."""
    name, environment = f"upper {rival} {connections}", PURE if pure else ()
    return Measurement(
        name, file, "messages/s", "server", connections=connections, environment=environment, needs=needs
    )


def instructions(rival: str, file: str, needs: str = "rimstone") -> Measurement:
    """One upper-case server, in instructions a message."""
    name = f"instructions {rival}"
    return Measurement(name, file, "instructions a message", "instructions", connections=50, needs=needs, most_rounds=1)


def program(group: str, rival: str, unit: str, value: str) -> Measurement:
    """One library in a program that measures itself."""
    return Measurement(f"{group} {rival}", f"{group}.py", unit, "program", value=value, arguments=(rival,), needs=rival)


def switch(rival: str) -> Measurement:
    """One `sleep(0)` among 1,000 tasks."""
    return program("switch", rival, "ns a switch", "ns_per_switch")


def spawn(rival: str) -> Measurement:
    """One of 100,000 tasks that yield once and end."""
    return program("spawn", rival, "ns a task", "ns_per_task")


def memory(rival: str) -> Measurement:
    """One of 20,000 tasks that are parked."""
    return program("memory", rival, "bytes a task", "bytes_per_task")


def lateness(who: str, cache: str) -> Measurement:
    """The worst lateness of a sibling's 1 ms timer while 1 GB is read from a file, in pieces of 1 MB."""
    arguments = (who, "pieces", cache)
    return Measurement(
        f"file {who} {cache}", "lateness_while_reading.py", "ms", "program", value="ms_most", arguments=arguments
    )


RIMSTONE = server("rimstone", "upper_rimstone.py")
RIMSTONE_TIMEOUT = server("rimstone-timeout", "upper_rimstone_timeout.py")
RIMSTONE_PURE = server("rimstone-pure", "upper_rimstone.py", pure=True)
GEVENT = server("gevent", "upper_gevent.py", needs="gevent")
UVLOOP_PROTOCOL = server("uvloop-protocol", "upper_uvloop_protocol.py", needs="uvloop")
UVLOOP_STREAMS = server("uvloop-streams", "upper_uvloop_streams.py", needs="uvloop")
ASYNCIO_STREAMS = server("asyncio-streams", "upper_asyncio_streams.py")
C = server("c", "upper_c.c")
MILLION = Measurement(
    "million rimstone", "million.py", "bytes a task", "program", value="bytes_per_task", most_rounds=1
)


def share_kept(connections: int) -> Row:
    """What is left of the own rate at 500 connections, with so many; the aim is what C keeps."""
    many, many_c = server("rimstone", "upper_rimstone.py", connections), server("c", "upper_c.c", connections)
    what = f"upper-case server, {connections:,} connections, share of own rate at 500 (aim: C's share)"
    return Row(f"many-{connections}", what, many, RIMSTONE, 0.6, Pair(many_c, C))


# --- Rows: the order is the table's

UPPER = "upper-case server, 500 connections: messages/s against"

ROWS = (
    Row("upper-gevent", f"{UPPER} gevent", RIMSTONE, GEVENT, 1.8, 2.5),
    Row("upper-uvloop-protocol", f"{UPPER} uvloop Protocol", RIMSTONE, UVLOOP_PROTOCOL, 0.9, 1.1),
    Row("upper-uvloop-streams", f"{UPPER} uvloop streams", RIMSTONE, UVLOOP_STREAMS, 1.6, 2.2),
    Row("upper-asyncio-streams", f"{UPPER} asyncio streams", RIMSTONE, ASYNCIO_STREAMS, 1.6, 2.2),
    Row("upper-c", f"{UPPER} C epoll", RIMSTONE, C, 0.70, 0.95),
    Row("upper-timeout", "... with a timeout on every recv, against none", RIMSTONE_TIMEOUT, RIMSTONE, 0.90, 0.97),
    Row("upper-pure", "... pure core, against gevent", RIMSTONE_PURE, GEVENT, 0.9, 1.1),
    share_kept(5_000),
    share_kept(15_000),
    Row(
        "switch-asyncio",
        "sleep(0), 1,000 tasks: time against asyncio",
        switch("rimstone"),
        switch("asyncio"),
        0.75,
        0.4,
        at_most=True,
    ),
    Row("switch-gevent", "... against gevent", switch("rimstone"), switch("gevent"), 1.0, at_most=True),
    Row("switch-uvloop", "... against asyncio on uvloop", switch("rimstone"), switch("uvloop"), at_most=True),
    Row(
        "spawn-asyncio",
        "spawn, yield, join, 100,000 tasks: time against asyncio",
        spawn("rimstone"),
        spawn("asyncio"),
        1.0,
        0.6,
        at_most=True,
    ),
    Row("spawn-gevent", "... against gevent", spawn("rimstone"), spawn("gevent"), 1.0, at_most=True),
    Row(
        "memory-gevent",
        "memory of a parked task against gevent's",
        memory("rimstone"),
        memory("gevent"),
        0.9,
        0.78,
        at_most=True,
    ),
    Row("memory-greenlet", "... against a bare greenlet", memory("rimstone"), memory("greenlet"), at_most=True),
    Row("memory-asyncio", "... against an asyncio task", memory("rimstone"), memory("asyncio"), at_most=True),
    *(
        Row(
            f"file-{cache}-{who}",
            f"a sibling's timer while 1 GB is read ({cache}): worst lateness, {who} against unpatched",
            lateness(who, cache),
            lateness("unpatched", cache),
            1.0,
            at_most=True,
            on_request=True,
        )
        for cache in ("cold", "cached")
        for who in ("threads", "uring")
    ),
    Row(
        "instructions-rimstone",
        "upper-case server, 50 connections: instructions a message",
        instructions("rimstone", "upper_rimstone.py"),
        at_most=True,
    ),
    Row(
        "instructions-gevent",
        "... against gevent",
        instructions("rimstone", "upper_rimstone.py"),
        instructions("gevent", "upper_gevent.py", needs="gevent"),
        at_most=True,
    ),
    Row(
        "million-bytes",
        "1,000,000 parked tasks: bytes each (at most 7 KB)",
        MILLION,
        must=7 * 1024,
        at_most=True,
        on_request=True,
    ),
)


def select(names: Iterable[str], rows: Iterable[Row] = ROWS) -> list[Row]:
    """The rows with these names or of these groups, in the table's order; all but those on request when none is named.

    Raises:
        ValueError: a name is neither a row's nor a group's.
    """
    rows, names = list(rows), list(names)
    known = {row.name for row in rows} | {row.group for row in rows}
    for name in names:
        if name not in known:
            groups = ", ".join(dict.fromkeys(row.group for row in rows))
            raise ValueError(f"{name!r} is no benchmark; use groups ({groups}) or names that --list shows")
    if not names:
        return [row for row in rows if not row.on_request]
    return [row for row in rows if row.name in names or row.group in names]


def measurements_of(rows: Iterable[Row]) -> list[Measurement]:
    """All measurements that these rows are made of, each once."""
    found: dict[Measurement, None] = {}
    for row in rows:
        limits = (row.aim.own, row.aim.rival) if isinstance(row.aim, Pair) else ()
        found |= dict.fromkeys(m for m in (row.own, row.rival, *limits) if m is not None)
    return list(found)
