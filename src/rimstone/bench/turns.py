"""Compares the round trips of two servers at one connection: they take turns of a twentieth of their time.

With one message under way the CPU sleeps most of the time, and how deep it sleeps decides how long it takes to wake up:
on one machine the same server answers in 42, 56 or 66 us, and stays at one of them for seconds. A round of a second a
server, as for rates, measures which of them it happened to be. So both servers run side by side, idle while it is the
other's turn, and the ratio is formed of neighbouring turns.
"""

from statistics import median
from typing import Any

from rimstone.bench.counting import SIZE_BYTES, said_by_load
from rimstone.bench.processes import Failed, Program, cpus, started

__all__ = ["Command", "round_trip_in_turns"]

TURNS = 20  # of each server
START_SECONDS = 30.0
PATIENCE_SECONDS = 150.0

Command = tuple[list[str], dict[str, str]]
"""A server that prints its port, and what is added to its environment."""


def round_trip_in_turns(own: Command, rival: Command, load: str, seconds: float) -> dict[str, Any]:
    """Measure both.

    Args:
        own: The numerator.
        rival: The denominator.
        load: The load generator's path.
        seconds: Of a server, all turns together.
    Returns:
        `value` is the ratio of the median round trips, `cpu_ratio` that of the CPU seconds a message; `own_us` and
        `rival_us` are the medians over the turns.
    Raises:
        Failed: one of them did not answer.
    """
    with started(own[0], cpus()[0], own[1]) as first, started(rival[0], cpus()[0], rival[1]) as second:
        ports = {server: server.line(START_SECONDS) for server in (first, second)}
        pairs = []
        for turn in range(TURNS):
            order = (first, second) if turn % 2 == 0 else (second, first)  # who is first may find the CPU asleep
            found = {server: _turn(server, ports[server], load, seconds / TURNS) for server in order}
            pairs.append((found[first], found[second]))
    return {
        "value": median(a["p50_us"] / b["p50_us"] for a, b in pairs),
        "cpu_ratio": median(_cpu_us(a) / _cpu_us(b) for a, b in pairs),
        "own_us": median(a["p50_us"] for a, _ in pairs),
        "rival_us": median(b["p50_us"] for _, b in pairs),
        "own_cpu_us": median(_cpu_us(a) for a, _ in pairs),
        "rival_cpu_us": median(_cpu_us(b) for _, b in pairs),
    }


def _turn(server: Program, port: str, load: str, seconds: float) -> dict[str, Any]:
    arguments = [port, "1", str(SIZE_BYTES), str(seconds / 5), str(seconds), "--pid", str(server.pid)]
    found = said_by_load([load, *arguments], seconds + PATIENCE_SECONDS, server)
    if found["errors"] or found["unanswered"] or not found["messages"]:
        raise Failed(f"{found['errors']} errors, {found['messages']} messages answered{server.last_words()}")
    return found


def _cpu_us(found: dict[str, Any]) -> float:
    return float(found["server_cpu_seconds"] / found["messages"] * 1e6)
