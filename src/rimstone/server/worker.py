"""WorkerService: a worker process of a server from the inside. `processes.py` is the outside; read it first.

It travels to the worker as the functions of a pool do, once; the worker keeps the one object, and each message of the
supervisor is a call of it. The hubs that serve have threads of their own, so that the worker's main thread, where the
calls run, hears of a stop also while handlers compute.
"""

import mmap
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

from rimstone import clock
from rimstone.iomodel import IOModel
from rimstone.server.address import Listener
from rimstone.server.here import service_here
from rimstone.server.service import Handler, Service

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["WorkerService"]


class WorkerService:
    """What a server's worker process is asked to do.

    Args:
        handler: Called with each connection.
        listener_fd: The listener, inherited.
        cells_fd: Where the numbers of connections are published, inherited.
        threads: How many hubs.
        model: Of the hubs, or "blocking", or None.
    """

    def __init__(
        self, handler: Handler, listener_fd: int, cells_fd: int, threads: int, model: type[IOModel] | str | None
    ) -> None:
        self._handler = handler
        self._listener_fd = listener_fd
        self._cells_fd = cells_fd
        self._threads = threads
        self._model = model
        self._service: Service | None = None

    def __call__(self, wish: str, *args: Any) -> None:
        """Do what the supervisor wants: "start", "wait" or "stop", see below."""
        wishes: dict[str, Callable[..., None]] = {"start": self._start, "wait": self._wait, "stop": self._stop}
        wishes[wish](*args)

    def _start(self, first_cell: int, most: int | None) -> None:
        """Return when connections are accepted."""
        # systemd and `kill -- -PGID` send it to the whole group. The supervisor says "stop", and how.
        signal.signal(signal.SIGTERM, lambda *_: None)
        for fd in (self._listener_fd, self._cells_fd):
            os.set_inheritable(fd, False)  # programs that a handler starts must not keep the port
        cells = memoryview(mmap.mmap(self._cells_fd, 0)).cast("q")
        os.close(self._cells_fd)
        listener = Listener(socket.socket(fileno=self._listener_fd))
        self._service = service_here(
            *(listener, self._handler, most, cells, first_cell),
            threads=self._threads,
            model=self._model,
            own_threads=True,
        )
        self._service.start()
        listener.close()  # those who accept have duplicates

    def _wait(self) -> None:
        """Return when it serves no more, and raise the reason if it was not told to stop."""
        if self._service is not None:
            self._service.done.wait()
            if self._service.error is not None:
                raise self._service.error

    def _stop(self, seconds: float | None) -> None:
        """Return when it has stopped; *seconds* as for `StreamServer.stop`."""
        if self._service is not None:
            self._service.stop_soon(float("inf") if seconds is None else clock.monotonic() + seconds)
            self._service.done.wait()
