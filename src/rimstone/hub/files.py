"""Operations on regular files, which are always "ready" and then wait in the system call. Read `offload.py` before.

An IO model that completes operations (`IOModel.completes_files`) does them itself; for all others a real thread does.
Either way the task waits until the operation is done, whatever is thrown into it meanwhile.

A small write goes into the page cache and waits for nothing as a rule, but no file system in wide use can say so
beforehand. To be on the safe side each time would cost five times as much as the write, and a switch for every line
that is logged. So it is made at once, and the kernel's time taken: after one that took long (the disk does not keep up;
the file is O_SYNC) all are made by others for a second. The siblings' price is one slow write a second.
"""

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from rimstone import clock
from rimstone._originals import os_fdatasync, os_fsync, os_preadv, os_pwrite, os_readv, os_write
from rimstone.hub import guard
from rimstone.hub._native import timed_write
from rimstone.hub.offload import offload_shielded
from rimstone.hub.scheduler import Hub, current_hub
from rimstone.iomodel._identity import is_still

__all__ = [
    "AT_ONCE_BYTES",
    "call_file",
    "charge",
    "hub_that_waits",
    "raise_interrupt",
    "read_bytes",
    "read_file",
    "sync_file",
    "take_turn",
    "write_file",
]

AT_ONCE_BYTES = 128 * 1024  # what is copied from or to the cache in the hub's own thread: some 20 us
_BUDGET_BYTES = 1024
_O_DIRECT = getattr(os, "O_DIRECT", 0)
_SLOW_SECONDS = 0.002
_CAREFUL_SECONDS = 1.0


class _Writes:
    """When the last small write was seen to wait, in this process.

    Attributes:
        careful_until: On `clock.monotonic`; until then no write is made in a hub's own thread.
    """

    def __init__(self) -> None:
        self.careful_until = 0.0

    def at_once(self, fd: int, data: memoryview, offset: int) -> int:
        """Make one, and take its time. *offset*: as for `write_file`."""
        count, seconds = timed_write(fd, data, offset)
        if seconds > _SLOW_SECONDS:
            self.careful_until = clock.monotonic() + _CAREFUL_SECONDS
        return count

    def may_be_at_once(self, size: int) -> bool:
        """Whether a write of *size* bytes is likely to wait for nothing."""
        return size <= AT_ONCE_BYTES and clock.monotonic() >= self.careful_until


_writes = _Writes()


def hub_that_waits() -> Hub | None:
    """The hub of the calling task; None where waiting means blocking the thread.

    That is: there is no hub; or this is a signal handler that struck the scheduler, a finalizer that the garbage
    collector runs, a hook of `os.fork`. What such a place writes must get into the file all the same.
    """
    hub = current_hub()
    if hub is None or not hub.is_running(hub.current) or guard.place() is not None:
        return None
    return hub


def take_turn(hub: Hub) -> None:
    """Before an operation that may succeed without a wait: now and then let the other tasks run (see `Hub.budget`)."""
    if hub.budget <= 0:
        hub.give_way()
    hub.budget -= 1


def charge(hub: Hub, count: int) -> int:
    """Bytes from the cache cost the budget too: a turn is as long as copying 64 KB, and working on them, takes."""
    hub.budget -= count // _BUDGET_BYTES
    return count


def call_file(hub: Hub, function: Callable[..., Any], *args: Any, fds: Iterable[int] = ()) -> Any:
    """Return `function(*args)`, which works on files, while the hub's other tasks run.

    Args:
        hub: The calling task's.
        function: What to call.
        *args: What with.
        fds: The descriptors that it knows by number only, open ones.
    Raises:
        OSError: EBADF; one of *fds* was closed before a thread came to it.
    """
    if _is_alone(hub):
        return function(*args)
    return offload_shielded(function, *args, fds=fds)


def _is_alone(hub: Hub) -> bool:
    """True if it is the thread's main program that asks, and nobody else could run meanwhile."""
    return not hub.tasks and hub.on_idle is None


def raise_interrupt(hub: Hub, before: BaseException | None) -> None:
    """Raise, in a thread's main program, the Ctrl-C or exit that came during an operation on a file, which is done.

    Elsewhere what came meanwhile waits for the task's next wait. A main program may compute for long before it waits,
    and Ctrl-C is to end it as it does after a `read` in C. For whoever has called an operation as a whole: within one,
    a buffer would not know that what it had written was written.

    Args:
        hub: The calling task's.
        before: The root's `pending` before the operation. If that still waits to be raised, it is not for this place: a
            finalizer may have called, where what is raised is lost.
    """
    root = hub.root
    error = root.pending
    if error is not before and isinstance(error, (KeyboardInterrupt, SystemExit)) and hub.is_running(root):
        root.raise_pending()


