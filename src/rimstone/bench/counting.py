"""Runs a server under a tool that counts something, and sends it a given number of messages.

What one message costs is then the difference of two runs, with few messages and with many: so the start of the program,
its connections and its end do not count. Read instructions.py and syscalls.py for the tools.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rimstone.bench.processes import Failed, Program, cpus, output_of, started

__all__ = ["SIZE_BYTES", "run_counted", "said_by_load"]

SIZE_BYTES = 32
START_SECONDS = 120.0  # an emulated Python starts slowly
LOAD_SECONDS = 300.0
END_SECONDS = 60.0


def run_counted(
    tool: Sequence[str],
    command: Sequence[str],
    environment: Mapping[str, str],
    load: str,
    connections: int,
    messages: int,
    *options: str,
    is_child: bool = True,
) -> None:
    """Start *command* under *tool*, have *messages* answered, end it; the tool leaves its count where it was told to.

    Args:
        tool: Stands before the command.
        command: The server, which prints its port.
        environment: Added to this process's own.
        load: The load generator's path.
        connections: Open to the server.
        messages: How many there are in all.
        options: For the load generator, see load.c.
        is_child: The server is a child of the tool; otherwise the tool becomes the server.
    Raises:
        Failed: the server did not answer all of them, or the tool did not end.
    """
    # Equal hashes make equal dictionaries, and so equal counts.
    with started([*tool, *command], cpus()[0], {**environment, "PYTHONHASHSEED": "0"}) as server:
        port = server.line(START_SECONDS)
        pid = _only_child(server.pid) if is_child else server.pid
        with _ended(pid):
            arguments = [port, str(connections), str(SIZE_BYTES), "0", "0", "--messages", str(messages)]
            # Ended before the connections close; the tools report on a program that dies of a signal too.
            arguments += ["--pid", str(pid), "--end", *options]
            raw = said_by_load([load, *arguments], LOAD_SECONDS, server)
            if raw["errors"] or raw["messages"] != messages:
                raise Failed(f"{raw['errors']} errors, {raw['messages']} of {messages} messages{server.last_words()}")
            try:
                server.process.wait(timeout=END_SECONDS)
            except subprocess.TimeoutExpired:
                raise Failed(f"{os.path.basename(tool[0])} did not end in time{server.last_words()}") from None


@contextmanager
def _ended(pid: int) -> Iterator[None]:
    """Kill the process when the block ends, if it is still there: a killed tool leaves its child alive, pipe open."""
    pidfd = os.pidfd_open(pid)  # the number may belong to somebody else by then
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)


def said_by_load(command: Sequence[str], timeout: float, server: Program) -> dict[str, Any]:
    """Run the load generator against *server*; what it prints.

    Raises:
        Failed: it gave up; with its own reason, without its command line, and the server's last words.
    """
    try:
        said: dict[str, Any] = json.loads(output_of(command, cpus()[1], timeout))
    except Failed as reason:
        raise Failed(f"{str(reason).partition(': load: ')[2] or reason}{server.last_words()}") from None
    return said


def _only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
