"""What is measured of each server: with how many connections, and how many of them active. Read servers.py before.

A *cell* is a server with a number of connections, some of them active. A cell has a rate, latencies, CPU time, memory
for each connection and the CPU used while all are silent, all from one run; its system calls are counted in a run of
its own, so that counting does not disturb the rate.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from rimstone.bench.iomodels.servers import PURE_SUFFIX, Server
from rimstone.bench.registry import Measurement

__all__ = [
    "FULL",
    "MANY",
    "MANY_ACTIVE",
    "PHASES",
    "QUICK",
    "TURNS",
    "Plan",
    "calls_of",
    "cell",
    "estimated_seconds",
    "measurements",
    "phase",
    "turns",
]

PHASES = ("blocking", "nonblocking", "select", "poll", "epoll", "uring")
# Item apart: so many connections, a tenth of them active, against that tenth alone.
MANY, MANY_ACTIVE = 15_000, 1_500
TURNS = (("epoll", "threads"), ("uring", "threads"), ("c-epoll", "c-threads"))  # who has the shorter round trip alone
WITH_MANY = ("epoll", "uring", "c-epoll")
ONE_AT_A_TIME = (1, 10)
PATIENCE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        connections: All of them active.
        tenths: Connections of which every tenth is active.
        pure: Cells of the pure core, which is there to be compared and not to be explored: connections, active.
        counted: Cells whose system calls are counted.
        many: Servers that are measured with very many connections.
        rounds: How often each cell is measured.
        seconds: Measured time of a cell.
        hold_seconds: Silence before it.
    """

    connections: tuple[int, ...]
    tenths: tuple[int, ...]
    pure: tuple[tuple[int, int], ...]
    counted: tuple[tuple[int, int], ...]
    many: tuple[str, ...]
    rounds: int
    seconds: float
    hold_seconds: float


FULL = Plan(
    connections=(1, 10, 100, 500, 5000),
    tenths=(100, 500, 5000),
    pure=((1, 1), (500, 500), (5000, 500)),
    counted=((1, 1), (500, 500), (5000, 500)),
    many=WITH_MANY,
    rounds=3,
    seconds=1.0,
    hold_seconds=0.5,
)
QUICK = Plan(
    connections=(1, 500),
    tenths=(5000,),
    pure=((500, 500),),
    counted=((1, 1), (500, 500)),
    many=("epoll",),
    rounds=1,
    seconds=0.3,
    hold_seconds=0.2,
)


def cell(server: str, connections: int, active: int | None = None) -> str:
    """The name of a cell's measurement: so the rest of the benchmark refers to it."""
    return f"{server} {connections} {connections if active is None else active}"


def calls_of(server: str, connections: int, active: int | None = None) -> str:
    """The name of the measurement of its system calls."""
    return f"syscalls {cell(server, connections, active)}"


def phase(family: str) -> str:
    """The name of the measurement of a family's two phases."""
    return f"phases {family}"


def turns(own: str, rival: str) -> str:
    """The name of the comparison of their round trips at one connection."""
    return f"turns {own} {rival}"


def measurements(servers: Iterable[Server], plan: Plan, sender_cpu: int) -> list[Measurement]:
    """All measurements, in the order in which a round makes them.

    Args:
        servers: Of servers.py.
        plan: How much.
        sender_cpu: Where the program for the two phases sends from.
    """
    servers = list(servers)
    cells = [(server, *numbers) for server in servers for numbers in _cells(server, plan)]
    counted = [
        (server, *numbers)
        for server in servers
        if not server.name.endswith(PURE_SUFFIX)  # the core makes no other calls
        for numbers in (((1, 1),) if server.serves_one else plan.counted)
    ]
    return [
        *(_phase(family, sender_cpu) for family in PHASES),
        *(_turns(own, rival) for own in servers for rival in servers if (own.name, rival.name) in TURNS),
        *(_rate(server, connections, active, plan) for server, connections, active in cells),
        *(_calls(server, connections, active) for server, connections, active in counted),
    ]


def _cells(server: Server, plan: Plan) -> list[tuple[int, int]]:
    if server.serves_one:
        return [(connections, connections) for connections in ONE_AT_A_TIME]
    if server.name.endswith(PURE_SUFFIX):
        return list(plan.pure)
    found = [(connections, connections) for connections in plan.connections]
    found += [(connections, connections // 10) for connections in plan.tenths]
    if server.name in plan.many:
        found += [(MANY_ACTIVE, MANY_ACTIVE), (MANY, MANY_ACTIVE)]
    return found


def _rate(server: Server, connections: int, active: int, plan: Plan) -> Measurement:
    return Measurement(
        cell(server.name, connections, active),
        server.file,
        "messages/s",
        "server",
        connections=connections,
        active=active,
        hold_seconds=plan.hold_seconds,
        patience_seconds=PATIENCE_SECONDS if server.serves_one else None,
        environment=server.environment,
        needs=server.needs,
        unavailable=server.unavailable,
    )


def _calls(server: Server, connections: int, active: int) -> Measurement:
    return Measurement(
        calls_of(server.name, connections, active),
        server.file,
        "calls a message",
        "syscalls",
        connections=connections,
        active=active,
        environment=server.environment,
        needs=server.needs,
        unavailable=server.unavailable,
        most_rounds=1,
    )


def _turns(own: Server, rival: Server) -> Measurement:
    first, second = (
        Measurement(
            *(server.name, server.file, "", "server"),
            environment=server.environment,
            needs=server.needs,
            unavailable=server.unavailable,
        )
        for server in (own, rival)
    )
    return replace(first, name=turns(own.name, rival.name), unit="times its round trip", how="turns", rival=second)


def _phase(family: str, sender_cpu: int) -> Measurement:
    arguments = (family, str(sender_cpu))
    return Measurement(phase(family), "phases.c", "us waited", "program", value="wait_us", arguments=arguments)


def estimated_seconds(measurements: Iterable[Measurement], rounds: int, seconds: float) -> float:
    """How long all rounds take, roughly: what cannot be had costs nothing, and a busy machine takes longer."""
    total = 0.0
    for each in measurements:
        if each.unavailable is None:
            start = 0.7 + each.connections / 5000
            runs = {
                "server": (start + 1.1 * each.hold_seconds + seconds + min(1.0, seconds / 3)) * rounds,
                "turns": 2 * (start + 1.5 * seconds) * rounds,
            }
            total += runs.get(each.how, 2 * start + 1.0 if each.how == "syscalls" else 0.5 * rounds)
    return total
