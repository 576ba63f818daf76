"""Plots, written as SVG by hand: bars with their range, and lines over a logarithmic axis as small multiples.

A bar is the median, the thin line across its end the range over the rounds. Ours are dark. Bars of one panel share a
scale; panels of bars do not. Lines carry their names at their ends, so nobody has to look up colours in a legend.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from statistics import median
from typing import Any

from rimstone.bench.registry import Measurement

__all__ = ["INK", "Axes", "Bar", "Line", "bars", "document", "lines", "plot", "text"]

WIDTH, MARGIN, LABELS, NUMBERS = 900, 24, 220, 110
BAR, STEP, TITLE = 14, 22, 34
OURS, THEIRS, INK, GRID = "#1f5f8b", "#b9c4cc", "#222222", "#e3e3e3"
END_LABELS, TICKS, LABEL_STEP = 110, 48, 11  # room beside the lines, and what two names need between them


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its name, what it says behind its end, and all values that were measured."""

    name: str
    values: Sequence[float]
    colour: str
    said: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its name and its points; x is positive."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashes: str = ""


@dataclass(frozen=True, slots=True)
class Axes:
    """Where a panel of lines stands, and what its axes show; panels that share `top_value` can be compared."""

    left: float
    top: float
    width: float
    height: float
    ticks: Sequence[float]
    top_value: float


def plot(measurements: Iterable[Measurement], results: Mapping[str, Sequence[Mapping[str, Any]]], caption: str) -> str:
    """An SVG document of all measurements that have values."""
    panels = []
    for (group, unit), members in groupby(sorted(measurements, key=_panel), key=_panel):
        found = [(m.name.partition(" ")[2], _values(results.get(m.name, ()))) for m in members]
        drawn = [
            Bar(name, values, OURS if name.startswith("rimstone") else THEIRS, f"{median(values):,.0f}")
            for name, values in found
            if values
        ]
        if drawn:
            panels.append((unit if unit.startswith(group) else f"{group}, {unit}", drawn))
    height = MARGIN * 2 + sum(TITLE + STEP * len(drawn) for _, drawn in panels) + STEP
    body: list[str] = []
    y = float(MARGIN)
    for title, drawn in panels:
        body += bars(title, drawn, MARGIN, y, WIDTH - 2 * MARGIN)
        y += TITLE + STEP * len(drawn)
    body.append(text(MARGIN, y + STEP, caption, size=9))
    return document(WIDTH, height, body)


def _panel(measurement: Measurement) -> tuple[str, str]:
    return measurement.name.partition(" ")[0], measurement.unit


def _values(rounds: Iterable[Mapping[str, Any]]) -> list[float]:
    return [each["value"] for each in rounds if "value" in each]


# --- Parts of a document


def document(width: float, height: float, body: Iterable[str]) -> str:
    """The whole file, around the parts."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif">',
            f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>',
            *body,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, words: str, size: int = 12, anchor: str = "start", colour: str = INK) -> str:
    """One line of text."""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}>{escape(words)}</text>"


def bars(
    title: str, drawn: Sequence[Bar], left: float, top: float, width: float, labels: int = LABELS
) -> Iterator[str]:
    """A panel of bars, `TITLE` and a `STEP` for each bar high; *labels* is the room for their names."""
    yield text(left, top + TITLE / 2, title, size=14)
    start = left + labels
    scale = (width - NUMBERS - labels) / (max((max(bar.values) for bar in drawn), default=0) or 1.0)
    for number, bar in enumerate(drawn):
        y = top + TITLE - BAR / 2 + STEP * number
        middle, length = y + BAR / 2, median(bar.values) * scale
        yield text(start - 8, middle + 4, bar.name, anchor="end")
        yield f'<rect x="{start}" y="{y:.1f}" width="{length:.1f}" height="{BAR}" fill="{bar.colour}"/>'
        ends = start + min(bar.values) * scale, start + max(bar.values) * scale
        yield f'<path d="M{ends[0]:.1f} {middle:.1f}H{ends[1]:.1f}" stroke="{INK}"/>'
        yield text(max(ends) + 8, middle + 4, bar.said)


def lines(title: str, drawn: Sequence[Line], axes: Axes) -> Iterator[str]:
    """A panel of lines over a logarithmic axis."""
    left, right = axes.left + TICKS, axes.left + axes.width - END_LABELS
    top, bottom = axes.top + TITLE, axes.top + axes.height - 20
    low, high = math.log(min(axes.ticks)), math.log(max(axes.ticks))

    def x(value: float) -> float:
        return left + (math.log(value) - low) / ((high - low) or 1.0) * (right - left)

    def y(value: float) -> float:
        return bottom - value / (axes.top_value or 1.0) * (bottom - top)

    yield text(axes.left, axes.top + TITLE / 2, title, size=14)
    for value in _steps(axes.top_value):
        yield f'<path d="M{left:.1f} {y(value):.1f}H{right:.1f}" stroke="{GRID}"/>'
        yield text(left - 6, y(value) + 4, f"{value:,.0f}", size=9, anchor="end")
    for value in axes.ticks:
        yield text(x(value), bottom + 14, f"{value:,.0f}", size=9, anchor="middle")
    ends = []
    for line in drawn:
        path = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in line.points)
        dashes = f' stroke-dasharray="{line.dashes}"' if line.dashes else ""
        yield f'<path d="M{path}" fill="none" stroke="{line.colour}" stroke-width="2"{dashes}/>'
        for a, b in line.points:
            yield f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.5" fill="{line.colour}"/>'
        ends.append((y(line.points[-1][1]), x(line.points[-1][0]), line))
    # A name stands beside the last point, lower if another one is there already.
    taken: dict[float, float] = {}
    for wanted, end, line in sorted(ends, key=lambda each: each[:2]):
        taken[end] = max(wanted, taken.get(end, -math.inf) + LABEL_STEP)
        yield text(end + 6, taken[end] + 4, line.name, 10, colour=line.colour)


def _steps(top: float) -> list[float]:
    """Four round numbers or so from 0 to *top*."""
    if top <= 0:
        return [0.0]
    power = 10.0 ** math.floor(math.log10(top / 4))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= top / 4)
    return [step * number for number in range(int(top / step) + 1)]
