"""import: the lock of a module that is being imported belongs to a task. Read `sync/lock.py` first.

CPython holds a lock for each module while its body runs, so that whoever imports it meanwhile waits, and never gets it
half made. The owner is a thread, by `_thread.get_ident()`, and may take it again: else circular imports would be stuck.
Where a body may wait (it reads a file, asks a server, sleeps), a second task of the thread would be let in as if it
were the first. So the import system gets a `_thread` of its own, in which a task counts as a thread, and what it waits
with is a lock that lets other tasks run. Who cannot wait (a signal handler that struck the scheduler) gets CannotWait,
not half a module.

The loaders themselves read their files natively, as ever: they use `_io` and `posix`, not `io` and `os`. Nor does the
one lock of the whole import system change, which is held for steps at a time.

As among threads, a module must not wait, while it is imported, for a task that imports it: that is a deadlock. And two
that import each other, each in a task of its own, are let through half made:
CPython sees that they would wait for ever.
"""

import _thread
import sys
from importlib import _bootstrap
from typing import Any

from rimstone._originals import allocate_lock, get_ident
from rimstone.hub.scheduler import forking_task, here
from rimstone.sync import Lock
from rimstone.sync.lock import ShieldedLock

__all__ = ["patch"]

bootstrap: Any = _bootstrap  # its type stub knows less than half of it


class _Threads:
    """`_thread`, as the import system sees it. The defaults are no arguments: modules are imported to the very end."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_thread, name)

    @staticmethod
    def get_ident(
        _hub: Any = here.get,
        _forking_task: Any = forking_task,
        _native: Any = get_ident,
        _ending: Any = sys.is_finalizing,
    ) -> Any:
        """Who imports: a task, or the number of a thread, which a thread's main program keeps in its hub."""
        hub = _hub()
        if hub is not None and not _ending():
            task = hub.current
            if not hub.is_running(task):
                return hub  # not *task*, which waits: perhaps in the midst of an import
            if task is not hub.root:
                return task
        return _forking_task() or _native()  # a forked child's main program goes on with the imports of that task

    @staticmethod
    def allocate_lock(
        _cooperative: Any = ShieldedLock, _native: Any = allocate_lock, _ending: Any = sys.is_finalizing
    ) -> Any:
        """What a `_ModuleLock` is made of: `lock`, without which it cannot be released, and `wakeup`.

        A task that waits for `wakeup`, by `acquire`, can be killed.
        """
        return _native() if _ending() else _cooperative()


def patch() -> None:
    """For all imports that begin from now on, and those in which this one is nested."""
    threads = _Threads()
    with bootstrap._ImportLockContext():
        bootstrap._thread = threads
        for reference in tuple(bootstrap._module_locks.values()):
            lock = reference()
            if not isinstance(lock, bootstrap._ModuleLock):
                continue
            if lock.owner == get_ident():  # its body has led to here
                lock.owner = threads.get_ident()
            if not lock.wakeup.locked():  # a thread that waits already would not be woken by another one
                lock.wakeup = Lock()
