"""Reading and writing descriptors of every kind in a task: what `os` and files share. Read `hub/files.py` before.

What a descriptor leads to decides who waits:

* Pipes, sockets, terminals and other devices can be polled: the hub's IO model waits, then the system call is made. Who
  made the descriptor may share it with other processes, so it is never switched to O_NONBLOCK. Linux has RWF_NOWAIT
  instead, for one call of preadv2 or pwritev2 (which both know the descriptor's own position as -1): the call does what
  can be done without waiting. Without it (terminals; pipes before Linux 6.4; other systems) a call that follows a wait
  blocks only if another process was faster. A write to a pipe is made in pieces then, for which there is room in any
  pipe that is "ready"; what is written to other things takes a real thread, for it may be more than there is room for.
* Regular files and disks are always "ready" and wait in the system call: a real thread makes it, or an IO model that
  completes operations. A small read is tried with RWF_NOWAIT first: it succeeds if the page cache has it all, and a
  thread costs ten times as much. Not every file system knows that (tmpfs and /proc do not), and hardly one for writing.

A read that found only its first pages in the cache moves the descriptor's position over the rest before it waits for
it, so that others who share the position do not read a part from the middle.

A descriptor may be closed while a task waits for it, and its number handed out again at once. Who closes it in this
thread tells the IO model; after any wait the descriptor must still lead to the same file.
"""

import errno
import os
import select
import stat
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rimstone._originals import os_close, os_preadv, os_pwritev, os_readv, os_write, poll, select_select
from rimstone.errors import CannotWait
from rimstone.hub.files import AT_ONCE_BYTES, call_file, charge, read_file, take_turn
from rimstone.hub.scheduler import Hub
from rimstone.hub.timeout import throw_later
from rimstone.iomodel.base import READ, WRITE, Buffer

__all__ = [
    "is_on_disk",
    "length_to_read",
    "read_at",
    "read_into",
    "read_stream",
    "write_stream",
]

_COPIED_BYTES = 1024 * 1024  # what is read of a pipe at once

_NOWAIT = getattr(os, "RWF_NOWAIT", 0) if hasattr(os, "preadv") else 0
_WOULD_WAIT = -1
_CANNOT_TELL = -2
# The file system, the kernel or a sandbox does not know the flag, or not for this file.
_UNKNOWN = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM})


def is_on_disk(fd: int) -> bool:
    """True for what cannot be polled: regular files, folders and block devices."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode) or stat.S_ISDIR(mode)


def length_to_read(fd: int, length: int, on_disk: bool | None = None) -> int:
    """How much of *length* bytes to read into a buffer of ours; 0 if they should be read without a copy (`read_bytes`).

    A pipe never holds as much as some people ask for, and nothing that large is to be filled with zeros first.
    """
    if length <= AT_ONCE_BYTES:
        return length
    if is_on_disk(fd) if on_disk is None else on_disk:
        return 0
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd):
        return min(length, _COPIED_BYTES)
    return 0  # such as /dev/zero


def _may_be_the_flag(fd: int, error: OSError) -> bool:
    """Whether the plain call, which may wait, could do what failed with *error*.

    EINVAL is hard to tell: an eventfd has it for a buffer of less than 8 bytes, and a plain call is not to wait for a
    number first. But to a disk a plain call says at once what is wrong, and an old kernel has it for the flag.
    """
    if error.errno == errno.EINVAL:
        return is_on_disk(fd) or not _knows_flag()
    return error.errno in _UNKNOWN


@lru_cache(maxsize=1)
def _knows_flag() -> bool:
    """Whether the kernel does: Linux before 4.14 looks at the flags first, and says EINVAL."""
    assert os_preadv is not None
    try:
        reading, writing = os.pipe()
    except OSError:
        return True
    try:
        os_preadv(reading, (bytearray(1),), -1, _NOWAIT)
    except OSError as error:
        return error.errno != errno.EINVAL
    finally:
        os_close(reading)
        os_close(writing)
    return True


def _try_read(fd: int, buffers: Sequence[Buffer], offset: int = -1) -> int:
    """The count, or _WOULD_WAIT, or _CANNOT_TELL."""
    if not _NOWAIT:
        return _CANNOT_TELL
    try:
        return os_preadv(fd, buffers, offset, _NOWAIT)  # type: ignore[misc, no-any-return]
    except BlockingIOError:
        return _WOULD_WAIT
    except OSError as error:
        if _may_be_the_flag(fd, error):
            return _CANNOT_TELL
        raise


def read_into(hub: Hub, fd: int, view: memoryview, on_disk: bool | None = None) -> int:
    """What read(2) does with all of *view*, which is not empty; returns the count, 0 at the end.

    Args:
        hub: The hub of the calling task.
        fd: A descriptor of any kind.
        view: Writable bytes.
        on_disk: What `is_on_disk` says, if the caller knows.
    Raises:
        BlockingIOError: the descriptor is O_NONBLOCK, and there is nothing to read.
        OSError: as read(2).
    """
    take_turn(hub)
    size = view.nbytes
    if on_disk is None and size > AT_ONCE_BYTES:
        on_disk = is_on_disk(fd)
    count = _WOULD_WAIT if on_disk and size > AT_ONCE_BYTES else _try_read(fd, (view,))
    if count == size:
        return charge(hub, count)
    if on_disk is None:
        on_disk = is_on_disk(fd)
    if not on_disk:
        return count if count >= 0 else _wait_and_read(hub, fd, (view,), count)
    if count > 0:
        return count + _read_rest(hub, fd, view[count:])
    return 0 if count == 0 and _is_end(fd) else read_file(hub, fd, view)


def _is_end(fd: int, offset: int = -1) -> bool:
    """RWF_NOWAIT found nothing: is it that there is nothing? Linux 5.9 and 5.10 return 0 where it would wait, too."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return False  # a disk, whose size stands elsewhere
    return (os.lseek(fd, 0, os.SEEK_CUR) if offset < 0 else offset) >= status.st_size


