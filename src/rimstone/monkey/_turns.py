"""One task at a time in the layers of a file: text, buffer, raw file. Read the head of `_files.py` first.

Going in costs next to nothing, since it is paid for each line: as long as no task waits inside, the tasks of a thread
cannot meet there, so whoever comes only looks whether the lock is taken. It is the raw file, far inside, that takes it,
for the length of an operation that may wait. Whoever finds it taken queues for it outside, and then holds it for the
whole call, so that nobody overtakes the queue.

So the tasks of one thread never meet. Those of two threads may, in the moment before the lock is taken; then they are
what threads without tasks are to each other: kept apart by the lock of the C object, and one of them does not park but
blocks for one operation.
"""

from typing import Any

from rimstone._originals import get_ident
from rimstone.hub.files import hub_that_waits
from rimstone.hub.scheduler import current_hub
from rimstone.sync import Lock

__all__ = ["Turns"]


class Turns:
    """Shared by the layers of one file.

    Attributes:
        taken: Call it: True while some task is inside, or is about to be.
    """

    __slots__ = ("_depth", "_lock", "_moving", "_owner", "taken")

    def __init__(self) -> None:
        self._lock = Lock()
        self.taken = self._lock._native.locked
        self._owner: Any = None  # the task; or the number of a thread that runs none
        self._depth = 0
        self._moving: Any = None  # the task that is just taking the lock or giving it back; for its signal handlers

    def enter_nowait(self, task: Any) -> bool:
        """Called from inside, by the raw file. False if somebody else holds it: then block, do not park."""
        if self._owner is task:
            self._depth += 1
            return True
        self._moving = task
        taken = self._lock.acquire(False)
        if taken:
            self._owner = task
            self._depth = 1
        self._moving = None
        return taken

    def leave(self) -> None:
        """Undoes `enter_nowait`."""
        self._depth -= 1
        if not self._depth:
            self._moving = self._owner
            self._owner = None
            self._lock.release()
            self._moving = None

    def call(self, file: Any, method: Any, args: tuple[Any, ...]) -> Any:
        """Return `method(file, *args)`, when it is the calling task's turn.

        Raises:
            RuntimeError: a task of this thread is inside, and this place cannot wait for it (a signal handler).
        """
        hub = hub_that_waits()
        owner = self._owner
        if hub is None:
            here = current_hub()
            if here is not None:
                if owner is None or getattr(owner, "hub", None) is here:
                    raise RuntimeError(f"reentrant call inside {file!r}")
                return method(file, *args)  # it blocks until that thread has left
        me = get_ident() if hub is None else hub.current
        if owner == me:  # C calls back: `close` calls `flush`
            return method(file, *args)
        if self._moving is me:
            raise RuntimeError(f"reentrant call inside {file!r}")
        with self._lock:
            self._owner = me
            self._depth = 1
            try:
                return method(file, *args)
            finally:
                self._owner = None
                self._depth = 0
