"""Counts the instructions that a server executes for one message: hardly any noise, so small changes can be compared.

A server runs under `valgrind --tool=callgrind` (or under `perf stat` where there is no valgrind) and gets a fixed
number of messages, twice: a few and many. The difference of the two counts, divided by the difference of the numbers
of messages, leaves out the start and the end of the program. The kernel's instructions are not counted. The messages
come in lockstep (see load.c): an emulated server is so slow that in a free-running loop the next message is there
before it asks, and what it costs to wait would not be counted at all (seen: a third of the instructions).

The profile stays in ~/.cache/rimstone/bench/callgrind.<name>.<messages> (see compiled.py); `callgrind_annotate` shows
it by function.
"""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rimstone.bench.compiled import build_folder
from rimstone.bench.counting import run_counted
from rimstone.bench.processes import Failed, Skipped

__all__ = ["instructions_per_message"]

FEW_MESSAGES, MANY_MESSAGES = 1_000, 6_000


def instructions_per_message(
    name: str, command: Sequence[str], environment: Mapping[str, str], load: str, connections: int
) -> dict[str, Any]:
    """Measure one server: `value` is in instructions, and `tool` says who counted.

    Args:
        name: For the profile's file.
        command: The server, which prints its port.
        environment: Added to this process's own.
        load: The load generator's path.
        connections: How many of them send the messages.
    Raises:
        Skipped: neither valgrind nor a perf that can count is installed.
        Failed: the tool counted nothing.
    """
    tool = _tool()
    counts = {}
    for messages in (FEW_MESSAGES, MANY_MESSAGES):
        output = build_folder() / f"{tool}.{name}.{messages}"
        run_counted(
            _wrapped(tool, output),
            command,
            environment,
            load,
            connections,
            messages,
            "--lockstep",
            is_child=tool != "callgrind",
        )
        counts[messages] = _count_in(output)
    per_message = (counts[MANY_MESSAGES] - counts[FEW_MESSAGES]) / (MANY_MESSAGES - FEW_MESSAGES)
    return {"value": per_message, "tool": tool, "counts": {str(key): count for key, count in counts.items()}}


def _tool() -> str:
    if shutil.which("valgrind"):
        return "callgrind"
    if shutil.which("perf"):
        # Virtual machines often have no counters; perf says so and succeeds.
        probe = subprocess.run(
            ["perf", "stat", "-x,", "-e", "instructions:u", "true"], capture_output=True, text=True, check=False
        )
        if re.match(r"\d", probe.stderr):
            return "perf"
        raise Skipped("valgrind is not installed, and perf has no instruction counter on this machine")
    raise Skipped("neither valgrind nor perf is installed (Debian, Ubuntu: apt install valgrind)")


def _wrapped(tool: str, output: Path) -> list[str]:
    if tool == "callgrind":
        return ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output}"]
    return ["perf", "stat", "-x,", "-e", "instructions:u", "-o", str(output)]


def _count_in(output: Path) -> int:
    """The number behind `totals:` of callgrind, or at the start of perf's line."""
    text = output.read_text(errors="replace") if output.exists() else ""
    found = re.search(r"^(?:totals|summary): (\d+)|^(\d+),", text, re.MULTILINE)
    if not found:
        raise Failed(f"no count in {output}")
    return int(found[1] or found[2])
