"""ProcessesService: worker processes that accept from one listener, and their supervisor. Read `service.py` first.

The listener is made here and inherited by every worker. So none of its connections is lost when a worker dies, and a
worker that is full or busy leaves them to the others: whoever accepts takes the next one. See docs/adr/0009.

One thread, the supervisor, starts the workers, talks to them and notices their death, as a pool's dispatcher does; also
because the kernel kills a worker when the *thread* that started it ends.

A worker's life: it is started, says that it is ready, is called "start" (`worker.py`), serves, is called "stop",
answers when its handlers have ended, and is asked to exit. One that dies is replaced: at once if it has served a while,
else after a pause that doubles each time. So is one that serves no more, although nobody wanted that: the call "wait"
comes back then. If the reason is the listener itself, which all of them share, the server ends. Before the first time
that all serve, a worker that fails is the failure of `start`.
"""

import errno
import fcntl
import itertools
import logging
import mmap
import os
import select
import signal
import sys
from dataclasses import dataclass, replace
from typing import Any

from rimstone import clock
from rimstone._originals import Thread, os_ftruncate
from rimstone.errors import CannotTravel, WorkerStartFailed
from rimstone.iomodel import IOModel
from rimstone.iomodel._wakeup import Wakeup
from rimstone.iomodel.base import NEVER
from rimstone.server._latch import Latch
from rimstone.server.address import Listener
from rimstone.server.service import END_SECONDS, GONE, Cells, Handler, handler_name, say, shares
from rimstone.server.worker import WorkerService
from rimstone.workers.code import CodeBook, EncodedFunction
from rimstone.workers.pickling import dump_arguments, load_error
from rimstone.workers.placement import FunctionKind
from rimstone.workers.process import ProcessWorker, WorkerState
from rimstone.workers.setup import Setup, main_script
from rimstone.workers.wire import ChannelClosed, Kind

__all__ = ["ProcessesService"]

_SLOTS = 16
_CELL_BYTES = 8
_SOUND_SECONDS = 5.0  # a worker that has served so long died of something that need not come again at once
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 30.0
_STARTS_ALLOWED_TO_FAIL = 3
_SECONDS_TO_EXIT = 2.0  # after its handlers have ended, for atexit functions in the worker
_SECONDS_TO_DIE = 1.0  # from the end of its wire, which comes first, to the end of the process

_Call = tuple[str, tuple[Any, ...]]


@dataclass(slots=True, eq=False)
class _Seat:
    """The place of one worker process, and who has it.

    Attributes:
        number: From 0; says which cells belong to it.
        worker: None while there is none.
        serving_since: On `clock.monotonic`; None before it serves.
        again_at: When to start the next one, if there is none.
        failures: Workers in a row that died young.
        told: The deadline of the stop that it has been told of.
        kill_at: When to end it by force.
    """

    number: int
    worker: ProcessWorker | None = None
    serving_since: float | None = None
    again_at: float = 0.0
    failures: int = 0
    told: float | None = None
    kill_at: float = NEVER


