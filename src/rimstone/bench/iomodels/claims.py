"""What textbooks say of the four families, each held or refuted by figures of this run. Read figures.py before."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rimstone.bench.iomodels.figures import Figures
from rimstone.bench.iomodels.plan import MANY, MANY_ACTIVE, PHASES, cell, turns
from rimstone.bench.iomodels.servers import ONE_AT_A_TIME, SPINNING

__all__ = ["CLAIMS", "Claim", "judged"]

BURNT = 0.9  # of a core, while nothing happens
ASLEEP = 0.1
KEPT = 0.9  # of a rate, that counts as kept

Judgement = tuple[bool | None, str]
"""Whether a claim holds, None where it was not measured; and the figures."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One line of the report.

    Attributes:
        text: What is claimed.
        verdict: "held", "refuted" or "not measured".
        figures: By which it was judged.
    """

    text: str
    verdict: str
    figures: str

    def __str__(self) -> str:
        return f"{self.text}: {self.verdict}" + (f", {self.figures}" if self.figures else "")


def judged(figures: Figures) -> Iterator[Claim]:
    """All claims, judged."""
    for text, judge in CLAIMS.items():
        holds, by = judge(figures)
        yield Claim(text, {True: "held", False: "refuted", None: "not measured"}[holds], by)


# --- One function a claim


def _one_client(figures: Figures) -> Judgement:
    answered = figures.of(ONE_AT_A_TIME, 10, key="answered")
    alone = figures.of(ONE_AT_A_TIME, 1)
    if answered is None or alone is None:
        return None, _why(figures, cell(ONE_AT_A_TIME, 10))
    return answered == 1, f"of 10 clients {answered:.0f} had an answer; alone, it gets {alone:,.0f} messages/s"


def _two_phases(figures: Figures) -> Judgement:
    """Families differ in how a process spends the first phase; the second takes about as long in each of them."""
    said, sleeps, copies = [], [], []
    for family in PHASES:
        wait, share, copy, calls, own = (
            figures.phase(family, key) for key in ("wait_us", "wait_cpu_share", "copy_us", "calls", "copy_calls")
        )
        if wait is None or share is None or copy is None or calls is None or own is None:
            continue
        sleeps.append(share < ASLEEP or family == "nonblocking")
        copies.append(copy)
        where = f"then {copy:,.1f} us of copying" if own else f"and in the same call {copy:,.1f} us of copying"
        said.append(f"{family} {wait:,.0f} us of waiting ({share:.0%} of them on the CPU), {where}, {calls:,.0f} calls")
    if not copies:
        return None, _why(figures, "phases blocking")
    # Copying never dominates what was waited for, or there would be no point in telling the phases apart.
    waits = [wait for family in PHASES if (wait := figures.phase(family, "wait_us")) is not None]
    return all(sleeps) and max(copies) < min(waits), "; ".join(said)


def _burns(figures: Figures) -> Judgement:
    bare, sleeping = figures.phase("nonblocking", "wait_cpu_share"), figures.phase("epoll", "wait_cpu_share")
    if bare is None or sleeping is None:
        return None, _why(figures, "phases nonblocking")
    said = f"a bare loop uses {bare:.0%} of a core while it waits, epoll {sleeping:.1%}"
    for name, how in ((SPINNING, "without back-off"), ("nonblocking", "with back-off"), ("epoll", "asleep")):
        share = figures.of(name, 500, key="idle_cpu_share")
        if share is not None:
            said += f"; {name} ({how}), with 500 silent connections: {share:.1%}"
    return bare > BURNT and sleeping < ASLEEP, said


def _loses_alone(figures: Figures) -> Judgement:
    ratio = figures.median(turns("c-epoll", "c-threads"), "value")
    if ratio is None:
        return None, _why(figures, turns("c-epoll", "c-threads"))
    said = [f"1 connection, in C: {_round_trips(figures, 'c-epoll', 'c-threads')}"]
    calls = figures.calls("c-epoll", 1), figures.calls("c-threads", 1)
    if calls[0] is not None and calls[1] is not None:
        said.append(f"{calls[0]:.1f} system calls a message against {calls[1]:.1f}")
    said += [f"in Python: {words}" for own in ("epoll", "uring") if (words := _round_trips(figures, own, "threads"))]
    return ratio > 1 and _more(*calls), "; ".join(said)


def _round_trips(figures: Figures, own: str, rival: str) -> str:
    ratio, own_us, rival_us, cpu = (
        figures.median(turns(own, rival), key) for key in ("value", "own_us", "rival_us", "cpu_ratio")
    )
    if ratio is None or own_us is None or rival_us is None or cpu is None:
        return ""
    took = f"a round trip with {own} takes {ratio:.2f} times one with {rival}"
    return f"{took} ({own_us:.1f} us, {rival_us:.1f} us; {cpu:.2f} by CPU)"


def _wins_with_many(figures: Figures) -> Judgement:
    found = [(n, ratio) for n in (500, 5000) if (ratio := figures.ratio(cell("c-epoll", n), cell("c-threads", n)))]
    if not found:
        return None, _why(figures, cell("c-epoll", 500), cell("c-threads", 500))
    said = "; ".join(
        f"{n:,} connections, in C: epoll has {_ratio(figures, 'c-epoll', 'c-threads', n)} times the rate of threads"
        + _python(figures, n)
        for n, _ in found
    )
    return all(ratio > 1 for _, ratio in found), said


def _python(figures: Figures, connections: int) -> str:
    said = _ratio(figures, "epoll", "threads", connections)
    return f"; in Python: rimstone's epoll {said} times that of Python's threads" if said else ""


def _ratio(figures: Figures, own: str, rival: str, connections: int) -> str:
    """By the wall clock, which decides, and by CPU, which a busy machine disturbs less; nothing if not measured."""
    wall, by_cpu = (
        figures.ratio(cell(own, connections), cell(rival, connections), key) for key in ("value", "value_by_cpu")
    )
    if wall is None:
        return ""
    return f"{wall:.2f}" + ("" if by_cpu is None else f" ({by_cpu:.2f} by CPU)")


def _select_ends(figures: Figures) -> Judgement:
    few = figures.of("select", 500)
    reasons = [figures.why_missing(cell("select", *numbers)) for numbers in ((5000, 5000), (5000, 500))]
    many = figures.of("select", 5000), figures.of("select", 5000, 500)
    if few is None or (not any(reasons) and many == (None, None)):
        return None, _why(figures, cell("select", 500))
    said = next((reason for reason in reasons if reason), "5,000 connections work")
    return all(value is None for value in many), f"500 connections work ({few:,.0f} messages/s); 5,000: {said}"


def _poll_slows(figures: Figures) -> Judgement:
    """In C for epoll: ten times the Python objects are more than a CPU's caches hold, whoever waits for them."""
    kept = {
        name: figures.ratio(cell(name, 5000, 500), cell(name, 500))
        for name in ("poll", "epoll", "c-epoll")
    }  # fmt: skip
    said = "; ".join(f"{name} keeps {share:.0%} of its rate" for name, share in kept.items() if share is not None)
    if kept["poll"] is None or kept["epoll"] is None:
        return None, said or _why(figures, cell("poll", 5000, 500))
    in_c = kept["epoll"] if kept["c-epoll"] is None else kept["c-epoll"]
    holds = kept["poll"] < KEPT <= in_c and kept["poll"] < kept["epoll"]
    return holds, f"500 active connections, with 4,500 idle ones beside them: {said}"


