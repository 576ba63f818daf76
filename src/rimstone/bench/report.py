"""From rounds to tables: medians, ratios, verdicts; then JSON and Markdown. Read measure.py for what a round holds."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rimstone.bench.machine import PACKAGE
from rimstone.bench.measure import Round
from rimstone.bench.plot import plot
from rimstone.bench.registry import PURE, Measurement, Pair, Row

__all__ = [
    "Finding",
    "Results",
    "as_json",
    "find",
    "headline",
    "measurement_table",
    "notes",
    "number",
    "row_table",
    "table",
    "verdict",
    "write",
    "write_files",
]

Results = Mapping[str, Sequence[Round]]
# Below this share of its CPU a server was not what limited the rate; above this share of others, nobody ran alone.
SATURATED = 0.9
UNDISTURBED = 0.05


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found for one row.

    Attributes:
        row: From the registry.
        figure: The ratio, or the value where the row has no rival; None when there is none.
        figure_by_cpu: The same by CPU seconds.
        aim: The aim as a number, also where it was measured.
        verdict: See `verdict`.
        reason: Why there is no figure.
    """

    row: Row
    figure: float | None
    figure_by_cpu: float | None
    aim: float | None
    verdict: str
    reason: str = ""


def find(rows: Iterable[Row], results: Results) -> list[Finding]:
    """Form the ratios of all rows and judge them.

    A ratio is the median of the ratios within each round, so what slowed down a whole round cancels out.
    """
    return [_find(row, results) for row in rows]


def _find(row: Row, results: Results) -> Finding:
    aim = _ratio(row.aim.own, row.aim.rival, row.key, results) if isinstance(row.aim, Pair) else row.aim
    reason = _why_missing(row.own, results) or (_why_missing(row.rival, results) if row.rival else "")
    if reason:
        return Finding(row, None, None, aim, "-", reason)
    figure = _ratio(row.own, row.rival, row.key, results)
    by_cpu = _ratio(row.own, row.rival, "value_by_cpu", results) if row.key == "value" else None
    return Finding(row, figure, by_cpu, aim, verdict(row, figure, aim, by_cpu))


def verdict(row: Row, figure: float | None, aim: float | None, by_cpu: float | None = None) -> str:
    """Which limit holds: "aim", "must", "MISSED" (not even must), or "-" where there is nothing to judge.

    It has to hold by the wall clock and by CPU. On a quiet machine the two agree; on a busy one, or where the load
    generator is the limit, a fast rival cannot show its speed by the wall clock (seen: 0.70 of C, and 0.40 by CPU).
    """
    if figure is None or row.must is None:
        return "-"
    worst = figure if by_cpu is None else (max if row.at_most else min)(figure, by_cpu)

    def holds(limit: float) -> bool:
        return worst <= limit if row.at_most else worst >= limit

    if not holds(row.must):
        return "MISSED"
    return "aim" if aim is not None and holds(aim) else "must"


def _ratio(own: Measurement, rival: Measurement | None, key: str, results: Results) -> float | None:
    ours = [each.get(key) for each in results.get(own.name, ())]
    if rival is None:
        values = [value for value in ours if value is not None]
        return median(values) if values else None
    theirs = [each.get(key) for each in results.get(rival.name, ())]
    rounds = min(len(ours), len(theirs))
    pairs = [(a, b) for a, b in zip(ours[:rounds], theirs[:rounds], strict=True) if a is not None and b]
    return median(a / b for a, b in pairs) if pairs else None


def _why_missing(measurement: Measurement, results: Results) -> str:
    """Why a measurement counts for nothing: one failed round is enough, for a rate without its errors is no rate."""
    rounds = results.get(measurement.name, ())
    if not rounds:
        return f"{measurement.name}: not measured"
    for each in rounds:
        for outcome in ("skipped", "failed"):
            if outcome in each:
                return f"{outcome}: {measurement.name}: {each[outcome]}"
    return ""


