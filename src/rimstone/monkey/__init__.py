"""Makes the standard library's blocking calls cooperative. One file per patched module.

Patched are leaves only: threads stay threads. Every replacement is *dual*: in a thread whose hub runs tasks it lets
the other tasks run, in any other thread it does what the standard one does. Sockets and TLS are patched in place, on
their classes, so it does not matter who imported them before; `threading.Lock` and its kin are replaced in their
module, so locks that exist before patching stay native: patch first.
"""

from collections.abc import Callable

from rimstone.monkey import _dns, _files, _import_locks, _os, _selectors, _socket, _threading, _time
from rimstone.monkey._on_import import when_imported

__all__ = ["is_patched", "patch_all"]

_done: list[str] = []  # what has been patched, in order; patching is for the whole process and for good


def patch_all(*, files: bool = True) -> None:
    """Patch sleep, files and pipes, sockets, DNS, TLS, selectors, locks, joins, imports, fork, thread-local storage.

    Once, and for good. Call it first thing in a program. rimstone's own pools do it in their worker processes, never in
    yours.

    Args:
        files: Also `open`, `os.read`, `os.write` and their kin. False leaves them as they are: a task that waits for a
            disk or a pipe then holds its thread, and nothing that only computes and logs ever switches.
    """
    _patch("fork", _os.patch_fork)
    if files:
        _patch("os", _os.patch)
        _patch("io", _files.patch)
        _patch("tempfile", lambda: when_imported("tempfile", _patch_tempfile))
    _patch("time", _time.patch)
    _patch("threading", _threading.patch)
    _patch("import", _import_locks.patch)
    _patch("socket", _socket.patch)
    _patch("dns", _dns.patch)
    _patch("selectors", _selectors.patch)
    _patch("ssl", lambda: when_imported("ssl", _patch_ssl))
    _patch("asyncio", lambda: when_imported("asyncio.base_events", _patch_asyncio))


def _patch_tempfile() -> None:
    import tempfile

    from rimstone.sync import Lock

    # Held while it writes a file, to see whether the folder will do. Nobody asks it to be native.
    tempfile._once_lock = Lock()  # type: ignore[attr-defined]


def _patch_ssl() -> None:
    from rimstone.monkey import _ssl as tls

    tls.patch()


def _patch_asyncio() -> None:
    from rimstone import aio

    aio.patch()


def is_patched(name: str = "socket") -> bool:
    """True when that part of this process is patched: fork, time, threading, socket, dns, ssl, os, io, ..."""
    return name in _done


def _patch(name: str, patch: Callable[[], None]) -> None:
    if name not in _done:
        patch()
        _done.append(name)
