"""StreamServer: accepts connections and calls a plain, blocking function with each. Read `service.py` for how.

States: CREATED -> SERVING -> STOPPING -> CLOSED. It binds when it starts, and starts once.
"""

import atexit
import functools
import inspect
import logging
import math
import os
import socket
from numbers import Real
from types import TracebackType
from typing import Any, Self

from rimstone import clock
from rimstone.errors import IOModelUnavailable
from rimstone.hub import current_hub, watchdog
from rimstone.iomodel import IOModel, choose, nonblocking
from rimstone.iomodel.base import NEVER
from rimstone.iomodel.nonblocking import NonblockingModel
from rimstone.server._latch import Latch
from rimstone.server.address import Address, Listener, listen
from rimstone.server.here import BLOCKING, service_here
from rimstone.server.processes import ProcessesService
from rimstone.server.service import END_SECONDS, Handler, Service, say

__all__ = ["STOP_SECONDS", "StreamServer", "checked_timeout"]

STOP_SECONDS = 10.0
_MOST_BACKLOG = 2**31 - 1  # a C int; the kernel takes less (net.core.somaxconn)
_LOOK_SECONDS = 1.0  # a second stop may have less patience than the first
_MARGIN_SECONDS = 3.0  # what a stop may take beyond its steps, on a busy machine, before we say that it hangs


