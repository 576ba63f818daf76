"""BlockingService: a thread for each connection, and plain blocking calls. Read `service.py` first.

The fourth family of IO models, and the oldest: the kernel is the scheduler. One thread accepts; each handler has a
thread of its own, in which no hub runs, so that its socket blocks the thread as the standard library's does.

Nobody can end a thread from outside. When the time of a stop is over, the connections are shut down: a handler that
waits in `recv` sees the end of the stream, one that sends gets BrokenPipeError.
"""

import contextlib
import itertools
import logging
import os
import select
import socket
from typing import Any

from rimstone import clock
from rimstone._originals import RawSocket, Thread, allocate_lock, get_ident
from rimstone.iomodel._wakeup import Wakeup
from rimstone.iomodel.base import NEVER
from rimstone.server._latch import Latch
from rimstone.server.address import Listener, peer_name
from rimstone.server.service import END_SECONDS, GONE, Backoff, Cells, Handler, Warnings, handler_name, report, say

__all__ = ["BlockingService"]

_LONGEST_POLL_MILLISECONDS = 86_400_000


_Identity = tuple[int, int, int]  # a descriptor, and which file that is


def _identity(fd: int) -> _Identity:
    found = os.fstat(fd)
    return fd, found.st_dev, found.st_ino


def _cut(sock: socket.socket, identity: _Identity) -> None:
    """Shut *sock* down, also where `SSLContext.wrap_socket` has moved its descriptor to another object."""
    if sock.fileno() >= 0:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
            return
    with contextlib.suppress(OSError):
        number, *file = identity
        fd = os.dup(number)  # looked at through a duplicate: the number may be given to something else at any moment
        try:
            if [*_identity(fd)[1:]] == file:
                same = RawSocket(fileno=fd)
                try:
                    same.shutdown(socket.SHUT_RDWR)
                finally:
                    same.detach()
        finally:
            os.close(fd)


class BlockingService:
    """Serves with one thread a connection; the arguments are those of `TaskService`."""

    def __init__(self, listener: Listener, handler: Handler, limit: int, cells: Cells, cell: int) -> None:
        self.done = Latch()
        self.error: BaseException | None = None
        self._handler = handler
        self._limit = limit
        self.cells = cells
        self._cell = cell
        self._name = listener.name
        self._warnings = Warnings(listener.name)
        self._backoff = Backoff(self._warnings)
        self._lock = allocate_lock()  # guards the dictionary; never held while anything waits
        self._open: dict[int, tuple[Any, socket.socket, _Identity]] = {}  # number -> thread, socket, what it is
        self._numbers = itertools.count(1)
        self._deadline = NEVER
        self._stopping = False
        self._pid = os.getpid()
        self._thread = Thread(target=self._serve, name="rimstone-server-accept", daemon=True)
        self._wakeup = Wakeup()
        try:
            self._sock = listener.duplicate()
        except BaseException:
            self._wakeup.close()
            raise
        self._sock.setblocking(False)  # others accept from it too, and may be faster

    def start(self) -> None:
        try:
            self._thread.start()
        except BaseException:
            self._close()
            raise

    def stop_soon(self, deadline: float) -> None:
        self._deadline = min(self._deadline, deadline)
        self._stopping = True
        self._wakeup.set()

    def runs_current_task(self) -> bool:
        return any(thread.ident == get_ident() for thread, *_ in tuple(self._open.values()))

    def end_interrupted(self) -> None:
        """Nothing: its handlers are never in the main thread, where signal handlers run."""

    def pids(self) -> list[int]:
        return []

    # -- the accepting thread ----------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            self._accept()
        except OSError as error:
            self.error = error
            say(logging.ERROR, "%s: it cannot accept any more, so the server ends: %s", self._name, error)
        except BaseException as error:  # a defect: `serve_forever` raises it, and Python prints it now
            self.error = error
            self._deadline = 0.0
            raise
        finally:
            self._sock.close()
            self._stop()

    def _accept(self) -> None:
        pause_until = 0.0
        while not self._stopping:
            has_room = len(self._open) < self._limit
            if not has_room:
                self._warnings.say_full(self._limit)
            accepting = has_room and clock.monotonic() >= pause_until
            self._poll(NEVER if accepting or not pause_until else pause_until, accepting)
            if not accepting or self._stopping:
                continue
            try:
                fd, peer = RawSocket._accept(self._sock)  # type: ignore[attr-defined]
            except BlockingIOError:
                continue
            except (OSError, MemoryError) as error:
                if getattr(error, "errno", None) in GONE:
                    raise
                pause_until = clock.monotonic() + self._backoff.after(error)
                continue
            self._backoff.over()
            pause_until = 0.0
            self._begin(fd, peer)

    def _poll(self, deadline: float, accepting: bool) -> None:
        """Wait for a connection (if *accepting*), the end of a handler, `stop_soon`, or *deadline*."""
        poller = select.poll()
        poller.register(self._wakeup.fd, select.POLLIN)
        if accepting:
            poller.register(self._sock.fileno(), select.POLLIN)
        milliseconds = max(0.0, (deadline - clock.monotonic()) * 1000)
        if any(fd == self._wakeup.fd for fd, _ in poller.poll(min(milliseconds, _LONGEST_POLL_MILLISECONDS))):
            self._wakeup.clear()

    def _begin(self, fd: int, peer: Any) -> None:
        try:
            identity = _identity(fd)
            sock = socket.socket(self._sock.family, self._sock.type, self._sock.proto, fileno=fd)
            # On macOS and the BSDs a connection inherits O_NONBLOCK from the listener, and the object does not know.
            sock.settimeout(sock.gettimeout())
        except BaseException:
            os.close(fd)
            raise
        number = next(self._numbers)
        thread = Thread(
            target=self._run, args=(number, sock, peer), name=f"rimstone-server-connection-{number}", daemon=True
        )
        with self._lock:
            self._open[number] = (thread, sock, identity)
        self.cells[self._cell] = len(self._open)
        while not self._stopping:
            try:
                thread.start()
            except RuntimeError as error:  # no thread to be had; the connection waits for one
                self._poll(clock.monotonic() + self._backoff.after(error), False)
            else:
                return
        self._end(number, sock)

    def _run(self, number: int, sock: socket.socket, peer: Any) -> None:
        """Body of a connection's thread."""
        try:
            self._handler(sock, peer)
        except BaseException as error:
            if os.getpid() != self._pid:
                raise  # the handler has forked, and this is the child, which ends with it
            report(self._handler, peer_name(sock.family, peer), error)
        finally:
            self._end(number, sock)

    def _end(self, number: int, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.close()
        if os.getpid() != self._pid:
            return  # a child that the handler has forked: the count, shared memory, and the wake-up are the parent's
        with self._lock:
            self._open.pop(number, None)
        self.cells[self._cell] = len(self._open)
        self._wakeup.set()

    # -- stopping ----------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        while self._open and clock.monotonic() < self._deadline:
            self._poll(self._deadline, False)
        for _, sock, identity in tuple(self._open.values()):
            _cut(sock, identity)
        deadline = clock.monotonic() + END_SECONDS
        while self._open and clock.monotonic() < deadline:
            self._poll(deadline, False)
        if self._open:
            say(
                logging.WARNING,
                "%s: %d handlers (%s) did not end within %g s after their connections were shut down; they go on",
                *(self._name, len(self._open), handler_name(self._handler), END_SECONDS),
            )
        self._close()

    def _close(self) -> None:
        self._sock.close()
        self._wakeup.close()
        self.done.set()
