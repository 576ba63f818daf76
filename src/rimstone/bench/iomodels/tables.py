"""The tables of the report, in Markdown that also reads well in a terminal."""

from collections.abc import Iterable, Mapping, Sequence

from rimstone.bench.iomodels.figures import Figures
from rimstone.bench.iomodels.plan import PHASES, cell
from rimstone.bench.iomodels.servers import Server
from rimstone.bench.registry import Measurement
from rimstone.bench.report import number, table

__all__ = ["cell_table", "phase_table", "rate_table", "reasons"]

ENOUGH_FOR_MEMORY = 100  # connections: below, single pages of memory decide


def rate_table(servers: Iterable[Server], figures: Figures, cells: Sequence[tuple[int, int]]) -> str:
    """Messages a second: a line for each server, a column for each number of connections, and of active ones."""
    lines = []
    for server in servers:
        rates = [figures.of(server.name, *numbers) for numbers in cells]
        if any(rate is not None for rate in rates):
            lines.append([server.name, server.family, *map(number, rates)])
    header = [f"{connections:,}" if connections == active else f"{active:,} of {connections:,}"
              for connections, active in cells]  # fmt: skip
    return table(["messages/s", "family", *header], lines)


def cell_table(servers: Iterable[Server], figures: Figures, cells: Sequence[tuple[int, int]]) -> str:
    """One line for each server and number of connections: medians over the rounds."""
    lines = []
    for server in servers:
        for connections, active in cells:
            name = cell(server.name, connections, active)
            if figures.median(name, "value") is None:
                continue
            by_cpu, idle = figures.median(name, "value_by_cpu"), figures.median(name, "idle_cpu_share")
            memory = figures.median(name, "bytes_a_connection") if connections >= ENOUGH_FOR_MEMORY else None
            lines.append(
                [
                    server.name,
                    server.group,
                    f"{connections:,}",
                    f"{active:,}",
                    number(figures.median(name, "value")),
                    number(1e6 / by_cpu if by_cpu else None),
                    *(number(figures.median(name, key)) for key in ("mean_us", "p50_us", "p99_us")),
                    number(figures.calls(server.name, connections, active)),
                    number(memory),
                    number(None if idle is None else 100 * idle),
                ]
            )
    header = ["server", "of", "connections", "active", "messages/s", "CPU s a million", "mean us", "p50 us", "p99 us"]
    return table([*header, "calls a message", "bytes a connection", "idle CPU %"], lines)


def phase_table(figures: Figures) -> str:
    """The two phases of a receive, for each family, in a bare program in C."""
    lines = []
    for family in PHASES:
        if figures.phase(family, "wait_us") is not None:
            share, copies = figures.phase(family, "wait_cpu_share"), figures.phase(family, "copy_calls")
            numbers = [figures.phase(family, key) for key in ("wait_us", "copy_us", "calls")]
            lines.append(
                [
                    family,
                    number(numbers[0]),
                    number(None if share is None else 100 * share),
                    number(numbers[1]),
                    "a call of its own" if copies else "in the call that waits",
                    number(numbers[2]),
                ]
            )
    return table(["family", "waiting us", "on the CPU %", "copying us", "copying is", "calls a message"], lines)


def reasons(measurements: Iterable[Measurement], figures: Figures, owners: Mapping[str, str]) -> list[str]:
    """Why measurements have no value, each reason once, with what it holds for.

    Args:
        measurements: All that were planned.
        figures: What became of them.
        owners: The server of each measurement by its name; what has none is named itself.
    """
    found: dict[str, dict[str, None]] = {}
    for measurement in measurements:
        reason = figures.why_missing(measurement.name)
        if reason is not None:
            skipped = reason.startswith("skipped") and measurement.unavailable is not None
            name = owners.get(measurement.name, measurement.name) if skipped else measurement.name
            found.setdefault(reason, {})[name] = None
    return [f"{', '.join(names)}: {reason}" for reason, names in found.items()]