class StreamServer:
    """Serves TCP or Unix connections with a plain, blocking function.

        def talk(sock, peer):
            while data := sock.recv(1024):
                sock.sendall(data.upper())

        with StreamServer(("127.0.0.1", 8000), talk) as server:
            server.serve_forever()

    At the end of such a block `stop` gives the handlers 10 seconds to finish, idle ones too; after an exception none.

    A connection is closed when its handler ends. What a handler raises is logged ("rimstone.server") with the address
    of the peer, and ends nothing but its connection.

    With one process and one thread the handlers are tasks of the calling thread's hub: they run when that thread waits,
    and what they share needs no lock between two waits. More threads have hubs of their own. More processes are worker
    processes, each replaced when it dies; the handler is sent to them as a pool sends functions.

    Worker processes are patched, so whatever a handler does may wait. The calling process is not, unless you call
    `rimstone.monkey.patch_all`: there a handler's socket, and files made of it, let other tasks run, and everything
    else that blocks, blocks the thread. `rimstone.sleep` is the sleep for such handlers.

    Args:
        address: (host, port), "host:port", a path, "unix:PATH" or a bound socket, which belongs to the server from the
            start on; see `rimstone.server.address.listen`.
        handler: Called with (socket, address of the peer).
        io_model: Name or class of the IO model its hubs wait with, see `rimstone.iomodel.available`, or "blocking": a
            thread for each connection. None: the hub's own, or the best. If the calling thread's hub has another
            one, the server gets a thread of its own.
        processes: How many processes; 1 is this one.
        threads: How many threads in each, with a hub each.
        backlog: How many connections the kernel keeps while none is accepted.
        max_connections: Most connections at once, in all processes and threads together, which share it evenly; the
            rest waits in the backlog, which is logged, at most once a minute. None: half of what RLIMIT_NOFILE leaves
            each process.
    Raises:
        TypeError, ValueError: an argument is none; the message says what is allowed.
        IOModelUnavailable: there is no such IO model here.
    """

    def __init__(
        self,
        address: Address,
        handler: Handler,
        *,
        io_model: str | type[IOModel] | None = None,
        processes: int = 1,
        threads: int = 1,
        backlog: int = socket.SOMAXCONN,
        max_connections: int | None = None,
    ) -> None:
        self._service: Service | None = None
        self._listener: Listener | None = None
        self._given = address
        self._handler = _checked_handler(handler)
        self._model = _checked_model(io_model)
        self._processes = _checked_count("processes", processes)
        self._threads = _checked_count("threads", threads)
        self._backlog = _checked_count("backlog", backlog, least=0, most=_MOST_BACKLOG)
        self._most = None if max_connections is None else _checked_count("max_connections", max_connections)
        self._pid = os.getpid()  # of the process that has started it
        self._is_closed = False
        self._gave_up = False  # a stop has: who waits for the end by the way waits no more
        self._stopping = Latch()
        self._latest = NEVER  # when `serve_forever` gives up waiting for the end
        self._check_environment()
        if self._model == BLOCKING and threads != 1:
            raise ValueError(
                f"threads={threads} has no meaning with io_model='blocking', where each connection has a thread; "
                "max_connections bounds them"
            )
        if self._most is not None and self._most < processes * threads:
            raise ValueError(
                f"max_connections={self._most} is less than one for each of {processes} processes x {threads} threads; "
                "raise it, or serve with fewer"
            )

    def _check_environment(self) -> None:
        """A wrong variable is told here, rather than by each hub of each process."""
        models = {self._model} - {BLOCKING, None}
        if self._processes > 1 or (self._model is None and self._threads > 1):  # a worker's main thread has a hub, too
            models.add(choose())
        if self._model != BLOCKING or self._processes > 1:
            watchdog.read_environment()
        if any(isinstance(model, type) and issubclass(model, NonblockingModel) for model in models):
            nonblocking.read_environment()

    # -- what it is --------------------------------------------------------------------------------------------

    @property
    def address(self) -> Any:
        """Where it listens, as `getsockname` says it: with the real port. Before the start, what was given."""
        return self._given if self._listener is None else self._listener.address

    @property
    def name(self) -> str:
        """The same for messages: "127.0.0.1:8000", "[::1]:8000", a path."""
        return str(self._given) if self._listener is None else self._listener.name

    @property
    def connections(self) -> int:
        """How many connections are open now, in all processes."""
        return 0 if self._service is None else sum(self._service.cells)

    @property
    def state(self) -> str:
        """One of created, serving, stopping, closed."""
        if self._is_closed or (self._service is not None and self._service.done.is_set):
            return "closed"
        if self._listener is None:
            return "created"
        return "stopping" if self._listener.is_closed else "serving"

    def pids(self) -> list[int]:
        """The process ids of its worker processes; none if it serves in this process."""
        return [] if self._service is None else self._service.pids()

    def __repr__(self) -> str:
        return f"<StreamServer {self.name} {self.state}, {self.connections} connections>"

    # -- life --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen, and return when connections are accepted (in the hub of this thread: as soon as the thread waits).

        If that fails, it may be tried again; a socket that was given stays open.

        Raises:
            OSError: the address cannot be had; the message says why and what to do.
            CannotTravel: the handler cannot be sent to worker processes.
            WorkerStartFailed: they do not come up.
            RuntimeError: it was started before.
        """
        self._refuse_in_fork()
        if self.state != "created":
            raise RuntimeError(f"{self!r} was started before; a server is used once: make a new one")
        self._pid = os.getpid()
        listener = self._listener = listen(self._given, self._backlog)
        try:
            self._service = self._make_service(listener)
            self._service.start()
        except BaseException:
            if listener.sock is not self._given:
                listener.close()
            self._listener = self._service = None  # it can be tried again
            raise
        atexit.register(self._at_exit)
        self._service.done.call(self._ended)
        if self._is_closed:  # a signal handler has called `stop` before there was anything to stop
            self.stop(0)

    def serve_forever(self) -> None:
        """Start, if it was not started, and return when it has been stopped, or a stop has given up (see `stop`).

        An exception that ends the wait (Ctrl-C, a kill of this task) stops it at once.

        Raises:
            OSError: the listening socket was closed by somebody else; and what `start` raises.
            RuntimeError: this is a fork of the process where it serves.
        """
        self._refuse_in_fork()
        if self.state == "created":
            self.start()
        service = self._service
        if service is None:
            return
        try:
            self._stopping.wait()
            while not service.done.wait(min(self._latest, clock.monotonic() + _LOOK_SECONDS)):
                if clock.monotonic() >= self._latest:
                    self._give_up_in_vain()
                    break
        except BaseException:
            self._end(0)
            raise
        self._end(0)
        hub = current_hub()
        if hub is not None:
            hub.current.raise_pending()  # Ctrl-C that has ended the service was given to the thread's root task, too
        if service.error is not None:
            raise service.error

    def stop(self, timeout: float | None = STOP_SECONDS, *, wait: bool = True) -> None:
        """Stop in steps: accept no more; let the handlers finish; after *timeout* seconds kill them; close everything.

        A killed handler gets TaskExit where it waits, and its `finally` blocks run. With io_model="blocking" handlers
        are threads, which nobody can kill: their connections are shut down, and `recv` returns b"". Repeated,
        only a shorter *timeout* changes anything; 0 kills at once.

        Call from: any thread, any task (a handler does not wait for its own end), and with wait=False also a signal
        handler.

        Args:
            timeout: In seconds; None waits for the handlers for ever.
            wait: Return when all is done, rather than at once. A handler that keeps its thread busy cannot be killed:
                then it returns some 5 seconds after *timeout*, and says so in the log.
        Raises:
            TypeError, ValueError: *timeout* is no time.
        """
        timeout = checked_timeout("timeout", timeout)
        self._is_closed = self._is_closed or self._service is None
        if self._listener is None or self._service is None or os.getpid() != self._pid:
            return  # not started; or this is a forked child, and nothing of the server is its to end
        service = self._service
        deadline = NEVER if timeout is None else clock.monotonic() + timeout
        latest = deadline + END_SECONDS + _MARGIN_SECONDS
        self._latest = min(self._latest, latest)
        if not service.done.is_set:
            service.stop_soon(deadline)
        self._stopping.set()
        self._listener.close()  # after that: a thread that comes up still wants a duplicate, and must know why it fails
        if not wait or service.runs_current_task() or not _may_wait():
            return
        if not service.done.wait(None if timeout is None else latest):
            self._give_up_in_vain()

    def _give_up_in_vain(self) -> None:
        self._gave_up = True
        say(
            logging.WARNING,
            "%r did not stop in time: a handler keeps its thread busy and cannot be killed meanwhile",
            self,
        )

    def _end_interrupted(self) -> None:
        """In a signal handler: raise TaskExit in the handler of this server that it has interrupted, if it has one."""
        if self._service is not None and os.getpid() == self._pid:
            self._service.end_interrupted()

    def _give_up(self) -> None:
        """Wait no more for the end of handlers: `serve_forever`, `with` and the end of the program go on without it."""
        self._gave_up = True

    def _end(self, timeout: float = 0) -> None:
        """`stop`, but wait for nothing if a stop has waited in vain before, or after `_give_up`."""
        self.stop(timeout, wait=not self._gave_up)

    def __enter__(self) -> Self:
        self._refuse_in_fork()
        if self.state == "created":
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end(STOP_SECONDS if error is None else 0)

    def _at_exit(self) -> None:
        self._end(0)

    def _refuse_in_fork(self) -> None:
        if os.getpid() != self._pid and self.state in {"serving", "stopping"}:
            raise RuntimeError(
                f"{self!r} serves in process {self._pid}, of which this one is a fork; here it accepts nothing. "
                "To serve in forked children make one listening socket (socket.create_server), fork, and give it to a "
                "new StreamServer in each child; or serve with processes=N"
            )

    def _ended(self) -> None:
        """The service has, told to or not: nobody accepts any more. In its thread."""
        atexit.unregister(self._at_exit)
        self._stopping.set()
        if self._listener is not None:
            self._listener.close()

    def _make_service(self, listener: Listener) -> Service:
        if self._processes == 1:
            return service_here(
                *(listener, self._handler, self._most, [0] * self._threads, 0),
                threads=self._threads,
                model=self._model,
            )
        return ProcessesService(
            *(listener, self._handler, self._most),
            processes=self._processes,
            threads=self._threads,
            model=self._model,
        )


def _may_wait() -> bool:
    """False in a signal handler that struck while the scheduler works: nothing can be waited for there."""
    hub = current_hub()
    return hub is None or hub.is_running(hub.current)


def checked_timeout(name: str, given: Any) -> float | None:
    """Raise TypeError or ValueError if *given* is no timeout of a stop."""
    if given is None:
        return None
    what = f"{name}={given!r} must be a number of seconds, 0 or more, or None for no limit"
    if not isinstance(given, Real):
        raise TypeError(what)
    try:
        seconds = float(given)
    except OverflowError:
        seconds = math.nan
    if not seconds >= 0:
        raise ValueError(what)
    return seconds


def _checked_handler(handler: Any) -> Handler:
    if not callable(handler):
        raise TypeError(f"handler={handler!r} cannot be called; give a function of (socket, address of the peer)")
    plain = handler.func if isinstance(handler, functools.partial) else handler
    if inspect.iscoroutinefunction(plain) or inspect.iscoroutinefunction(getattr(plain, "__call__", None)):  # noqa: B004
        raise TypeError(
            f"handler={handler!r} is async; a StreamServer runs plain functions: write it with def and blocking calls"
        )
    try:
        inspect.signature(handler).bind(None, None)
    except ValueError:
        pass  # some functions in C do not tell
    except TypeError as error:
        raise TypeError(f"handler={handler!r} cannot be called with (socket, address of the peer): {error}") from None
    return handler  # type: ignore[no-any-return]


def _checked_model(given: "str | type[IOModel] | None") -> "type[IOModel] | str | None":
    if given is None or given == BLOCKING:
        return given
    try:
        return choose(given)
    except IOModelUnavailable as error:
        raise IOModelUnavailable(f"io_model={error}; a server also has 'blocking'") from None


def _checked_count(name: str, given: Any, least: int = 1, most: int | None = None) -> int:
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(f"{name}={given!r} must be a whole number")
    if given < least:
        raise ValueError(f"{name}={given} must be {least} or more")
    if most is not None and given > most:
        raise ValueError(f"{name}={given} must be {most} or less")
    return given
