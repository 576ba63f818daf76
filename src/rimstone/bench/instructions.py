"""Counts the instructions that a server executes for one message: hardly any noise, so small changes can be compared.

A server runs under `valgrind --tool=callgrind` (or under `perf stat` where there is no valgrind) and gets a fixed
number of messages, twice: a few and many. The difference of the two counts, divided by the difference of the numbers
of messages, leaves out the start and the end of the program. The kernel's instructions are not counted. The messages
come in lockstep (see load.c): an emulated server is so slow that in a free-running loop the next message is there
before it asks, and what it costs to wait would not be counted at all (seen: a third of the instructions).

The profile stays in ~/.cache/rimstone/bench/callgrind.<name>.<messages> (see compiled.py); `callgrind_annotate` shows
it by function.
"""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rimstone.bench.compiled import build_folder
from rimstone.bench.processes import Failed, Skipped, cpus, output_of, started

__all__ = ["instructions_per_message"]

FEW_MESSAGES, MANY_MESSAGES = 1_000, 6_000
SIZE_BYTES = 32
START_SECONDS = 120.0  # an emulated Python starts slowly
LOAD_SECONDS = 300.0


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
        # Equal hashes make equal dictionaries, and so equal counts.
        with started([*_wrapped(tool, output), *command], cpus()[0], {**environment, "PYTHONHASHSEED": "0"}) as server:
            port = server.line(START_SECONDS)
            pid = server.pid if tool == "callgrind" else _only_child(server.pid)
            arguments = [port, str(connections), str(SIZE_BYTES), "0", "0", "--messages", str(messages)]
            raw = json.loads(output_of([load, *arguments, "--pid", str(pid), "--lockstep"], cpus()[1], LOAD_SECONDS))
            if raw["errors"] or raw["messages"] != messages:
                raise Failed(f"{raw['errors']} errors, {raw['messages']} of {messages} messages{server.last_words()}")
            os.kill(pid, signal.SIGTERM)  # valgrind and perf report on a program that dies of a signal too
            try:
                server.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                raise Failed(f"{tool} did not end in time{server.last_words()}") from None
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


def _only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def _count_in(output: Path) -> int:
    """The number behind `totals:` of callgrind, or at the start of perf's line."""
    text = output.read_text(errors="replace") if output.exists() else ""
    found = re.search(r"^(?:totals|summary): (\d+)|^(\d+),", text, re.MULTILINE)
    if not found:
        raise Failed(f"no count in {output}")
    return int(found[1] or found[2])
