"""TaskService: accepts in one hub, and runs each handler as a task of it. Read `service.py` first.

Two kinds of tasks: one accepts and, when it is told to stop, takes the steps of the stop; each handler has one. All of
them belong to the hub's thread; other threads only leave word with `Hub.run_soon`.

An accept that waits has not taken anything, so killing it loses no connection; and one that fails for want of
descriptors leaves the connection in the kernel.
"""

import contextlib
import logging
import os
import socket
from threading import main_thread
from typing import Any

from greenlet import GreenletExit

from rimstone import clock
from rimstone._originals import get_ident
from rimstone.errors import TaskExit
from rimstone.hub import Hub, Task, Waiter, current_hub, current_task, spawn, waiter
from rimstone.iomodel.base import NEVER
from rimstone.monkey.cooperative import socket_class
from rimstone.server._latch import Latch
from rimstone.server.address import Listener, peer_name
from rimstone.server.service import END_SECONDS, GONE, Backoff, Cells, Handler, Warnings, handler_name, report, say

__all__ = ["TaskService"]


class TaskService:
    """Serves in the hub of the thread that starts it.

    Args:
        hub: That hub.
        listener: Where to accept; a duplicate is taken.
        handler: Called with each connection.
        limit: Most connections at once.
        cells: Where the number of connections is published, at *cell*.
        takes_turns: Other hubs accept from the same listener: take one connection, then let other tasks run, so that a
            burst does not all go to whoever woke first.
        warnings: Shared with those hubs of this process.
    """

    def __init__(
        self,
        hub: Hub,
        listener: Listener,
        handler: Handler,
        limit: int,
        cells: Cells,
        cell: int,
        *,
        takes_turns: bool = False,
        warnings: Warnings | None = None,
    ) -> None:
        self.done = Latch()
        self.error: BaseException | None = None
        self._hub = hub
        self._class = socket_class()
        self._handler = handler
        self._limit = limit
        self.cells = cells
        self._cell = cell
        self._takes_turns = takes_turns
        self._name = listener.name
        self._warnings = warnings or Warnings(listener.name)
        self._backoff = Backoff(self._warnings)
        self._open: dict[Any, socket.socket] = {}  # handler's task -> its connection
        self._killed: set[Any] = set()  # handlers' tasks; each is killed once
        self._news: Waiter | None = None  # of whoever waits for the end of a handler
        self._accepting: Task[None] | None = None
        self._is_stopping = False
        self._deadline = NEVER
        self._sock = listener.duplicate(self._class)

    def start(self) -> None:
        self._accepting = spawn(self._accept)
        self._accepting.name = f"accept on {self._name}"
        self._accepting.link(lambda _: self._close())  # where it never began, or the hub ended before it did

    def stop_soon(self, deadline: float) -> None:
        self._deadline = min(self._deadline, deadline)
        if self._hub.closed:  # its thread has ended, and all tasks with it
            self._close()
        else:
            self._hub.run_soon(self._begin_stop)

    def runs_current_task(self) -> bool:
        return current_hub() is self._hub and current_task() in self._open

    def end_interrupted(self) -> None:
        if self.runs_current_task():
            task = current_task()
            if task not in self._killed and self._hub.is_running(task):
                self._killed.add(task)
                raise TaskExit

    def pids(self) -> list[int]:
        return []

    # -- accepting ---------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            while True:
                if len(self._open) >= self._limit:
                    self._warnings.say_full(self._limit)
                    if len(self._open) >= self._limit:  # a log handler may have waited, and the last of them ended
                        self._wait_for_news(NEVER)
                    continue
                try:
                    fd, peer = self._hub.io.accept(self._sock, None)
                except (OSError, MemoryError) as error:
                    if getattr(error, "errno", None) in GONE:
                        raise
                    pause = self._backoff.after(error)
                    if pause:
                        self._wait_for_news(clock.monotonic() + pause)
                    continue
                self._backoff.over()
                if self._is_stopping:  # the model had taken it before the stop
                    os.close(fd)
                    return
                self._begin(fd, peer)
                if self._takes_turns:
                    self._hub.reschedule()
        except GreenletExit:
            if self._hub.is_closing or not self._is_stopping:
                self._deadline = 0.0
        except OSError as error:
            if not self._is_stopping:
                self.error = error
                say(logging.ERROR, "%s: it cannot accept any more, so the server ends: %s", self._name, error)
        except BaseException as error:  # Ctrl-C, or a defect: who ought to hear of it is told when this task ends
            self.error = error
            self._deadline = 0.0
            raise
        finally:
            self._is_stopping = True
            self._stop()

    def _begin(self, fd: int, peer: Any) -> None:
        try:
            sock = self._class(self._sock.family, self._sock.type, self._sock.proto, fileno=fd)
        except BaseException:
            os.close(fd)
            raise
        task = spawn(self._run, sock, peer)
        task.name = f"connection of {peer_name(sock.family, peer)}"  # for `rimstone.dump`
        self._open[task] = sock
        self.cells[self._cell] = len(self._open)

    def _run(self, sock: socket.socket, peer: Any) -> None:
        """Body of a handler's task."""
        try:
            self._handler(sock, peer)
        except GreenletExit:
            pass
        except BaseException as error:
            if self._hub.forked:
                raise  # the handler has forked, and this is the child, which ends with it
            if isinstance(error, KeyboardInterrupt) and get_ident() == main_thread().ident:
                raise  # Ctrl-C struck here: it is the program's, not the handler's
            report(self._handler, peer_name(sock.family, peer), error)
        finally:
            self._end(current_task(), sock)

    def _end(self, task: Any, sock: socket.socket) -> None:
        # Closed, not shut down: a handler may have given a duplicate to somebody who goes on.
        with contextlib.suppress(OSError):
            sock.close()
        if self._hub.forked:
            return
        self._open.pop(task, None)
        self.cells[self._cell] = len(self._open)
        if self._news is not None:
            self._news.unpark()

    def _wait_for_news(self, deadline: float) -> None:
        """Wait until a handler ends or `stop_soon` has news, at most until *deadline*."""
        news = self._news = waiter()
        try:
            news.park(deadline)
        finally:
            if self._news is news:
                self._news = None

    # -- stopping ----------------------------------------------------------------------------------------------

    def _begin_stop(self) -> None:
        """In the hub's thread, perhaps between two tasks: must not wait. In any thread once the hub is closed."""
        if self._hub.closed:
            self._close()
        elif not self._is_stopping and self._accepting is not None:
            self._is_stopping = True
            self._accepting.kill(block=False)
        elif self._news is not None:
            self._news.unpark()

    def _stop(self) -> None:
        try:
            self._sock.close()
            while self._open and clock.monotonic() < self._deadline:
                self._wait_for_end(self._deadline)
            self._kill_handlers()
        finally:
            self._close()

    def _kill_handlers(self) -> None:
        if not self._hub.is_closing:  # else it has killed them, and a second time would strike their `finally` blocks
            for task in tuple(self._open):
                if task not in self._killed:  # by `end_interrupted`
                    self._killed.add(task)
                    task.kill(block=False)
        deadline = clock.monotonic() + END_SECONDS
        while self._open and clock.monotonic() < deadline:
            for task, sock in tuple(self._open.items()):
                if task.ready():  # killed before it had begun
                    self._end(task, sock)
            if self._open:
                self._wait_for_end(deadline)

    def _wait_for_end(self, deadline: float) -> None:
        try:
            self._wait_for_news(deadline)
        except GreenletExit:
            if self._hub.is_closing:  # else it is the kill of `_begin_stop`, too late to cut the accept short
                self._deadline = 0.0

    def _close(self) -> None:
        """Close everything, whoever uses it still. Again does nothing."""
        with contextlib.suppress(OSError):
            self._sock.close()
        left = tuple(self._open.items())
        try:
            if left:  # a log handler that would wait may raise here, where nobody can
                say(
                    logging.WARNING,
                    "%s: %d handlers (%s) did not end when they should; their connections are closed",
                    *(self._name, len(left), handler_name(self._handler)),
                )
        finally:
            try:
                for task, sock in left:
                    self._end(task, sock)
            finally:
                self.done.set()
