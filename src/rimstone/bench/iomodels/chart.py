"""The plot: rates over connections as small multiples, then what messages and connections cost. Read plot.py."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median

from rimstone.bench.iomodels.figures import Figures
from rimstone.bench.iomodels.plan import calls_of, cell
from rimstone.bench.iomodels.servers import ONE_AT_A_TIME, SPINNING, Server
from rimstone.bench.plot import INK, STEP, TITLE, Axes, Bar, Line, bars, document, lines, text

__all__ = ["draw"]

WIDTH, MARGIN, GAP = 1200, 24, 16
PANEL_HEIGHT = 250
_SOME, _MANY = 500, 5000  # connections
GROUPS = ("C", "rimstone", "Python")  # the panels of each row; the pure core is in the table
BAR_LABELS = 150

Cost = Callable[[Figures, str], tuple[list[float], str]]
"""Of a server, by its name: the values, and what is written behind the bar."""

# One hue a family, so that a family is recognised in every panel.
COLOURS = {
    "c-threads": "#b5651d",
    "threads": "#b5651d",
    ONE_AT_A_TIME: "#7a4a1d",
    "rimstone-blocking": "#b5651d",
    "nonblocking": "#c0272d",
    SPINNING: "#f1948a",
    "select": "#9ecae1",
    "poll": "#4a90c2",
    "epoll": "#08519c",
    "c-epoll": "#08519c",
    "uring": "#1b7837",
    "c-uring": "#1b7837",
    "completion_threads": "#7fbf7b",
    "gevent": "#6a51a3",
    "uvloop-streams": "#969696",
    "uvloop-protocol": "#525252",
}


def draw(servers: Sequence[Server], figures: Figures, caption: str) -> str:
    """An SVG document; a panel without a value in it is left out."""
    body: list[str] = []
    y = float(MARGIN)
    for title, tenth in (("all active", False), ("one in ten active", True)):
        panel = list(_rates(servers, figures, title, tenth, y))
        if panel:
            body += panel
            y += PANEL_HEIGHT + GAP
    rows: list[dict[str, Cost]] = [
        {
            "round trip of one connection alone, median, us": _number(1, "p50_us"),
            f"99th percentile with {_SOME:,} connections, ms": _number(_SOME, "p99_us", 1e-3),
            f"CPU s a million messages, {_SOME:,} connections": _number(_SOME, "value_by_cpu", 1e6, inverse=True),
        },
        {
            f"CPU while {_SOME:,} connections are silent, % of a core": _number(_SOME, "idle_cpu_share", 100),
            f"system calls a message, {_SOME:,} connections": _calls,
            f"memory a connection, {_MANY:,} connections, KB": _memory,
        },
    ]
    width = (WIDTH - 2 * MARGIN - 2 * GAP) / 3
    for costs in rows:
        panels = {title: list(_bars(servers, figures, cost)) for title, cost in costs.items()}
        for number, (title, drawn) in enumerate(panels.items()):
            if drawn:
                body += bars(title, drawn, MARGIN + number * (width + GAP), y, width, BAR_LABELS)
        y += TITLE + STEP * max(map(len, panels.values())) + GAP
    body.append(text(MARGIN, y + STEP, caption, size=9))
    return document(WIDTH, y + STEP + MARGIN, body)


def _rates(servers: Sequence[Server], figures: Figures, title: str, tenth: bool, top: float) -> Iterator[str]:
    found = {group: list(_lines(servers, figures, group, tenth)) for group in GROUPS}
    points = [point for drawn in found.values() for line in drawn for point in line.points]
    if not points:
        return
    ticks = sorted({x for x, _ in points})
    width = (WIDTH - 2 * MARGIN - 2 * GAP) / 3
    highest = max(y for _, y in points)
    for number, group in enumerate(GROUPS):
        axes = Axes(MARGIN + number * (width + GAP), top, width, PANEL_HEIGHT, ticks, highest)
        yield from lines(f"{group}: messages/s, {title}", found[group], axes)


def _lines(servers: Iterable[Server], figures: Figures, group: str, tenth: bool) -> Iterator[Line]:
    for server in servers:
        if server.group != group:
            continue
        points = []
        for connections in (1, 10, 100, 500, 5000):
            active = connections // 10 if tenth else connections
            value = figures.of(server.name, connections, active) if active else None
            if value is not None:
                points.append((float(connections), value))
        if points:
            yield Line(server.name, points, COLOURS.get(server.name, INK), "3 3" if server.serves_one else "")


def _number(connections: int, key: str, factor: float = 1, *, inverse: bool = False) -> Cost:
    """A number of the cell where so many connections are all active."""

    def cost(figures: Figures, server: str) -> tuple[list[float], str]:
        values = figures.values(cell(server, connections), key)
        values = [factor / value if inverse else factor * value for value in values]
        return values, f"{_middle(values):.1f}"

    return cost


def _calls(figures: Figures, server: str) -> tuple[list[float], str]:
    values = figures.values(calls_of(server, _SOME), "value")
    return values, f"{_middle(values):.2f}"


def _memory(figures: Figures, server: str) -> tuple[list[float], str]:
    values = figures.values(cell(server, _MANY), "bytes_a_connection")
    values = values or figures.values(cell(server, _MANY, _MANY // 10), "bytes_a_connection")
    values = [max(value, 0.0) / 1024 for value in values]
    return values, f"{_middle(values):.1f}"


def _middle(values: Sequence[float]) -> float:
    return median(values) if values else 0.0


def _bars(servers: Iterable[Server], figures: Figures, cost: Cost) -> Iterator[Bar]:
    for server in servers:
        if server.group in GROUPS:
            values, said = cost(figures, server.name)
            if values:
                yield Bar(server.name, values, COLOURS.get(server.name, INK), said)
