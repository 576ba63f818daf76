"""RLock: what `threading.RLock` becomes. Owned by a task, or by a thread where no hub runs. Read `lock.py` first."""

from types import TracebackType
from typing import Any

from rimstone._originals import get_ident
from rimstone.hub import current_task
from rimstone.hub.scheduler import forking_task
from rimstone.sync.lock import Lock, acquire_shielded, check_timeout

__all__ = ["RLock"]


def _me() -> Any:
    """Who asks: the task, or the thread's number.

    The root task is its thread, so that a lock taken before the first `spawn` can be released after it. And in a forked
    child the task that forked is its thread, so that `with lock: os.fork()` works in the child as well.
    """
    task = current_task()
    if task is None or task is task.hub.root:
        return forking_task() or get_ident()
    return task


class RLock:
    """A lock that its owner may take again; the interface of `threading.RLock`."""

    __slots__ = ("__weakref__", "_block", "_count", "_owner")

    def __init__(self) -> None:
        self._block = Lock()
        self._owner: Any = None
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock, or take it once more; False if it is not to be had in time.

        Raises:
            ValueError: a timeout together with blocking=False, or a negative one other than -1.
        """
        if timeout != -1:
            check_timeout(blocking, timeout)
        me = _me()
        if self._owner == me:
            self._count += 1
            return True
        taken = self._block.acquire(blocking, timeout)
        if taken:
            self._owner = me
            self._count = 1
        return taken

    def release(self) -> None:
        """Give it back as often as it was taken.

        Raises:
            RuntimeError: the caller does not own it.
        """
        if self._owner != _me():
            raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if not self._count:
            self._owner = None
            self._block.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def locked(self) -> bool:
        """True while somebody holds it."""
        return self._block.locked()

    # For threading.Condition; see the head of `lock.py`.

    def _release_save(self) -> tuple[int, Any]:
        if not self._count:
            raise RuntimeError("cannot release un-acquired lock")
        saved = (self._count, self._owner)
        self._count = 0
        self._owner = None
        self._block.release()
        return saved

    def _acquire_restore(self, saved: tuple[int, Any]) -> None:
        acquire_shielded(self._block)
        self._count, self._owner = saved

    def _is_owned(self) -> bool:
        return bool(self._owner == _me())

    def _recursion_count(self) -> int:
        return self._count if self._owner == _me() else 0

    def _at_fork_reinit(self) -> None:
        self._block._at_fork_reinit()
        self._owner = None
        self._count = 0

    def __repr__(self) -> str:
        return f"<rimstone.sync.RLock, owner={self._owner!r}, count={self._count}, at {id(self):#x}>"