def read_file(hub: Hub, fd: int, buffer: memoryview, offset: int = -1) -> int:
    """Fill *buffer* from *offset*, or from the descriptor's own position if that is -1; less at the end of the file.

    Raises:
        OSError: as read(2).
    """
    if hub.io.completes_files and not _is_alone(hub):
        if offset >= 0:
            return hub.io.read_file(fd, buffer, offset)
        left = _left(fd)
        if left is not None:
            return _at_position(fd, min(left, buffer.nbytes), lambda size, at: hub.io.read_file(fd, buffer[:size], at))
    if offset < 0:
        return call_file(hub, os_readv, fd, (buffer,), fds=(fd,))  # type: ignore[no-any-return, arg-type]
    return call_file(hub, os_preadv, fd, (buffer,), offset, fds=(fd,))  # type: ignore[no-any-return, arg-type]


def read_bytes(hub: Hub, fd: int, length: int, offset: int, native: Callable[..., bytes], *args: Any) -> bytes:
    """Up to *length* bytes of a file, without a copy: what `native(*args)`, which reads the same, returns.

    Raises:
        OSError: as read(2).
    """
    left = _left(fd, offset) if hub.io.completes_files and not _is_alone(hub) else None
    if left is None:
        return call_file(hub, native, *args, fds=(fd,))  # type: ignore[no-any-return]
    size = min(length, left)
    if offset >= 0:
        return hub.io.read_bytes(fd, size, offset)
    found = [b""]

    def read(size: int, at: int) -> int:
        found[0] = hub.io.read_bytes(fd, size, at)
        return len(found[0])

    _at_position(fd, size, read)
    return found[0]


def write_file(hub: Hub, fd: int, data: memoryview, offset: int = -1) -> int:
    """Write *data* at *offset*, or at the descriptor's own position if that is -1; returns the count.

    May let other tasks run, also when it has no need to (see `Hub.budget`).

    Raises:
        OSError: as write(2).
    """
    if _writes.may_be_at_once(data.nbytes):
        take_turn(hub)
        charge(hub, data.nbytes)
        return _writes.at_once(fd, data, offset)
    if hub.io.completes_files and not _is_alone(hub):
        flags = _flags(fd)
        if (offset < 0) == bool(flags & os.O_APPEND):  # else pwrite(2) appends, wherever; and a model cannot
            return hub.io.write_file(fd, data, offset)
        if offset < 0 and stat.S_ISREG(os.fstat(fd).st_mode):  # the position of a disk cannot be moved past its end
            return _at_position(fd, data.nbytes, lambda _, at: hub.io.write_file(fd, data, at))
    if offset < 0:
        return call_file(hub, os_write, fd, data, fds=(fd,))  # type: ignore[no-any-return]
    return call_file(hub, os_pwrite, fd, data, offset, fds=(fd,))  # type: ignore[no-any-return, arg-type]


def _at_position(fd: int, size: int, operate: Callable[[int, int], int]) -> int:
    """Move the position over the next *size* bytes, for which nobody else reaches then, and `operate(size, offset)`.

    As read(2) and write(2) do, which keep the position locked meanwhile; moving it is what locks it here.
    """
    if not size:
        return 0
    count = 0
    before = os.fstat(fd)
    offset = os.lseek(fd, size, os.SEEK_CUR) - size
    try:
        count = operate(size, offset)
    finally:
        if count < size:
            with suppress(OSError):
                if is_still(fd, before):  # else it was closed meanwhile, and the number may be another file's
                    os.lseek(fd, count - size, os.SEEK_CUR)
    return count


def _left(fd: int, offset: int = -1) -> int | None:
    """How much there is from *offset*, or the position, to the end; None if only reading can tell: /proc, a disk.

    And for O_DIRECT, which reads whole blocks, also beyond the end.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or not status.st_size or _flags(fd) & _O_DIRECT:
        return None
    return max(0, status.st_size - (os.lseek(fd, 0, os.SEEK_CUR) if offset < 0 else offset))


def _flags(fd: int) -> int:
    import fcntl  # there is none on every system, but where an IO model completes files

    return fcntl.fcntl(fd, fcntl.F_GETFL)


def sync_file(hub: Hub, fd: int, data_only: bool = False) -> None:
    """Wait until the disk has what was written to *fd*, as fsync(2) does, or fdatasync(2) if *data_only*.

    Raises:
        OSError: as the system call.
    """
    if hub.io.completes_files and not _is_alone(hub):
        hub.io.sync_file(fd, data_only)
    else:
        call_file(hub, os_fdatasync if data_only else os_fsync, fd, fds=(fd,))