# --- Tables, in Markdown that also reads well in a terminal


def row_table(findings: Iterable[Finding]) -> str:
    """One line a row: the figure by the wall clock and by CPU, the limits, the verdict."""
    lines = []
    for found in findings:
        row, sign = found.row, "<=" if found.row.at_most else ">="
        limits = [f"{sign} {number(limit)}" if limit is not None else "-" for limit in (row.must, found.aim)]
        figures = [number(found.figure), number(found.figure_by_cpu)]
        lines.append([row.name, row.what, *figures, *limits, found.verdict])
    return table(["name", "what", "ratio", "by CPU", "must", "aim", "holds"], lines)


def measurement_table(measurements: Iterable[Measurement], results: Results) -> str:
    """One line a measurement: medians over its rounds, wall and CPU seconds, the spread."""
    lines = []
    for measurement in measurements:
        rounds = [each for each in results.get(measurement.name, ()) if "value" in each]
        if not rounds:
            lines.append([measurement.name, "-", measurement.unit, *"-" * 7])
            continue
        values = [each["value"] for each in rounds]
        lines.append(
            [
                measurement.name,
                number(median(values)),
                measurement.unit,
                f"{number(min(values))} .. {number(max(values))}",
                *(number(_median_of(rounds, key)) for key in ("value_by_cpu", "wall_seconds", "cpu_seconds")),
                *(number(_median_of(rounds, key)) for key in ("p50_us", "p99_us")),
                str(len(rounds)),
            ]
        )
    header = ["measured", "median", "unit", "range", "by CPU", "wall s", "CPU s", "p50 us", "p99 us", "rounds"]
    return table(header, lines)


def notes(
    origin: Mapping[str, Any], findings: Iterable[Finding], measurements: Iterable[Measurement], results: Results
) -> list[str]:
    """What a reader has to know before believing the tables."""
    measurements, said = list(measurements), list(dict.fromkeys(found.reason for found in findings if found.reason))
    if origin["core"] == "pure":
        said.append("the core is the pure one: the limits are meant for the compiled one, all but upper-pure's")
    if origin["core_is_stale"]:
        said.append("the compiled core is older than its source: build it, or this is what it was yesterday")
    if origin["pure_core"] == "compiled" and any(m.environment == PURE for m in measurements):
        said.append("RIMSTONE_PURE=1 did not choose the pure core: upper-pure measures the compiled one")
    if origin["rimstone_from"] and Path(origin["rimstone_from"]).resolve() != PACKAGE.resolve():
        said.append(
            f"rimstone was imported from {origin['rimstone_from']}, so the commit above is not what was measured"
        )
    measured = [(m, [each for each in results.get(m.name, ()) if "value" in each]) for m in measurements]
    others = [each["others"] for _, rounds in measured for each in rounds if "others" in each]
    if others and median(others) > UNDISTURBED:
        said.append(
            f"other programs used {median(others):.0%} of the CPUs (median; at most {max(others):.0%}): "
            "not a quiet machine, trust the column by CPU more than the one by the wall clock"
        )
    idle = [m.name for m, rounds in measured if m.how == "server" and rounds and _load_of(rounds) < SATURATED]
    if idle:
        said.append(
            "servers that did not keep their CPU busy (the load generator or other programs were the limit; the column "
            f"by CPU shows more): {', '.join(idle)}"
        )
    return said


def _load_of(rounds: Sequence[Round]) -> float:
    return median(float(each["cpu_seconds"] / each["wall_seconds"]) for each in rounds)


def _median_of(rounds: Sequence[Round], key: str) -> float | None:
    values = [each[key] for each in rounds if key in each]
    return median(values) if values else None


