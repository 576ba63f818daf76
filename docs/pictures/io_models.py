"""Draws the pictures of docs/guides/io-models.md: docs/pictures/io_models.py [FOLDER]. One SVG for each family.

Time runs downward. On the left the program, on the right the kernel; between them the calls and what comes back. A full
bar is a program that is held up in a call, an empty one is free to do other things. tests/tour checks that the pictures
in the guide are what this draws.
"""
# ruff: noqa: INP001, T201  # a script, which says what it did

import sys
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).resolve().parents[1] / "guides/pictures"

WIDTH, HEIGHT = 760, 420
PROGRAM, KERNEL = 250, 510  # where the two lines stand
TOP, STEP = 70, 50  # of the time axis; moments are given in steps
HALF_BAR = 7

LABELLED = 'aria-labelledby="title description"'

STYLE = """
    text { font: 14px system-ui, sans-serif; fill: #1f2328 }
    .head { font-weight: 600; font-size: 16px }
    .code { font-family: ui-monospace, monospace; font-size: 13px }
    .paper { fill: #ffffff }
    .line { stroke: #59636e; stroke-width: 1.5; fill: none }
    .tip { fill: #59636e }
    .time { stroke: #8c959f; stroke-dasharray: 4 4 }
    .held { fill: #bc4c00; stroke: #bc4c00; stroke-width: 1.5 }
    .free { fill: #ffffff; stroke: #1a7f37; stroke-width: 1.5 }
    .wait { fill: #ddf4ff; stroke: #0969da }
    .copy { fill: #0969da; stroke: #0969da }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc }
      .paper { fill: #0d1117 }
      .line { stroke: #9198a1 }
      .tip { fill: #9198a1 }
      .time { stroke: #656c76 }
      .held { fill: #f0883e; stroke: #f0883e }
      .free { fill: #0d1117; stroke: #3fb950 }
      .wait { fill: #121d2f; stroke: #4493f8 }
      .copy { fill: #4493f8; stroke: #4493f8 }
    }
"""


@dataclass(frozen=True)
class Arrow:
    """A call (to the kernel) or what comes back (to the program), at a moment."""

    at: float
    to_kernel: bool
    label: str


@dataclass(frozen=True)
class Bar:
    """What the program does from one moment to another: it is held up in a call, or free."""

    start: float
    end: float
    held: bool
    label: str = ""


@dataclass(frozen=True)
class Picture:
    """One family.

    Attributes:
        name: Of the file.
        title: For readers and screen readers.
        description: The whole picture in words.
        arrows, bars: What happens between program and kernel, and what the program does.
        copying: From when to when the kernel copies.
        data_comes: When the kernel has waited for the data, since moment 1.
    """

    name: str
    title: str
    description: str
    arrows: tuple[Arrow, ...]
    bars: tuple[Bar, ...]
    copying: tuple[float, float] = (5, 5.8)
    data_comes: float = 4.6


PICTURES = (
    Picture(
        "blocking",
        "Blocking",
        "The program calls recv and is held up until the kernel has waited for the data and has copied it.",
        (Arrow(1, True, "recv"), Arrow(5.8, False, "the data")),
        (Bar(1, 5.8, True, "held up in recv,\nin both phases"), Bar(5.8, 6.4, False)),
        copying=(4.6, 5.8),
    ),
    Picture(
        "nonblocking",
        "Non-blocking",
        "The program calls recv again and again; each call returns at once with an error until the data has come. The "
        "last call is held up while the kernel copies the data.",
        (
            *(
                arrow
                for at in (1, 2.2, 3.4)
                for arrow in (Arrow(at, True, "recv"), Arrow(at + 0.45, False, "BlockingIOError"))
            ),
            Arrow(5, True, "recv"),
            Arrow(5.8, False, "the data"),
        ),
        (
            Bar(1, 5, False, "free, but must\nask again and again"),
            Bar(5, 5.8, True, "held up while\nit is copied"),
            Bar(5.8, 6.4, False),
        ),
    ),
    Picture(
        "multiplexing",
        "Multiplexing",
        "The program calls select with many sockets and is held up until one of them has data. Then it calls recv on "
        "that one and is held up while the kernel copies the data.",
        (
            Arrow(1, True, "select (many sockets)"),
            Arrow(4.6, False, "this one is ready"),
            Arrow(5, True, "recv"),
            Arrow(5.8, False, "the data"),
        ),
        (
            Bar(1, 4.6, True, "held up in select,\nfor all of them at once"),
            Bar(4.6, 5, False),
            Bar(5, 5.8, True, "held up while\nit is copied"),
            Bar(5.8, 6.4, False),
        ),
    ),
    Picture(
        "asynchronous",
        "Asynchronous",
        "The program says what is to be read and where to, and is free at once. The kernel waits for the data, copies "
        "it, and then tells the program that all is done.",
        (
            Arrow(1, True, "read this, to there"),
            Arrow(1.45, False, "yes"),
            Arrow(5.8, False, "it is done"),
        ),
        (Bar(1, 6.4, False, "free in both phases"),),
        copying=(4.6, 5.8),
    ),
)


