"""os: reading and writing descriptors let the other tasks run, and fork refuses waits in its hooks.

Read `_descriptors.py` first, and `hub/guard.py` for fork. What only names files (open, stat, listdir, rename) is as it
was; so is everything in a thread without tasks, and arguments that the original refuses.
"""

import os
from collections.abc import Callable, Sequence
from operator import index
from typing import Any

from rimstone._originals import os_preadv, os_pwritev, os_read, os_readv, os_write
from rimstone.hub.files import call_file, hub_that_waits, raise_interrupt, read_bytes, sync_file, take_turn, write_file
from rimstone.hub.guard import guarded
from rimstone.hub.offload import forget_jobs
from rimstone.hub.scheduler import current_hub
from rimstone.monkey._arguments import or_refuse, whole_number
from rimstone.monkey._builtin import Builtin
from rimstone.monkey._descriptors import is_on_disk, length_to_read, read_at, read_into, read_stream, write_stream

__all__ = ["patch"]

_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_LARGEST_DESCRIPTOR = 2**31 - 1
_native: dict[str, Callable[..., Any]] = {}  # what stood in `os` before, by name


def _read(fd: int, length: int, /) -> bytes:
    hub = hub_that_waits()
    size = whole_number(length)
    if hub is None or size <= 0:
        return os_read(fd, length)
    copied = length_to_read(fd, size)
    if not copied:
        return read_bytes(hub, fd, size, -1, os_read, fd, size)
    buffer = bytearray(copied)
    with memoryview(buffer) as view:
        return bytes(view[: read_into(hub, fd, view)])


def _descriptor(file: Any) -> int:
    """Of what has one, or is one; -1 for what the original refuses."""
    if not isinstance(file, int):
        if not hasattr(file, "fileno"):
            return -1
        file = file.fileno()
    return whole_number(file, _LARGEST_DESCRIPTOR) if isinstance(file, int) else -1


def _size(data: Any) -> int:
    """Of what is to be written; 0 for what the original refuses."""
    try:
        with memoryview(data) as view:
            return view.nbytes if view.c_contiguous else 0
    except TypeError:
        return 0


def _readv(fd: int, buffers: Sequence[Any], /) -> int:
    assert os_readv is not None
    hub = hub_that_waits()
    if hub is None:
        return os_readv(fd, buffers)  # type: ignore[no-any-return]
    take_turn(hub)
    if is_on_disk(fd):
        return call_file(hub, os_readv, fd, buffers, fds=(fd,))  # type: ignore[no-any-return]
    return read_stream(hub, fd, buffers)


def _pread(fd: int, length: int, offset: int, /) -> bytes:
    hub = hub_that_waits()
    size, at = whole_number(length), whole_number(offset)
    if hub is None or size <= 0 or at < 0:
        return _native["pread"](fd, length, offset)  # type: ignore[no-any-return]
    copied = length_to_read(fd, size)
    if not copied:
        return read_bytes(hub, fd, size, at, _native["pread"], fd, size, at)
    buffer = bytearray(copied)
    with memoryview(buffer) as view:
        return bytes(view[: read_at(hub, fd, view, at)])


def _preadv(fd: int, buffers: Sequence[Any], offset: int, flags: int = 0, /) -> int:
    assert os_preadv is not None
    hub = hub_that_waits()
    if hub is None or whole_number(offset) < 0 or whole_number(flags) < 0 or index(flags) & _NOWAIT:
        return os_preadv(fd, buffers, offset, flags)  # type: ignore[no-any-return]
    return call_file(hub, os_preadv, fd, buffers, offset, flags, fds=(fd,))  # type: ignore[no-any-return]


def _write(fd: int, data: Any, /) -> int:
    hub = hub_that_waits()
    if hub is None or not _size(data):
        return os_write(fd, data)
    if not is_on_disk(fd):
        return write_stream(hub, fd, data)
    with memoryview(data) as view:
        return write_file(hub, fd, view.cast("B"))


def _writev(fd: int, buffers: Sequence[Any], /) -> int:
    hub = hub_that_waits()
    if hub is None:
        return _native["writev"](fd, buffers)  # type: ignore[no-any-return]
    if is_on_disk(fd):
        return call_file(hub, _native["writev"], fd, buffers, fds=(fd,))  # type: ignore[no-any-return]
    data = b"".join(buffers)  # a part of it may have to wait: one piece is easier to take a part of
    return write_stream(hub, fd, data) if data else _native["writev"](fd, buffers)