class ProcessesService:
    """Serves in worker processes. The arguments are those of `StreamServer`.

    Attributes:
        cells: How many connections each hub has; the processes' shared memory.
    """

    def __init__(
        self,
        listener: Listener,
        handler: Handler,
        most: int | None,
        *,
        processes: int,
        threads: int,
        model: type[IOModel] | str | None,
    ) -> None:
        if not hasattr(select, "epoll"):
            raise WorkerStartFailed("worker processes need Linux (epoll); here serve with processes=1")
        self.done = Latch()
        self.error: BaseException | None = None
        self.cells: Cells = [0] * (processes * threads)
        self._name = listener.name
        self._threads = threads
        self._shares: list[int] | list[None] = [None] * processes if most is None else shares(most, processes)
        self._seats = [_Seat(number) for number in range(processes)]
        self._numbers = itertools.count(1)
        self._deadline: float | None = None  # of the stop; None: nobody wants one
        self._up = Latch()
        self._listener_fd = self._cells_fd = -1
        self._poller = select.epoll()
        self._wakeup = Wakeup()
        try:
            self._poller.register(self._wakeup.fd, select.EPOLLIN)
            # Numbers that no worker uses for its standard streams.
            self._listener_fd = fcntl.fcntl(listener.sock.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
            memory_file = os.memfd_create("rimstone-connections", os.MFD_CLOEXEC)
            try:
                self._cells_fd = fcntl.fcntl(memory_file, fcntl.F_DUPFD_CLOEXEC, 3)
            finally:
                os.close(memory_file)
            os_ftruncate(self._cells_fd, _CELL_BYTES * len(self.cells))
            self.cells = memoryview(mmap.mmap(self._cells_fd, 0)).cast("q")
            service = WorkerService(handler, self._listener_fd, self._cells_fd, threads, model)
            self._function = _encode(service, handler)
        except BaseException:
            self._close()
            raise
        self._setup = Setup(
            name="rimstone-server",
            parent_pid=os.getpid(),
            path=[],
            argv=[],
            script=main_script(),
            patch=True,
            threads=1,
            coroutines=_SLOTS,
            initializer=None,
        )
        self._thread = Thread(target=self._supervise, name="rimstone-server-supervisor", daemon=True)

    def start(self) -> None:
        try:
            self._thread.start()
        except BaseException:
            self._close()
            raise
        try:
            self._up.wait()
        except BaseException:
            self.stop_soon(0.0)
            raise
        if self.error is not None:
            self.done.wait()
            raise self.error

    def stop_soon(self, deadline: float) -> None:
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)
        self._wakeup.set()

    def runs_current_task(self) -> bool:
        return False  # its handlers live elsewhere

    def end_interrupted(self) -> None:
        """Nothing: its handlers are never in the main thread, where signal handlers run."""

    def pids(self) -> list[int]:
        return [worker.pid for seat in self._seats if (worker := seat.worker) is not None]

    # -- the supervisor ----------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        try:
            while True:
                if self._deadline is not None:
                    self._close_listener()
                    for seat in self._seats:
                        self._stop_worker(seat, self._deadline)
                    if all(seat.worker is None for seat in self._seats):
                        break
                else:
                    self._start_missing()
                self._wait()
        except BaseException as error:  # a defect of ours: nobody may be left waiting for it
            self.error = self.error or error
            say(logging.CRITICAL, "%s: the server's supervisor failed, so the server ends", self._name, exc_info=error)
        finally:
            for seat in self._seats:
                if seat.worker is not None:
                    seat.worker.kill()
                    seat.worker.wait()
                    seat.worker.close()
                    seat.worker = None
            self._close()
            self._up.set()

    def _close(self) -> None:
        self._poller.close()
        self._wakeup.close()
        self._close_listener()
        if self._cells_fd >= 0:
            os.close(self._cells_fd)
            self._cells_fd = -1
        self.cells = [0] * len(self.cells)  # gives the memory back, with the descriptor that Python keeps of it
        self.done.set()

    def _close_listener(self) -> None:
        if self._listener_fd >= 0:
            os.close(self._listener_fd)
            self._listener_fd = -1

    def _fail(self, error: BaseException) -> None:
        """It cannot start: end what there is, and let `start` raise *error*."""
        self.error = self.error or error
        self.stop_soon(0.0)

    def _wait(self) -> None:
        times = [seat.again_at for seat in self._seats if seat.worker is None and self._deadline is None]
        times += [seat.kill_at for seat in self._seats if seat.worker is not None]
        first = min(times, default=NEVER)
        events = self._poller.poll(None if first == NEVER else max(0.0, first - clock.monotonic()))
        for fd, mask in events:
            if fd == self._wakeup.fd:
                self._wakeup.clear()
                continue
            for seat in self._seats:
                if seat.worker is not None and fd in {seat.worker.channel.fd, seat.worker.pidfd}:
                    self._attend(seat, seat.worker, mask)
                    break
        now = clock.monotonic()
        for seat in self._seats:
            if seat.worker is not None and seat.kill_at <= now:
                seat.kill_at = NEVER
                seat.worker.kill()

    def _attend(self, seat: _Seat, worker: ProcessWorker, mask: int) -> None:
        if mask & select.EPOLLOUT:
            worker.flush()
            self._kill_if_deaf(worker)
        try:
            while (message := worker.channel.receive(block=False)) is not None:
                self._handle(seat, worker, *message)
        except ChannelClosed:
            _wait_for_end(worker)  # it is dying; let it, so that the log says of what
            if not worker.has_ended():
                if self._deadline is None:
                    say(
                        logging.ERROR,
                        "%s: worker process %d has closed its wire, so it is killed",
                        *(self._name, worker.pid),
                    )
                worker.kill()
                worker.wait()
        if worker.has_ended():
            self._bury(seat, worker)
        else:
            self._watch_writable(worker)

    def _watch_writable(self, worker: ProcessWorker) -> None:
        self._poller.modify(worker.channel.fd, select.EPOLLIN | (select.EPOLLOUT if worker.has_unsent else 0))

    # -- workers -----------------------------------------------------------------------------------------------

    def _start_missing(self) -> None:
        for seat in self._seats:
            if seat.worker is None and seat.again_at <= clock.monotonic():
                setup = replace(
                    self._setup,
                    name=f"rimstone-server-{next(self._numbers)}",
                    path=list(sys.path),
                    argv=list(getattr(sys, "argv", [""])),
                )
                try:
                    worker = ProcessWorker(setup, _SLOTS, inherited=(self._listener_fd, self._cells_fd))
                except OSError as error:
                    self._start_later(seat, f"no worker process could be started: {error}", error)
                    continue
                seat.worker = worker
                self._poller.register(worker.channel.fd, select.EPOLLIN)
                if worker.pidfd >= 0:
                    self._poller.register(worker.pidfd, select.EPOLLIN)
                self._watch_writable(worker)

    def _start_later(self, seat: _Seat, what: str, cause: BaseException | None = None) -> None:
        """The seat is empty because a worker died young, or could not be made."""
        seat.failures += 1
        if not self._up.is_set:
            if seat.failures >= _STARTS_ALLOWED_TO_FAIL:
                error = WorkerStartFailed(f"{what}; it was tried {seat.failures} times")
                error.__cause__ = cause
                self._fail(error)
                return
            say(logging.WARNING, "%s: %s", self._name, what)
        pause = min(_FIRST_PAUSE_SECONDS * 2.0 ** (seat.failures - 1), _LONGEST_PAUSE_SECONDS)
        seat.again_at = clock.monotonic() + pause
        if self._up.is_set:
            say(logging.ERROR, "%s: %s; the next one is started in %g s", self._name, what, pause)

    def _handle(self, seat: _Seat, worker: ProcessWorker, kind: Kind, content: Any) -> None:
        if kind is Kind.READY:
            worker.state = WorkerState.READY
            worker.was_ready = True
            self._call(worker, ("start", (seat.number * self._threads, self._shares[seat.number])), first=True)
        elif kind is Kind.REPORT:
            _, results, returned, _ = content
            for slot in returned:  # its main thread was busy for a moment
                self._call(worker, worker.release(slot))
            for slot, fine, answer in results:
                self._answered(seat, worker, worker.release(slot), None if fine else load_error(answer))

    def _call(self, worker: ProcessWorker, call: _Call, *, first: bool = False) -> None:
        wish, args = call
        slot = worker.assign(call)
        functions = [(self._function.id, self._function.blob)] if first else []
        arguments = dump_arguments(self._function.name, (wish, *args), {})
        worker.send(Kind.CALLS, (functions, [], [(slot, self._function.id, FunctionKind.WAITING, arguments)]))
        self._kill_if_deaf(worker)

    def _kill_if_deaf(self, worker: ProcessWorker) -> None:
        """A call that can never be sent (no memory for it) leaves a worker that will not do as it should."""
        for _, error in worker.take_unsendable():
            say(logging.ERROR, "%s: worker process %d cannot be told what to do: %s", self._name, worker.pid, error)
            worker.kill()

    def _answered(self, seat: _Seat, worker: ProcessWorker, call: _Call, error: BaseException | None) -> None:
        if error is None and call[0] == "start":
            seat.serving_since = clock.monotonic()
            if all(other.serving_since is not None for other in self._seats):
                self._up.set()
            self._call(worker, ("wait", ()))
        elif call[0] == "wait":
            if self._deadline is None:
                self._serves_no_more(seat, worker, error)
        elif error is None:
            worker.stop()
            seat.kill_at = min(seat.kill_at, clock.monotonic() + _SECONDS_TO_EXIT)
        elif not self._up.is_set:
            self._fail(error)
        else:
            say(logging.ERROR, "%s: worker process %d could not %s", self._name, worker.pid, call[0], exc_info=error)
            worker.kill()

    def _serves_no_more(self, seat: _Seat, worker: ProcessWorker, error: BaseException | None) -> None:
        # Closed in one worker (EBADF) it is that one's trouble: the next one inherits it whole.
        if isinstance(error, OSError) and error.errno in GONE - {errno.EBADF}:
            self.error = self.error or error
            self._up.set()
            self.stop_soon(NEVER)
            return
        say(logging.ERROR, "%s: worker process %d serves no more", self._name, worker.pid, exc_info=error)
        worker.stop()
        seat.kill_at = min(seat.kill_at, clock.monotonic() + _SECONDS_TO_EXIT)

    def _stop_worker(self, seat: _Seat, deadline: float) -> None:
        """See to it that the worker stops by *deadline*; said again only if that has become earlier."""
        worker = seat.worker
        if worker is None or (seat.told is not None and seat.told <= deadline):
            return
        seat.told = deadline
        seat.kill_at = min(seat.kill_at, deadline + END_SECONDS + _SECONDS_TO_EXIT)
        if seat.serving_since is None:
            worker.kill()  # it has never had a connection, or only just
        elif worker.state is WorkerState.READY:
            seconds = None if deadline == NEVER else max(0.0, deadline - clock.monotonic())
            self._call(worker, ("stop", (seconds,)))
            self._watch_writable(worker)

    def _bury(self, seat: _Seat, worker: ProcessWorker) -> None:
        """The worker is gone: take its connections off the books, and say so if nobody wanted that."""
        self._poller.unregister(worker.channel.fd)
        if worker.pidfd >= 0:
            self._poller.unregister(worker.pidfd)
        worker.close()
        seat.worker = None
        served = 0.0 if seat.serving_since is None else clock.monotonic() - seat.serving_since
        seat.serving_since = None
        mine = range(seat.number * self._threads, (seat.number + 1) * self._threads)
        lost = sum(self.cells[number] for number in mine)
        for number in mine:
            self.cells[number] = 0
        if self._deadline is not None:
            return
        what = f"worker process {worker.pid} {_how(worker)}, and {lost} connections with it"
        if served >= _SOUND_SECONDS:
            seat.failures = 0
            say(logging.ERROR, "%s: %s; a new one is started", self._name, what)
        else:
            self._start_later(seat, what)