def number(value: float | None) -> str:
    """Three digits at least, and commas: 0.712, 12.3, 41,234."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned in plain text too."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *lines, strict=True)]
    numeric = [all(line[i][:1] in "0123456789-<>" for line in lines) for i in range(len(header))]

    def shown(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        )
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * (width + 1) + (":" if right else "-") for width, right in zip(widths, numeric, strict=True)]
    return "\n".join([shown(header), "|" + "|".join(rule) + "|", *map(shown, lines)])


# --- Files


def write(
    folder: Path,
    origin: Mapping[str, Any],
    findings: Sequence[Finding],
    measurements: Sequence[Measurement],
    results: Results,
) -> list[Path]:
    """Write the results into *folder*; returns the paths."""
    contents: dict[str, Callable[[], str]] = {
        ".json": lambda: json.dumps(as_json(origin, findings, measurements, results), indent=1) + "\n",
        ".md": lambda: _as_markdown(origin, findings, measurements, results),
        ".svg": lambda: plot(measurements, results, headline(origin)),
    }
    return write_files(folder, origin, "", contents)


def write_files(
    folder: Path, origin: Mapping[str, Any], suffix: str, contents: Mapping[str, Callable[[], str]]
) -> list[Path]:
    """Write files named `<date>-<python><suffix>`, each with its own ending; returns the paths.

    Args:
        folder: Made if it is not there.
        origin: Of machine.py.
        suffix: Before the ending.
        contents: By ending. Made one after the other, so what went before is on disk if one of them fails.
    """
    stamp = str(origin["date"])[:19].replace("-", "").replace(":", "")
    stem = f"{stamp}-{'.'.join(str(origin['python']).split('.')[:2])}{suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for ending, content in contents.items():
        path = folder / (stem + ending)
        path.write_text(content(), encoding="utf-8")
        paths.append(path)
    return paths


def headline(origin: Mapping[str, Any]) -> str:
    """One line about where the figures come from."""
    machine = origin["machine"]
    commit = (origin["commit"] or "unknown")[:10] + (" (modified)" if origin["commit_is_modified"] else "")
    stale = " (stale)" if origin["core_is_stale"] else ""
    versions = ", ".join(_version_of(name, version) for name, version in origin["versions"].items())
    return (
        f"{machine['cpu_model']}, {machine['cpus']} CPUs, {origin['kernel']}, Python {origin['python']}, "
        f"{origin['core']} core{stale}, {versions}, commit {commit}, {origin['date']}"
    )


def _version_of(name: str, version: str | None) -> str:
    if version is None and name == "rimstone":
        return "rimstone from its sources"  # measured, but not installed: PYTHONPATH, say
    return f"{name} {version or 'absent'}"


def as_json(
    origin: Mapping[str, Any], findings: Sequence[Finding], measurements: Sequence[Measurement], results: Results
) -> dict[str, Any]:
    """All of it: where it was measured, the rows with their verdicts, every round of every measurement."""
    return {
        **origin,
        "rows": [
            {
                "name": found.row.name,
                "what": found.row.what,
                "own": found.row.own.name,
                "rival": found.row.rival.name if found.row.rival else None,
                "at_most": found.row.at_most,
                "figure": found.figure,
                "figure_by_cpu": found.figure_by_cpu,
                "must": found.row.must,
                "aim": found.aim,
                "holds": found.verdict,
                "reason": found.reason,
            }
            for found in findings
        ],
        "measurements": [
            {"name": m.name, "program": m.file, "unit": m.unit, "rounds": list(results.get(m.name, ()))}
            for m in measurements
        ],
    }


def _as_markdown(
    origin: Mapping[str, Any], findings: Sequence[Finding], measurements: Sequence[Measurement], results: Results
) -> str:
    said = "".join(f"- {note}\n" for note in notes(origin, findings, measurements, results))
    return "\n".join(
        [
            f"# Benchmarks of {str(origin['date'])[:10]}",
            "",
            headline(origin),
            "",
            row_table(findings),
            "",
            measurement_table(measurements, results),
            *(["", said] if said else [""]),
        ]
    )
