"""Counts the system calls that a server makes for one message.

By the kernel's own tracepoint where perf may use it (`perf stat -e raw_syscalls:sys_enter`), which hardly slows the
server down; else by `strace -c -f`. That makes each call some fifty times slower, so with few connections the next
message would be there before the server asks, and the call that finds nothing and the one that waits would not be made:
there the load generator then thinks a while before each message. With many connections messages are there anyway; but
threads that take turns by a clock, as Python's do, make far more calls (seen: 7 futex a message by perf, 1,469 by
strace).
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rimstone.bench.counting import run_counted
from rimstone.bench.processes import Failed, Skipped

__all__ = ["syscalls_per_message"]

FEW_CONNECTIONS = 10
THINK_US = 2_000
TOTAL = "raw_syscalls:sys_enter"
# Those that a server's loop is made of, to say which they are; what is not among them is in the total all the same.
NAMES = (
    "recvfrom", "sendto", "read", "write", "accept4", "epoll_wait", "epoll_pwait", "epoll_ctl", "poll", "ppoll",
    "select", "pselect6", "io_uring_enter", "futex", "nanosleep", "clock_nanosleep", "sched_yield",
)  # fmt: skip
MESSAGES = {"perf": 10_000, "strace": 2_000}


def syscalls_per_message(
    command: Sequence[str], environment: Mapping[str, str], load: str, connections: int, active: int
) -> dict[str, Any]:
    """Measure one server: `value` is in system calls, `by_name` says which, `tool` who counted.

    Args:
        command: The server, which prints its port.
        environment: Added to this process's own.
        load: The load generator's path.
        connections: Open to the server.
        active: How many of them send the messages, the next one when the last is answered.
    Raises:
        Skipped: neither perf with tracepoints nor strace is to be had.
        Failed: the tool counted nothing.
    """
    tool, events = _tool()
    thinks = tool == "strace" and active <= FEW_CONNECTIONS
    options = ["--active", str(active), *(["--think", str(THINK_US)] if thinks else [])]
    few = max(active, MESSAGES[tool] // 10)
    many = few + MESSAGES[tool] // (10 if thinks else 1)
    counts: list[dict[str, int]] = []
    with tempfile.TemporaryDirectory(prefix="rimstone-bench-") as folder:
        output = Path(folder) / "count"
        for messages in (few, many):
            wrapped = _wrapped(tool, events, output)
            run_counted(wrapped, command, environment, load, connections, messages, *options)
            counts.append(_counts_in(tool, output))
    a_message = {name: (count - counts[0].get(name, 0)) / (many - few) for name, count in counts[1].items()}
    total = a_message.pop("total")
    by_name = {name: round(value, 3) for name, value in sorted(a_message.items(), key=_last) if value >= 0.001}
    return {"value": total, "tool": tool, "by_name": by_name, "messages": many - few}


def _last(item: tuple[str, float]) -> float:
    return -item[1]


def _tool() -> tuple[str, tuple[str, ...]]:
    """Who counts, and which events if it is perf."""
    if shutil.which("perf"):
        # Not every architecture has all of these calls, and perf refuses all of them for one that it does not know.
        for events in ((TOTAL, *(f"syscalls:sys_enter_{name}" for name in NAMES)), (TOTAL,)):
            command = ["perf", "stat", "-x,", "-e", ",".join(events), "true"]
            probe = subprocess.run(command, capture_output=True, text=True, check=False)
            if re.match(r"\d", probe.stderr):
                return "perf", events
    if shutil.which("strace"):
        return "strace", ()
    raise Skipped("needs strace, or perf with the right to use tracepoints (Debian, Ubuntu: apt install strace)")


def _wrapped(tool: str, events: Sequence[str], output: Path) -> list[str]:
    if tool == "strace":
        return ["strace", "-c", "-f", "-q", "-o", str(output)]
    return ["perf", "stat", "-x,", "-e", ",".join(events), "-o", str(output)]


def _counts_in(tool: str, output: Path) -> dict[str, int]:
    """Calls by name, and `total`."""
    text = output.read_text(errors="replace") if output.exists() else ""
    if tool == "strace":  # % time, seconds, usecs/call, calls, errors (may be empty), name
        found = re.findall(r"^ *[\d.]+ +[\d.]+ +\d* +(\d+)(?: +\d+)? +(\w+)$", text, re.MULTILINE)
    else:  # count, unit, event, ...
        found = re.findall(r"^(\d+),[^,]*,(?:raw_syscalls:|syscalls:sys_enter_)(\w+)", text, re.MULTILINE)
    counts = {name.replace("sys_enter", "total"): int(count) for count, name in found}
    if "total" not in counts:
        raise Failed(f"{tool} has counted nothing: {text.strip()[-200:]}")
    return counts