def _encode(service: WorkerService, handler: Handler) -> EncodedFunction:
    try:
        return CodeBook().encode(service)
    except CannotTravel:
        name = handler_name(handler)
        try:
            CodeBook().encode(handler)  # alone: the message is about what the user knows
        except CannotTravel as error:
            if _mentions_server(error):
                why = "it mentions a StreamServer, perhaps its own, which lives in this process only"
                do = "Let this process do what it wants of the server"
            else:
                why = str(error).partition("to a worker process: ")[2].partition("; open it")[0] or str(error)
                do = "Let it open what it needs itself"
            raise CannotTravel(
                f"the handler {name}() cannot be sent to worker processes: {why}. {do}, or serve with processes=1"
            ) from error.__cause__
        raise


def _mentions_server(error: BaseException) -> bool:
    return "rimstone.server.stream.StreamServer" in str(error)


def _wait_for_end(worker: ProcessWorker) -> None:
    if worker.pidfd >= 0:
        ended = select.poll()
        ended.register(worker.pidfd, select.POLLIN)
        ended.poll(_SECONDS_TO_DIE * 1000)


def _how(worker: ProcessWorker) -> str:
    if worker.exit_signal is None:
        return f"ended with exit code {worker.exit_code}"
    try:
        return f"was killed by {signal.Signals(worker.exit_signal).name}"
    except ValueError:
        return f"was killed by signal {worker.exit_signal}"
