"""Writes the table of README.md from the numbers of `./dev demo`: docs/readme_table.py demo.json [README.md].

What stands between the two markers is replaced; the rest of the file is left as it is.
"""
# ruff: noqa: INP001, T201  # a script, which says what it did

import json
import sys
from pathlib import Path
from typing import Any

START, END = "<!-- demo table -->", "<!-- end -->"
HEAD = ("", "calls", "calls/s", "most in flight", "processes", "threads", "coroutines", "ratio")


def block_of(report: dict[str, Any]) -> str:
    """The table in Markdown, and under it the machine that it was measured on."""
    rows = [HEAD, ("---", *["---:"] * (len(HEAD) - 1)), *(cells_of(row) for row in report["rows"])]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    machine = report["machine"]
    memory = f"{machine['memory_bytes'] / (1 << 30):.0f} GiB"
    commit = f", commit `{report['commit']}`" if report["commit"] else ""
    measured = (
        f"Measured on {machine['cpus']} CPUs ({machine['architecture']}), {memory}, {report['kernel']}, "
        f"Python {report['python']}, core: {report['core']}, IO model: {report['io_model']}{commit}."
    )
    return "\n".join([*lines, "", measured])


def cells_of(row: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table; what was not measured is a dash."""
    numbers = (row["calls"], round(row["calls_per_second"]), row["in_flight"], row["processes"], row["threads"])
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:.1f} x"
    return (f"`{row['what']}`", *(f"{number:,}" for number in numbers), _or_dash(row["coroutines"]), ratio)


def _or_dash(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def replaced(text: str, block: str, start: str = START) -> str:
    """*text* with *block* between the two markers, *start* and `END`.

    Raises:
        ValueError: a marker is missing, or stands there more than once.
    """
    if text.count(start) != 1 or text.count(END) != 1 or text.index(start) > text.index(END):
        raise ValueError(f"there must be one {start} and, below it, one {END}")
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(END)
    return f"{before}{start}\n{block}\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Rewrite the table; the exit code."""
    if not 1 <= len(arguments) <= 2:
        print("usage: docs/readme_table.py demo.json [README.md]", file=sys.stderr)
        return 2
    readme = Path(arguments[1]) if len(arguments) > 1 else Path(__file__).resolve().parents[1] / "README.md"
    try:
        report = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
        readme.write_text(replaced(readme.read_text(encoding="utf-8"), block_of(report)), encoding="utf-8")
    except (OSError, ValueError, KeyError) as error:
        print(f"readme_table: {error!r}", file=sys.stderr)
        return 1
    print(f"written to {readme}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