def _read_rest(hub: Hub, fd: int, rest: memoryview) -> int:
    """The cache had only the beginning, or the file has no more: read what there is, as if it had been one call."""
    left = os.fstat(fd).st_size - os.lseek(fd, 0, os.SEEK_CUR)
    size = min(rest.nbytes, left)
    if size <= 0:
        return 0
    end = os.lseek(fd, size, os.SEEK_CUR)
    try:
        count = read_file(hub, fd, rest[:size], end - size)
    except OSError:  # what has been read before is returned; the next read meets the error again
        count = 0
    if count < size:
        os.lseek(fd, count - size, os.SEEK_CUR)
    return count


def read_at(hub: Hub, fd: int, view: memoryview, offset: int) -> int:
    """What pread(2) does with all of *view*, which is not empty."""
    take_turn(hub)
    count = _try_read(fd, (view,), offset) if view.nbytes <= AT_ONCE_BYTES else _WOULD_WAIT
    if count == view.nbytes or (count >= 0 and _is_end(fd, offset + count)):
        return charge(hub, count)
    if count <= 0:
        return read_file(hub, fd, view, offset)
    try:
        return count + read_file(hub, fd, view[count:], offset + count)
    except OSError:
        return count


def read_stream(hub: Hub, fd: int, buffers: Sequence[Buffer]) -> int:
    """readv(2) of what can be polled."""
    count = _try_read(fd, buffers)
    return count if count >= 0 else _wait_and_read(hub, fd, buffers, count)


def _wait_and_read(hub: Hub, fd: int, buffers: Sequence[Buffer], tried: int) -> int:
    """The rest of `read_stream`; *tried*: what the first try has said, and it was no count."""
    assert os_readv is not None
    if not os.get_blocking(fd):
        return os_readv(fd, buffers)  # type: ignore[no-any-return]
    while tried < 0:
        if tried == _CANNOT_TELL and _is_ready(fd, READ):
            return os_readv(fd, buffers)  # type: ignore[no-any-return]
        _wait(hub, fd, READ)
        tried = _try_read(fd, buffers)
    return tried


def _wait(hub: Hub, fd: int, events: int) -> None:
    """Wait until *fd* may be ready.

    Raises:
        OSError: EBADF; it was closed meanwhile.
    """
    before = os.fstat(fd)
    hub.io.wait(fd, events)
    if not os.path.samestat(before, os.fstat(fd)):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def _is_ready(fd: int, events: int) -> bool:
    """Asked right before a call that might block: another task of the thread may have been faster."""
    if poll is None:
        return any(select_select([fd] if events & READ else [], [fd] if events & WRITE else [], [], 0))
    question = poll()
    question.register(fd, (select.POLLIN if events & READ else 0) | (select.POLLOUT if events & WRITE else 0))
    return bool(question.poll(0))


def write_stream(hub: Hub, fd: int, data: Buffer, *, raising_is_lost: bool = False) -> int:
    """What write(2) does with *data* on what can be polled: all of it, unless the descriptor is O_NONBLOCK.

    Args:
        hub: The hub of the calling task.
        fd: The descriptor.
        data: What to write.
        raising_is_lost: A finalizer calls. A kill or timeout ends its wait as if all were written, and strikes where
            the task next waits.
    Raises:
        BlockingIOError: it is, and there is no room.
        OSError: as write(2). After a part has been written, the next call meets the error.
    """
    take_turn(hub)
    if not os.get_blocking(fd):
        return os_write(fd, data)
    written = 0
    with memoryview(data) as given, given.cast("B") as octets:
        while True:
            with octets[written:] as rest:
                try:
                    count = _try_write(fd, rest)
                    if count == _CANNOT_TELL:
                        count = _write_if_ready(hub, fd, rest)
                except OSError:
                    if written:
                        return written
                    raise
            if count == _WOULD_WAIT:
                try:
                    _wait(hub, fd, WRITE)
                except BaseException as error:
                    # What was written is not to be written again. That the descriptor is gone the next call learns.
                    is_gone = isinstance(error, OSError) and error.errno == errno.EBADF
                    is_thrown = not (is_gone or isinstance(error, CannotWait))
                    if is_thrown and (written or raising_is_lost):
                        throw_later([error])
                        # Raised here as well, it would be printed, and that reads source files, and so may wait.
                        return octets.nbytes if raising_is_lost else written
                    if not written:
                        raise
                    return written
                continue
            written += count
            if written >= octets.nbytes:
                return written


def _write_if_ready(hub: Hub, fd: int, rest: memoryview) -> int:
    """Where RWF_NOWAIT is unknown: the count, or _WOULD_WAIT."""
    if not _is_ready(fd, WRITE):
        return _WOULD_WAIT
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        with rest[: select.PIPE_BUF] as piece:
            return os_write(fd, piece)
    return call_file(hub, os_write, fd, rest, fds=(fd,))  # type: ignore[no-any-return]


def _try_write(fd: int, data: Any) -> int:
    """The count, or _WOULD_WAIT, or _CANNOT_TELL."""
    if not _NOWAIT:
        return _CANNOT_TELL
    try:
        return os_pwritev(fd, (data,), -1, _NOWAIT)  # type: ignore[misc, no-any-return]
    except BlockingIOError:
        return _WOULD_WAIT
    except OSError as error:
        if _may_be_the_flag(fd, error):
            return _CANNOT_TELL
        raise
