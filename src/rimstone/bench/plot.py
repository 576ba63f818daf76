"""The plot: one panel a group of measurements, one bar each, written as SVG by hand.

A bar is the median, the thin line across its end the range over the rounds. Ours are dark. Bars of one panel share a
scale; panels do not.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from statistics import median
from typing import Any

from rimstone.bench.registry import Measurement

__all__ = ["plot"]

WIDTH, MARGIN, LABELS, NUMBERS = 900, 24, 220, 110
BAR, STEP, TITLE = 14, 22, 34
OURS, THEIRS, INK = "#1f5f8b", "#b9c4cc", "#222222"


def plot(measurements: Iterable[Measurement], results: Mapping[str, Sequence[Mapping[str, Any]]], caption: str) -> str:
    """An SVG document of all measurements that have values."""
    panels = []
    for (group, unit), members in groupby(sorted(measurements, key=_panel), key=_panel):
        bars = [(m.name.partition(" ")[2], _values(results.get(m.name, ()))) for m in members]
        bars = [(name, values) for name, values in bars if values]
        if bars:
            panels.append((unit if unit.startswith(group) else f"{group}, {unit}", bars))
    height = MARGIN * 2 + sum(TITLE + STEP * len(bars) for _, bars in panels) + STEP
    body: list[str] = []
    y = float(MARGIN)
    for title, bars in panels:
        body += _draw(title, bars, y)
        y += TITLE + STEP * len(bars)
    body.append(_text(MARGIN, y + STEP, caption, size=9))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            *body,
            "</svg>\n",
        ]
    )


def _panel(measurement: Measurement) -> tuple[str, str]:
    return measurement.name.partition(" ")[0], measurement.unit


def _values(rounds: Iterable[Mapping[str, Any]]) -> list[float]:
    return [each["value"] for each in rounds if "value" in each]


def _draw(title: str, bars: Sequence[tuple[str, list[float]]], top: float) -> Iterator[str]:
    yield _text(MARGIN, top + TITLE / 2, title, size=14)
    left = MARGIN + LABELS
    scale = (WIDTH - MARGIN - NUMBERS - left) / (max(max(values) for _, values in bars) or 1.0)
    for number, (name, values) in enumerate(bars):
        y = top + TITLE - BAR / 2 + STEP * number
        middle, width = y + BAR / 2, median(values) * scale
        colour = OURS if name.startswith("rimstone") else THEIRS
        yield _text(left - 8, middle + 4, name, anchor="end")
        yield f'<rect x="{left}" y="{y:.1f}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>'
        ends = left + min(values) * scale, left + max(values) * scale
        yield f'<path d="M{ends[0]:.1f} {middle:.1f}H{ends[1]:.1f}" stroke="{INK}"/>'
        yield _text(max(ends) + 8, middle + 4, f"{median(values):,.0f}")


def _text(x: float, y: float, text: str, size: int = 12, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{INK}">{escape(text)}</text>'
