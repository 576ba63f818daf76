"""What rimstone's models have to reach, as rows that report.py judges: at least `must`, and `aim` is wished for."""

from rimstone.bench.iomodels.plan import MANY, MANY_ACTIVE, calls_of, cell, turns
from rimstone.bench.registry import Measurement, Row

__all__ = ["LIMITS"]


def _named(name: str) -> Measurement:
    """Only its name counts: what it measures stands in plan.py."""
    return Measurement(name, "", "", "server")


LIMITS = (
    Row(
        "uring-epoll",
        "500 connections, messages/s: uring against epoll",
        _named(cell("uring", 500)),
        _named(cell("epoll", 500)),
        1.0,
        1.3,
    ),
    Row(
        "uring-c-epoll",
        "... uring against the C epoll server",
        _named(cell("uring", 500)),
        _named(cell("c-epoll", 500)),
        0.75,
        1.0,
    ),
    Row(
        "uring-calls",
        "... uring, system calls a message",
        _named(calls_of("uring", 500)),
        must=0.5,
        aim=0.1,
        at_most=True,
    ),
    Row(
        "epoll-alone",
        "1 connection, median round trip: epoll against a thread that blocks",
        _named(turns("epoll", "threads")),
        must=1.1,
        aim=1.0,
        at_most=True,
    ),
    Row(
        "epoll-many",
        f"{MANY:,} connections, {MANY_ACTIVE:,} active, p99: epoll against the active ones alone",
        _named(cell("epoll", MANY, MANY_ACTIVE)),
        _named(cell("epoll", MANY_ACTIVE)),
        2.0,
        1.2,
        key="p99_us",
        at_most=True,
    ),
    Row(
        "epoll-memory",
        f"{MANY:,} connections: bytes each in the process (12 KB, 8 KB)",
        _named(cell("epoll", MANY, MANY_ACTIVE)),
        must=12 * 1024,
        aim=8 * 1024,
        key="bytes_a_connection",
        at_most=True,
    ),
)
