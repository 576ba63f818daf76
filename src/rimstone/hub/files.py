"""Operations on regular files, which are always "ready" and then wait in the system call. Read `offload.py` before.

An IO model that completes operations (`IOModel.completes_files`) does them itself; for all others a real thread does.
Either way the task waits until the operation is done, whatever is thrown into it meanwhile.
"""

from collections.abc import Callable
from typing import Any

from rimstone._originals import os_fdatasync, os_fsync, os_preadv, os_pwrite, os_readv, os_write
from rimstone.hub import guard
from rimstone.hub.offload import offload_shielded
from rimstone.hub.scheduler import Hub, current_hub
from rimstone.iomodel.base import Buffer

__all__ = ["call_file", "hub_that_waits", "raise_interrupt", "read_file", "sync_file", "write_file"]


def hub_that_waits() -> Hub | None:
    """The hub of the calling task; None where waiting means blocking the thread.

    That is: there is no hub; or this is a signal handler that struck the scheduler, a finalizer that the garbage
    collector runs, a hook of `os.fork`. What such a place writes must get into the file all the same.
    """
    hub = current_hub()
    if hub is None or not hub.is_running(hub.current) or guard.place() is not None:
        return None
    return hub


def call_file(hub: Hub, function: Callable[..., Any], *args: Any) -> Any:
    """Return `function(*args)`, which works on files, while the hub's other tasks run."""
    if not hub.tasks and hub.on_idle is None:  # the thread's main program, and nobody else who could run
        return function(*args)
    return offload_shielded(function, *args)


def raise_interrupt(hub: Hub) -> None:
    """Raise, in a thread's main program, the Ctrl-C or exit that came during an operation on a file, which is done.

    Elsewhere what came meanwhile waits for the task's next wait. A main program may compute for long before it waits,
    and Ctrl-C is to end it as it does after a `read` in C. For whoever has called an operation as a whole: within one,
    a buffer would not know that what it had written was written.
    """
    task = hub.current
    if task is hub.root and isinstance(task.pending, (KeyboardInterrupt, SystemExit)):
        task.raise_pending()


def read_file(hub: Hub, fd: int, buffer: Buffer, offset: int = -1) -> int:
    """Fill *buffer* from *offset*, or from the descriptor's own position if that is -1; less at the end of the file.

    Raises:
        OSError: as read(2).
    """
    if hub.io.completes_files:
        return hub.io.read_file(fd, buffer, offset)
    if offset < 0:
        return call_file(hub, os_readv, fd, (buffer,))  # type: ignore[no-any-return, arg-type]
    return call_file(hub, os_preadv, fd, (buffer,), offset)  # type: ignore[no-any-return, arg-type]


def write_file(hub: Hub, fd: int, data: Buffer, offset: int = -1) -> int:
    """Write *data* at *offset*, or at the descriptor's own position if that is -1; returns the count.

    Raises:
        OSError: as write(2).
    """
    if hub.io.completes_files:
        return hub.io.write_file(fd, data, offset)
    if offset < 0:
        return call_file(hub, os_write, fd, data)  # type: ignore[no-any-return]
    return call_file(hub, os_pwrite, fd, data, offset)  # type: ignore[no-any-return, arg-type]


def sync_file(hub: Hub, fd: int, data_only: bool = False) -> None:
    """Wait until the disk has what was written to *fd*, as fsync(2) does, or fdatasync(2) if *data_only*.

    Raises:
        OSError: as the system call.
    """
    if hub.io.completes_files:
        hub.io.sync_file(fd, data_only)
    else:
        call_file(hub, os_fdatasync if data_only else os_fsync, fd)
