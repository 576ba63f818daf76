"""The flow of `rimstone bench io-models`: plan, measure in interleaved rounds, judge, write. Read plan.py before."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rimstone.bench import machine, report
from rimstone.bench.iomodels import chart, tables
from rimstone.bench.iomodels.claims import Claim, judged
from rimstone.bench.iomodels.figures import Figures
from rimstone.bench.iomodels.limits import LIMITS
from rimstone.bench.iomodels.plan import FULL, QUICK, estimated_seconds, measurements
from rimstone.bench.iomodels.servers import Server, choose
from rimstone.bench.measure import Round, run_rounds
from rimstone.bench.processes import cpus
from rimstone.bench.registry import Measurement

__all__ = ["compare"]

HOW_MEASURED = (
    (
        "memory a connection is the growth of the server's PSS from before the first connection until each has had its "
        "first answer, divided by their number: nothing of the kernel's own (sockets, buffers, stacks) is in it, "
        "and nothing is subtracted"
    ),
    "idle CPU is what the server uses of a core while all connections are open and silent",
    "system calls are counted in runs of their own, the difference of one with few and one with many messages",
)

Progress = Callable[[int, Measurement, Round], None]


def compare(
    folder: Path, progress: Progress, names: list[str], quick: bool, rounds: int | None, seconds: float | None
) -> int:
    """Measure all servers, print the tables, write .json, .md and .svg into *folder*; 1 if nothing could be measured.

    Args:
        folder: Where the results go.
        progress: Called after each measurement.
        names: Of servers; none is all.
        quick: A few minutes' worth of it.
        rounds: Instead of the plan's.
        seconds: Instead of the plan's, for each measurement.
    Raises:
        ValueError: there is no such server.
    """
    plan = QUICK if quick else FULL
    rounds, seconds = rounds or plan.rounds, seconds or plan.seconds
    servers = choose(names)
    planned = measurements(servers, plan, cpus()[1])
    origin = {**machine.describe(), "rounds": rounds, "seconds": seconds, "quick": quick}
    minutes = estimated_seconds(planned, rounds, seconds) / 60
    _say(report.headline(origin))
    _say(f"{len(planned)} measurements, {rounds} rounds: some {max(1, round(minutes))} minutes on a quiet machine")
    results = run_rounds(planned, rounds, seconds, progress)
    figures = Figures(results)
    findings = report.find(LIMITS, results)
    claims = list(judged(figures))
    parts = _parts(servers, planned, figures, findings, claims)
    notes = [*_notes(servers, origin, planned, figures, results)]
    for title, content in parts.items():
        print(f"{title}\n\n{content}\n")
    for note in notes:
        print("note:", note)
    contents: dict[str, Callable[[], str]] = {
        ".json": lambda: json.dumps(_as_json(origin, servers, findings, claims, planned, results), indent=1) + "\n",
        ".md": lambda: _as_markdown(origin, parts, notes),
        ".svg": lambda: chart.draw(servers, figures, report.headline(origin)),
    }
    for path in report.write_files(folder, origin, "-io-models", contents):
        print("wrote", path)
    return int(not any("value" in each for rounds in results.values() for each in rounds))


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _parts(
    servers: Sequence[Server],
    planned: Sequence[Measurement],
    figures: Figures,
    findings: Sequence[report.Finding],
    claims: Iterable[Claim],
) -> dict[str, str]:
    """The report: titles and what stands below them."""
    cells = {(m.connections, m.active or 0): None for m in planned if m.how == "server"}
    cells_sorted = sorted(cells, key=lambda numbers: (numbers[0] != numbers[1], numbers))
    return {
        "Claims of the textbooks": "\n".join(f"- {claim}" for claim in claims),
        "Limits": report.row_table(findings),
        "Rates": tables.rate_table(servers, figures, cells_sorted),
        "The two phases of a receive, 64 KB that come after a millisecond": tables.phase_table(figures),
        "All figures": tables.cell_table(servers, figures, cells_sorted),
    }


def _notes(
    servers: Sequence[Server],
    origin: Mapping[str, Any],
    planned: Sequence[Measurement],
    figures: Figures,
    results: report.Results,
) -> list[str]:
    # With few connections no server keeps its CPU busy: that is no note, it is what they show.
    loaded = [m for m in planned if m.how == "server" and m.connections == m.active and m.connections >= 500]
    owners = {m.name: server.name for server in servers for m in planned if _is_of(server, m)}
    return [
        *tables.reasons(planned, figures, owners),
        *report.notes(origin, [], loaded, results),
        *HOW_MEASURED,
    ]


def _is_of(server: Server, measurement: Measurement) -> bool:
    return measurement.name.removeprefix("syscalls ").partition(" ")[0] == server.name


def _as_json(
    origin: Mapping[str, Any],
    servers: Sequence[Server],
    findings: Sequence[report.Finding],
    claims: Iterable[Claim],
    planned: Sequence[Measurement],
    results: report.Results,
) -> dict[str, Any]:
    return {
        **report.as_json(origin, findings, planned, results),
        "servers": [asdict(server) for server in servers],
        "claims": [asdict(claim) for claim in claims],
    }


def _as_markdown(origin: Mapping[str, Any], parts: Mapping[str, str], notes: Iterable[str]) -> str:
    lines = [f"# IO models, measured on {str(origin['date'])[:10]}", "", report.headline(origin), ""]
    for title, content in parts.items():
        lines += [f"## {title}", "", content, ""]
    return "\n".join([*lines, "## Notes", "", *(f"- {note}" for note in notes), ""])
