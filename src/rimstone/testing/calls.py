"""Functions for the tests of worker processes to send there, and `Gate`, at which their calls wait.

They stand in a module of their own because a worker imports the module of a call: the test module would bring pytest
along.
"""

import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Gate", "fork_and_hold", "fork_and_return", "hold", "is_running", "record"]

_PATIENCE = 30.0


class Gate:
    """Calls of `hold` say here that they have started, and go on when it is opened. No sleeping is needed.

    Args:
        path: Of the socket, which must not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(1024)
        self._listener.settimeout(_PATIENCE)
        self._waiting: list[socket.socket] = []

    def wait_for(self, calls: int) -> list[int]:
        """Return when so many calls have come: the process ids they run in."""
        pids = []
        for _ in range(calls):
            waiting, _ = self._listener.accept()
            self._waiting.append(waiting)
            pids.append(int(waiting.recv(20)))
        return pids

    def open(self) -> None:
        """Let those that have come go on."""
        while self._waiting:
            self._waiting.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.open()
        self._listener.close()


def hold(path: str, value: Any = None) -> Any:
    """Tell the gate the process id, wait until it opens, return *value*."""
    with socket.socket(socket.AF_UNIX) as talking:
        talking.connect(path)
        talking.sendall(str(os.getpid()).encode())
        talking.recv(1)
    return value


def fork_and_hold(path: str) -> int:
    """Leave a child behind that has everything of the worker open and waits at the gate; its process id."""
    child = os.fork()
    if child == 0:
        hold(path)
        os._exit(0)
    return child


def fork_and_return(path: str, value: int) -> int:
    """Return *value* twice, in the worker and in a child of it, each of which notes it in a file."""
    child = os.fork()
    with open(path, "a", encoding="ascii") as file:
        file.write(f"{value}\n")
    if child:
        os.waitpid(child, 0)
    return value


def record(path: str, number: int, seconds: float = 0.001) -> int:
    """Take some time, append *number* to a file, with one write, which is atomic, and return it."""
    time.sleep(seconds)
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(file, b"%d\n" % number)
    os.close(file)
    return number


def is_running(pid: int) -> bool:
    """False when there is no such process, or it has ended and its parent has not looked yet."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
