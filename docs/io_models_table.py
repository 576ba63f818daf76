"""Measures the table of docs/guides/io-models.md, and writes it there: docs/io_models_table.py [FILE] [SECONDS].

It plays the lesson `every_model` of `rimstone tour` seven times, SECONDS (0.5) for each figure, and takes the medians.
So the models are measured in turn, and what disturbs the machine for a while disturbs all of them. What stands between
the two markers of FILE is replaced; the rest is left as it is.
"""
# ruff: noqa: INP001, T201  # a script, which says what it did

import platform
import re
import statistics
import sys
from pathlib import Path

from readme_table import replaced

from rimstone import machine
from rimstone._core import core
from rimstone.tour import CHAPTERS, LessonFailed, play

START = "<!-- io models table -->"
ROUNDS = 7
GUIDE = Path(__file__).resolve().parent / "guides/io-models.md"
LINE = re.compile(r"(\S+): ([\d,]+) messages/s, ([\d.]+) us of CPU each, ([\d.]+)% CPU when silent")


def measured_lines(seconds: str) -> list[str]:
    """What the lesson prints, a line for each model and round."""
    lesson = next(lesson for chapter in CHAPTERS for lesson in chapter.lessons if lesson.name == "every_model")
    lines: list[str] = []
    for _ in range(ROUNDS):
        play(lesson, lines.append, arguments=[seconds])
    return lines


def block_of(lines: list[str]) -> str:
    """The table in Markdown, with the medians of each model's lines, and under it the machine.

    Raises:
        ValueError: a line is not what the lesson prints.
    """
    figures: dict[str, list[tuple[float, ...]]] = {}
    for line in lines:
        found = LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"the lesson printed {line!r}, which is not a model's line")
        name, *numbers = found.groups()
        figures.setdefault(name, []).append(tuple(float(number.replace(",", "")) for number in numbers))
    rows = ["| IO model | messages/s | CPU a message | CPU when all are silent |", "| --- | ---: | ---: | ---: |"]
    for name, measured_of_it in figures.items():
        rate, each, silent = map(statistics.median, zip(*measured_of_it, strict=True))
        rows.append(f"| `{name}` | {rate:,.0f} | {each:.1f} µs | {silent:.1f} % |")
    measured = (
        f"Medians of {min(map(len, figures.values()))} rounds, "
        f"measured on {machine.cpus().value} CPUs, {platform.platform()}, "
        f"Python {platform.python_version()}, core: {core()}."
    )
    return "\n".join([*rows, "", measured])


def main(arguments: list[str]) -> int:
    """Measure and rewrite the table; the exit code."""
    if len(arguments) > 2:
        print("usage: docs/io_models_table.py [FILE] [SECONDS]", file=sys.stderr)
        return 2
    guide = Path(arguments[0]) if arguments else GUIDE
    seconds = arguments[1] if len(arguments) > 1 else "0.5"
    try:
        block = block_of(measured_lines(seconds))
        guide.write_text(replaced(guide.read_text(encoding="utf-8"), block, START), encoding="utf-8")
    except (OSError, ValueError, LessonFailed) as error:
        print(f"io_models_table: {error}", file=sys.stderr)
        return 1
    print(f"written to {guide}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