def draw(picture: Picture) -> str:
    """The SVG as text."""
    start, end = picture.copying
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" {LABELLED}>',
        f'  <title id="title">{escape(picture.title)}</title>',
        f'  <desc id="description">{escape(picture.description)}</desc>',
        f"  <style>{STYLE}  </style>",
        f'  <rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
        _text(PROGRAM, 38, "program", css="head", anchor="middle"),
        _text(KERNEL, 38, "kernel", css="head", anchor="middle"),
        _line("time", PROGRAM, TOP, PROGRAM, HEIGHT - 20),
        _line("time", KERNEL, TOP, KERNEL, HEIGHT - 20),
        _rect("wait", KERNEL, 1, picture.data_comes),
        _rect("copy", KERNEL, start, end),
        _text(KERNEL + 22, _y((1 + picture.data_comes) / 2), "1. wait for the data"),
        _text(KERNEL + 22, _y((start + end) / 2) + 5, "2. copy the data"),
    ]
    for bar in picture.bars:
        parts.append(_rect("held" if bar.held else "free", PROGRAM, bar.start, bar.end))
        middle = _y((bar.start + bar.end) / 2)
        lines = bar.label.splitlines()
        parts += [
            _text(PROGRAM - 22, middle + 5 + 18 * number - 9 * (len(lines) - 1), line, anchor="end")
            for number, line in enumerate(lines)
        ]
    parts += [_arrow(arrow) for arrow in picture.arrows]
    return "\n".join([*parts, "</svg>", ""])


def _y(moment: float) -> int:
    return round(TOP + STEP * moment - STEP / 2)


def _text(x: int, y: int, text: str, *, css: str = "", anchor: str = "start") -> str:
    css = f' class="{css}"' if css else ""
    return f'  <text x="{x}" y="{y}" text-anchor="{anchor}"{css}>{escape(text)}</text>'


def _line(css: str, x1: int, y1: int, x2: int, y2: int) -> str:
    return f'  <line class="{css}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _rect(css: str, x: int, start: float, end: float) -> str:
    y = _y(start)
    return f'  <rect class="{css}" x="{x - HALF_BAR}" y="{y}" width="{2 * HALF_BAR}" height="{_y(end) - y}"/>'


def _arrow(arrow: Arrow) -> str:
    y = _y(arrow.at)
    left, right = PROGRAM + HALF_BAR + 2, KERNEL - HALF_BAR - 2
    tip, back = (right, right - 9) if arrow.to_kernel else (left, left + 9)
    return "\n".join(
        [
            _line("line", left, y, right, y),
            f'  <path class="tip" d="M{tip} {y} L{back} {y - 5} L{back} {y + 5} Z"/>',
            _text((left + right) // 2, y - 6, arrow.label, css="code", anchor="middle"),
        ]
    )


def main(arguments: list[str]) -> int:
    """Write all of them; the exit code."""
    if len(arguments) > 1:
        print("usage: docs/pictures/io_models.py [FOLDER]", file=sys.stderr)
        return 2
    folder = Path(arguments[0]) if arguments else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for picture in PICTURES:
        file = folder / f"io-{picture.name}.svg"
        file.write_text(draw(picture), encoding="utf-8")
        print(f"written to {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