def _fewer_calls(figures: Figures) -> Judgement:
    pairs = [("c-uring", "c-epoll"), ("uring", "epoll")]
    said, fewer = [], []
    for own, rival in pairs:
        for connections in (1, 500):
            a, b = figures.calls(own, connections), figures.calls(rival, connections)
            if a is not None and b is not None:
                said.append(f"{own} {a:.2f} a message, {rival} {b:.2f} ({connections} connections)")
                fewer.append(a < b)
    return (all(fewer) if fewer else None), "; ".join(said) or _why(figures, "syscalls " + cell("c-uring", 500))


def _idle_ones_cost_nothing(figures: Figures) -> Judgement:
    ratio = figures.ratio(cell("epoll", MANY, MANY_ACTIVE), cell("epoll", MANY_ACTIVE), "p99_us")
    if ratio is None:
        return None, _why(figures, cell("epoll", MANY, MANY_ACTIVE), cell("epoll", MANY_ACTIVE))
    said = f"p99 is {ratio:.2f} times that of the {MANY_ACTIVE:,} alone"
    memory = figures.of("epoll", MANY, MANY_ACTIVE, "bytes_a_connection")
    if memory is not None:
        said += f"; {memory / 1024:.1f} KB a connection in the process"
    return ratio <= 2, said


def _more(a: float | None, b: float | None) -> bool:
    return a is None or b is None or a > b


def _why(figures: Figures, *names: str) -> str:
    return next((reason for name in names if (reason := figures.why_missing(name))), "")


CLAIMS: dict[str, Callable[[Figures], Judgement]] = {
    "blocking without threads serves one client at a time": _one_client,
    "a receive has two phases, and families differ in how they spend the first": _two_phases,
    "non-blocking burns a core while idle": _burns,
    "with one connection multiplexing loses to plain blocking, because of the extra call": _loses_alone,
    "with many connections multiplexing wins": _wins_with_many,
    "select ends at 1,024 descriptors": _select_ends,
    "poll slows with idle connections, epoll does not": _poll_slows,
    "io_uring needs fewer system calls": _fewer_calls,
    f"with epoll, {MANY - MANY_ACTIVE:,} idle connections at most double the p99 of {MANY_ACTIVE:,} active ones":
        _idle_ones_cost_nothing,
}  # fmt: skip
