"""ThreadsService: several hubs, each in a thread of its own, accept from one listener. Read `tasks.py` first."""

import logging
import threading

from rimstone._originals import Thread
from rimstone.errors import Deadlock
from rimstone.hub import close_hub, current_hub, get_hub
from rimstone.iomodel import IOModel
from rimstone.server._latch import Latch
from rimstone.server.address import Listener
from rimstone.server.service import Cells, Handler, Warnings, say, shares
from rimstone.server.tasks import TaskService

__all__ = ["ThreadsService"]


class ThreadsService:
    """Serves in threads of this process, one hub in each.

    Args:
        listener, handler, cells: As for `TaskService`.
        limit: Most connections at once, all threads together.
        first_cell: Of the first thread; the others follow.
        threads: How many.
        model: The IO model of their hubs; None chooses.
        takes_turns: See `TaskService`; always so if there are several threads.
    """

    def __init__(
        self,
        listener: Listener,
        handler: Handler,
        limit: int,
        cells: Cells,
        first_cell: int,
        *,
        threads: int,
        model: type[IOModel] | None,
        takes_turns: bool,
    ) -> None:
        self.done = Latch()
        self.error: BaseException | None = None
        self._listener = listener
        self._name = listener.name
        self._handler = handler
        self._limits = shares(limit, threads)
        self.cells = cells
        self._first_cell = first_cell
        self._model = model
        self._takes_turns = takes_turns or threads > 1
        self._warnings = Warnings(listener.name)
        self._services: list[TaskService] = []
        self._deadline: float | None = None  # of the stop; None: nobody wants one
        self._up = [Latch() for _ in range(threads)]
        self._left = [None] * threads  # one item for each thread that has not ended; popping one is atomic
        self._threads = [
            Thread(target=self._run, args=(number,), name=f"rimstone-server-{number + 1}", daemon=True)
            for number in range(threads)
        ]

    def start(self) -> None:
        started = []
        try:
            for thread in self._threads:
                thread.start()
                started.append(thread)
            for up in self._up:
                up.wait()
            if self.error is not None:
                raise self.error  # noqa: TRY301 - what follows is for every failure
        except BaseException:
            for _ in range(len(self._threads) - len(started)):
                self._ended()
            self.stop_soon(0.0)
            for thread in started:
                thread.join()
            self.done.set()
            raise

    def stop_soon(self, deadline: float) -> None:
        # A thread that comes up later looks here.
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)
        for service in tuple(self._services):
            service.stop_soon(deadline)

    def runs_current_task(self) -> bool:
        return any(service.runs_current_task() for service in tuple(self._services))

    def end_interrupted(self) -> None:
        """Nothing: its handlers are never in the main thread, where signal handlers run."""

    def pids(self) -> list[int]:
        return []

    def _run(self, number: int) -> None:
        try:
            hub = get_hub(self._model)
            service = TaskService(
                *(hub, self._listener, self._handler, self._limits[number], self.cells, self._first_cell + number),
                takes_turns=self._takes_turns,
                warnings=self._warnings,
            )
            service.start()
            self._services.append(service)
            if self._deadline is not None:
                service.stop_soon(self._deadline)
            self._up[number].set()
            self._wait(service)
            if isinstance(service.error, OSError):
                self.error = self.error or service.error  # it has logged that itself
            elif service.error is not None:
                raise service.error  # noqa: TRY301 - what follows is for every failure
        except BaseException as error:
            is_up = self._up[number].is_set
            is_stopped = not is_up and self._deadline is not None  # that closes the listener
            if not (is_stopped and isinstance(error, OSError)):
                self.error = self.error or error
            if is_up and self._deadline is None:  # else `start` raises it, or the thread ends anyhow
                self._say_dead(error)
            self._up[number].set()
        finally:
            close_hub()  # before anybody is told: then nothing of it is left
            self._ended()

    def _wait(self, service: TaskService) -> None:
        while True:
            try:
                service.done.wait()
            except Deadlock as error:
                service.error = error
                service.stop_soon(0.0)
            except Exception as error:
                # What a function raised that was given to `run_soon`: this thread's root is told, and is not to blame.
                say(logging.ERROR, "an error in %r reached no task", current_hub(), exc_info=error)
            else:
                return

    def _say_dead(self, error: BaseException) -> None:
        """Now: what the others do, and whether `serve_forever` ever raises *error*, may take months."""
        say(
            logging.ERROR,
            "%s: thread %s serves no more; of %d threads %d go on",
            *(self._name, threading.current_thread().name, len(self._threads), len(self._left) - 1),
            exc_info=error,
        )

    def _ended(self) -> None:
        self._left.pop()
        if not self._left:
            self.done.set()