def _pwrite(fd: int, data: Any, offset: int, /) -> int:
    hub = hub_that_waits()
    at = whole_number(offset)
    if hub is None or at < 0 or not _size(data):
        return _native["pwrite"](fd, data, offset)  # type: ignore[no-any-return]
    with memoryview(data) as view:
        return write_file(hub, fd, view.cast("B"), at)


def _pwritev(fd: int, buffers: Sequence[Any], offset: int, flags: int = 0, /) -> int:
    assert os_pwritev is not None
    hub = hub_that_waits()
    if hub is None or whole_number(offset) < 0 or whole_number(flags) < 0 or index(flags) & _NOWAIT:
        return os_pwritev(fd, buffers, offset, flags)  # type: ignore[no-any-return]
    return call_file(hub, os_pwritev, fd, buffers, offset, flags, fds=(fd,))  # type: ignore[no-any-return]


def _fsync(fd: Any) -> None:
    hub = hub_that_waits()
    number = -1 if hub is None else _descriptor(fd)
    if hub is None or number < 0:
        _native["fsync"](fd)
    else:
        sync_file(hub, number)


def _fdatasync(fd: Any) -> None:
    hub = hub_that_waits()
    number = -1 if hub is None else _descriptor(fd)
    if hub is None or number < 0:
        _native["fdatasync"](fd)
    else:
        sync_file(hub, number, data_only=True)


def _sendfile(out_fd: int, in_fd: int, *args: Any, **kwargs: Any) -> int:
    """To a file as `shutil` copies them. To a socket as ever: what waits there is `socket.sendfile`."""
    hub = hub_that_waits()
    if hub is None or not is_on_disk(out_fd):
        return _native["sendfile"](out_fd, in_fd, *args, **kwargs)  # type: ignore[no-any-return]
    fds = (out_fd, in_fd)
    return call_file(  # type: ignore[no-any-return]
        hub, lambda: _native["sendfile"](out_fd, in_fd, *args, **kwargs), fds=fds
    )


def _close(fd: int) -> None:
    """Whoever waits for the descriptor sees that it is closed, and does not go on with what gets the number next."""
    hub = current_hub()
    if hub is not None and isinstance(fd, int) and fd >= 0:
        hub.io.forget(fd)
        forget_jobs(fd)
    _native["close"](fd)


def _is_open(fd: Any) -> bool:
    """Whether it is the number of an open descriptor; of anything else the original says what it is."""
    try:
        os.fstat(fd)
    except (OSError, OverflowError, TypeError):
        return False
    return True


def _on_thread(name: str, descriptors: int = 0) -> Callable[..., Any]:
    """What *name* does, on a thread. As many of its first arguments are *descriptors*."""

    def call(*args: Any, **kwargs: Any) -> Any:
        hub = hub_that_waits()
        if hub is None:
            return _native[name](*args, **kwargs)
        fds = [args[at] for at in range(min(descriptors, len(args))) if _is_open(args[at])]
        return call_file(hub, lambda: _native[name](*args, **kwargs), fds=fds)

    return call


_REPLACEMENTS: dict[str, Callable[..., Any]] = {
    "read": _read,
    "readv": _readv,
    "pread": _pread,
    "preadv": _preadv,
    "write": _write,
    "writev": _writev,
    "pwrite": _pwrite,
    "pwritev": _pwritev,
    "fsync": _fsync,
    "fdatasync": _fdatasync,
    "sendfile": _sendfile,
    "close": _close,
    "sync": _on_thread("sync"),
    "ftruncate": _on_thread("ftruncate", 1),
    "truncate": _on_thread("truncate", 1),  # or a path
    "posix_fallocate": _on_thread("posix_fallocate", 1),
    "copy_file_range": _on_thread("copy_file_range", 2),
}


def _whole(name: str, replacement: Callable[..., Any]) -> Callable[..., Any]:
    """*replacement*, after which an interrupted main program is at an end; the original refuses what it cannot take."""
    call = or_refuse(replacement, _native[name])
    if name == "close":
        return call

    def whole(*args: Any, **kwargs: Any) -> Any:
        hub = current_hub()
        if hub is None:
            return call(*args, **kwargs)
        before = hub.root.pending
        result = call(*args, **kwargs)
        raise_interrupt(hub, before)
        return result

    return whole


def patch() -> None:
    for name, replacement in _REPLACEMENTS.items():
        if hasattr(os, name):
            _native[name] = getattr(os, name)
            patched = Builtin("os", _native[name], _whole(name, replacement))
            setattr(os, name, patched)
            if _native[name] in os.supports_fd:
                os.supports_fd.add(patched)


def patch_fork() -> None:
    for name in ("fork", "forkpty"):
        if hasattr(os, name):
            setattr(os, name, guarded(getattr(os, name)))
