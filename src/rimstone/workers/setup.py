"""What a worker process is told once, before its first call. Seen from both sides: `ProcessWorker` and `WorkerMain`."""

import enum
import mmap
import os
import sys
from dataclasses import dataclass

from rimstone._originals import os_ftruncate

__all__ = ["Mark", "Setup", "StartedSlots", "main_script"]


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything that makes a worker like its parent.

    Attributes:
        name: Of the worker, for messages: `rimstone-<pool>-<n>`.
        parent_pid: Whose death ends the worker.
        path: `sys.path` of the parent.
        argv: `sys.argv` of the parent.
        script: File of the parent's `__main__`, if it has one.
        patch: Make blocking calls cooperative, before anything of the user is imported.
        threads: Most threads that run calls.
        coroutines: Most calls that one thread holds at once.
        initializer: (blob of the function, blob of its arguments), run once before the first call; or None.
    """

    name: str
    parent_pid: int
    path: list[str]
    argv: list[str]
    script: str | None
    patch: bool
    threads: int
    coroutines: int
    initializer: tuple[bytes, bytes] | None


class Mark(enum.IntEnum):
    """How far a worker has come with a call.

    UNTOUCHED: it may run elsewhere. STARTED: it must fail if its worker dies. LOADING: its function is being imported
    or rebuilt. It may be tried elsewhere, but a function that ends every worker that loads it must not do so for ever.
    """

    UNTOUCHED = 0
    STARTED = 1
    LOADING = 2


class StartedSlots:
    """Which calls a worker has started: one byte of shared memory a call, stored by the worker, read after its death.

    A call that was sent but not started may run elsewhere; one that was started must fail with the worker. A store is
    all it costs, and it survives kill -9.
    """

    def __init__(self, file: int, slots: int) -> None:
        self.file = file
        self._bytes = mmap.mmap(file, slots)

    @classmethod
    def create(cls, slots: int) -> "StartedSlots":
        """New shared memory, all zero, whose file a worker can inherit."""
        file = os.memfd_create("rimstone-started", os.MFD_CLOEXEC)
        os_ftruncate(file, slots)
        return cls(file, slots)

    def __setitem__(self, slot: int, mark: Mark) -> None:
        self._bytes[slot] = mark

    def __getitem__(self, slot: int) -> Mark:
        return Mark(self._bytes[slot])

    def close_file(self) -> None:
        """The memory stays; its descriptor is not needed any more."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1

    def close(self) -> None:
        """Give everything back. Idempotent."""
        self.close_file()
        self._bytes.close()


def main_script() -> str | None:
    """The file of this process's `__main__` module; None for `python -c`, the REPL and notebooks."""
    return getattr(sys.modules.get("__main__"), "__file__", None)
