"""The dispatcher: the one thread of a pool that talks to its worker processes. Read `workers/process.py` first.

Everything about calls under way is decided in this thread, which no signal handler can interrupt. `submit` in the
user's thread does one thing: it appends to a deque, which is atomic, and wakes this thread. So Ctrl-C between any two
bytecodes of the user's thread leaves nothing half done.

Which worker gets a call depends on what is known of its function (`workers/placement.py`; the workers find out and
tell). WAITING: the worker with the fewest calls. COMPUTING: one with no computing call, or as many short ones as make
2 ms. BLOCKING: as many as a worker has threads. UNKNOWN: one a worker, until more is known, which is soon: a function
that waits is known at its first wait. And never more than the worker's own limit.

States: CREATED (no process yet) -> RUNNING -> DRAINING (no new calls) -> STOPPING (workers are asked to exit; a ladder
of signals follows) -> CLOSED.
"""

import atexit
import contextlib
import itertools
import os
import select
import sys
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from concurrent.futures._base import PENDING, RUNNING
from dataclasses import dataclass, field, replace
from typing import Any

from rimstone import clock
from rimstone._originals import Thread
from rimstone.errors import CannotTravel, InitializerFailed, PoolClosed, RimstoneError, WorkerDied, WorkerStartFailed
from rimstone.iomodel._wakeup import Wakeup
from rimstone.pools.future import CallbackThread, Condition, Future, shielded
from rimstone.workers.code import EncodedFunction
from rimstone.workers.pickling import load_error, load_result
from rimstone.workers.placement import QUEUED_SECONDS, FunctionKind
from rimstone.workers.process import ProcessWorker, WorkerState
from rimstone.workers.setup import Setup
from rimstone.workers.wire import ChannelClosed, Kind

__all__ = ["Dispatcher", "PoolCall"]

_MESSAGE_BYTES = 48 * 1024  # calls that go into one message; larger ones go by memory file, one at a time
_STARTS_ALLOWED_TO_FAIL = 3
_WORKERS_A_FUNCTION_MAY_END = 3  # while it is being imported or rebuilt
_SECONDS_TO_EXIT = 5.0  # after STOP, for atexit functions in the worker
_SECONDS_TO_TERMINATE = 0.7  # after SIGTERM
_SPARE_SLOTS = 512
_CLOSED = "the pool was shut down, or the interpreter is ending; create a new pool"
_LEFT = "the pool was left before this call was started"


_Calls = tuple[list[tuple[int, bytes]], list[int], list[tuple[int, int, int, bytes]]]


@dataclass(slots=True, eq=False)
class PoolCall:
    """One call as the pool sees it.

    Attributes:
        hint: What `level=` asked for; UNKNOWN when nothing was asked.
        sent_as: The kind under which it was counted when it was sent to a worker.
        claimed: Its future is running: it is with a worker. (One that comes back unstarted is not claimed any more.)
    """

    future: Future[Any]
    function: EncodedFunction
    arguments: bytes
    hint: FunctionKind
    sent_as: FunctionKind = FunctionKind.UNKNOWN
    seconds: float = 0.0
    claimed: bool = False


@dataclass(slots=True, eq=False)
class _Link:
    """A worker and what it has been given, by kind."""

    worker: ProcessWorker
    blocking: int = 0
    computing: int = 0
    computing_seconds: float = 0.0
    unmeasured: int = 0  # computing calls of which it is not known how long they take
    probing: set[int] = field(default_factory=set)  # functions of which a first call is under way here
    kill_ladder: deque[tuple[float, Callable[[], None]]] = field(default_factory=deque)
    wire_watched: bool = True
    writable_wanted: bool = False

    def count(self, call: PoolCall, kind: FunctionKind, seconds: float) -> None:
        call.sent_as = kind
        if kind is FunctionKind.BLOCKING:
            self.blocking += 1
        elif kind is FunctionKind.COMPUTING:
            call.seconds = seconds
            self.computing += 1
            self.unmeasured += not seconds
            self.computing_seconds += seconds
        elif kind is FunctionKind.UNKNOWN:
            self.probing.add(call.function.id)

    def uncount(self, call: PoolCall) -> None:
        kind = call.sent_as
        if kind is FunctionKind.BLOCKING:
            self.blocking -= 1
        elif kind is FunctionKind.COMPUTING:
            self.computing -= 1
            self.unmeasured -= not call.seconds
            self.computing_seconds = self.computing_seconds - call.seconds if self.computing else 0.0
        elif kind is FunctionKind.UNKNOWN:
            self.probing.discard(call.function.id)


class Dispatcher:
    """Runs calls on worker processes.

    Args:
        setup: What each worker is told; its name is completed with the worker's number.
        size: How many worker processes; all are started with the first call, and one that dies is replaced.
        most_in_flight: Most calls that are with the workers at once, all together.
        take_forgotten: Gives the ids of functions that will not be called again.
        callbacks: The pool's callback thread, so that at the end of the interpreter its callbacks are run, too.
    """

    def __init__(
        self,
        setup: Setup,
        size: int,
        most_in_flight: int,
        take_forgotten: Callable[[], list[int]],
        callbacks: CallbackThread,
    ) -> None:
        if not hasattr(select, "epoll"):
            raise WorkerStartFailed("worker processes need Linux (epoll); here use a ThreadPoolExecutor")
        self.size = size
        self.broken: RimstoneError | None = None
        self.accepted = 0  # statistics
        self.finished = 0
        self.most_seen_in_flight = 0
        self._setup = setup
        self._slots = min(setup.threads * setup.coroutines, 1 << 16) + _SPARE_SLOTS
        self._most_in_flight = most_in_flight
        self._take_forgotten = take_forgotten
        self._callbacks = callbacks
        self._pid = os.getpid()
        self._incoming: deque[PoolCall] = deque()
        self._queues: dict[FunctionKind, deque[PoolCall]] = {kind: deque() for kind in FunctionKind}
        self._functions: dict[int, tuple[FunctionKind, float]] = {}
        self._ends_of_loading: dict[int, int] = {}  # function -> workers that ended while they loaded it
        self._unloadable: dict[int, WorkerDied] = {}
        self._links: dict[int, _Link] = {}  # by wire descriptor
        self._pidfds: dict[int, _Link] = {}
        self._in_flight = 0
        self._numbers = itertools.count(1)
        self._failed_starts = 0  # workers that ended before they were ready, in a row
        self._start_failures = 0  # processes that could not be made, in a row
        self._start_again_at: float | None = None
        self._sweep = False  # some queued calls have been cancelled
        self._draining = False
        self._cancelling = False
        self._abandoning = False
        self._stopping = False
        self._terminating = False
        self._ended = False
        self._exiting = False
        self._changed = Condition()
        self._wakeup = Wakeup()
        self._sleeping = False
        self._news = False  # something for the thread to look at
        self._poller = select.epoll()
        self._poller.register(self._wakeup.fd, select.EPOLLIN)
        self._thread = Thread(target=self._serve, name=f"{setup.name}-dispatcher", daemon=True)

    def start(self) -> None:
        """Start the thread; the worker processes come with the first call."""
        atexit.register(self._at_exit)
        try:
            shielded(self._thread.start)
        except BaseException:
            if self._thread.ident is None:  # no thread to be had
                self._end()
            raise

    # -- called by any thread ----------------------------------------------------------------------------------

    def submit(self, call: PoolCall) -> None:
        """Accept one call.

        Raises:
            RimstoneError: the pool is broken, closed, or belongs to the process this one was forked from.
        """
        if self.broken is not None:
            raise self.broken
        if self._draining:
            raise PoolClosed(_CLOSED)
        if os.getpid() != self._pid:
            raise PoolClosed(f"this pool belongs to process {self._pid}, and this is a fork of it; create a pool here")
        self._incoming.append(call)
        self._wake()
        if self._ended:  # it ended just now; nobody is going to look
            self._fail_rest()

    def on_cancel(self, _future: Future[Any]) -> None:
        """A queued call has been cancelled."""
        self._sweep = True
        self._wake()

    def close(self, *, cancel: bool = False, abandon: bool = False) -> None:
        """Accept nothing more; end when all is done. Any thread, also a finalizer; again with more urgency is fine."""
        self._cancelling = self._cancelling or cancel
        self._abandoning = self._abandoning or abandon
        self._draining = True
        if os.getpid() == self._pid:
            self._wake()

    def join(self) -> None:
        """Return when every call has ended and every worker is gone. After `close`."""
        if os.getpid() != self._pid or self._thread.ident is None:
            return
        self._changed.wait_until(lambda: self._ended)
        self._thread.join()

    @property
    def in_flight(self) -> int:
        """Calls accepted and not ended."""
        return max(0, self.accepted + len(self._incoming) - self.finished)

    def pids(self) -> list[int]:
        """The process ids of the workers there are now."""
        return [link.worker.pid for link in tuple(self._links.values())]

    def _wake(self) -> None:
        self._news = True  # in this order: `_wait` goes the other way round
        if self._sleeping:
            self._wakeup.set()

    def _at_exit(self) -> None:
        """The interpreter ends and nobody shut the pool down: finish its calls, as concurrent.futures does.

        But not when the program ends by Ctrl-C, and not in a forked child.
        """
        if os.getpid() != self._pid or self._thread.ident is None:
            return
        self._exiting = True
        abandon = getattr(sys, "last_type", None) is KeyboardInterrupt
        while not (abandon and self._ended):  # a second Ctrl-C gives up callbacks too
            try:
                self.close(cancel=abandon, abandon=abandon)
                self.join()
                self._callbacks.close()
                self._callbacks.wait()
            except KeyboardInterrupt:
                abandon = True
            else:
                return

    # -- the thread --------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while True:
                self._news = False
                self._take_incoming()
                if self._sweep or self._cancelling:
                    self._drop_cancelled()
                if self._abandoning:
                    self._abandon()
                self._dispatch()
                if self._draining and self._is_done() and not self._stopping:
                    self._stop_workers()
                if self._stopping and not self._links:
                    break
                self._wait()
        except BaseException as error:
            # A defect of ours; nobody may be left waiting for it.
            self._break(WorkerStartFailed(f"the pool's dispatcher failed: {error!r}"), error)
            for link in list(self._links.values()):
                link.worker.kill()
                link.worker.wait()
                self._bury(link)
            raise
        finally:
            self._end()

    def _end(self) -> None:
        self._draining = True
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._fail_rest()
        self._poller.close()
        # `submit` may still call `set` on it: closed, it does nothing.
        self._wakeup.close()
        if not self._exiting:
            atexit.unregister(self._at_exit)

    def _fail_rest(self) -> None:
        """Nothing runs any more: fail whatever is still here. Also called by a `submit` that came too late."""
        while self._incoming:
            with contextlib.suppress(IndexError):
                call = self._incoming.popleft()
                self.accepted += 1
                self._fail(call, self.broken or PoolClosed(_CLOSED))
        for queue in self._queues.values():
            while queue:
                with contextlib.suppress(IndexError):
                    self._fail(queue.popleft(), self.broken or PoolClosed(_CLOSED))

    def _wait(self) -> None:
        self._sleeping = True
        timeout = None
        if self._news or self._incoming:  # came after the last look
            timeout = 0.0
        else:
            deadlines = [link.kill_ladder[0][0] for link in self._links.values() if link.kill_ladder]
            if self._start_again_at is not None:
                deadlines.append(self._start_again_at)
            if deadlines:
                timeout = max(0.0, min(deadlines) - clock.monotonic())
        events = self._poller.poll(timeout)
        self._sleeping = False
        for fd, mask in events:
            if fd == self._wakeup.fd:
                self._wakeup.clear()
            elif fd in self._links:
                link = self._links[fd]
                if mask & select.EPOLLOUT:
                    link.worker.flush()
                    self._after_sending(link)
                if mask & ~select.EPOLLOUT:
                    self._read(link)
            elif fd in self._pidfds:
                self._look_for_death(self._pidfds[fd])
        for link in list(self._links.values()):
            while link.kill_ladder and link.kill_ladder[0][0] <= clock.monotonic():
                link.kill_ladder.popleft()[1]()
        if self._start_again_at is not None and self._start_again_at <= clock.monotonic():
            self._start_workers()

    # -- calls -------------------------------------------------------------------------------------------------

    def _take_incoming(self) -> None:
        incoming = self._incoming
        if incoming and not self._links and self.broken is None and not self._stopping and not self._abandoning:
            self._start_workers()
        while incoming:
            call = incoming.popleft()
            self.accepted += 1
            error = self.broken or self._unloadable.get(call.function.id)
            if error is None and self._stopping:  # it came while the pool was being shut down
                error = PoolClosed(_CLOSED)
            if error is not None:
                self._fail(call, error)
            else:
                self._queues[self._kind(call)].append(call)

    def _put_back(self, call: PoolCall) -> None:
        """A call that was sent but not started is to be sent again, before all others; it can be cancelled again."""
        with call.future._condition:
            if call.future._state == RUNNING:
                call.future._state = PENDING
        call.claimed = False
        error = self.broken or self._unloadable.get(call.function.id)
        if error is not None:
            self._fail(call, error)
        elif self._abandoning:
            self._fail(call, PoolClosed(_LEFT))
        else:
            self._queues[self._kind(call)].appendleft(call)

    def _kind(self, call: PoolCall) -> FunctionKind:
        if call.hint:
            return call.hint
        known = self._functions.get(call.function.id)
        return known[0] if known is not None else FunctionKind.UNKNOWN

    def _drop_cancelled(self) -> None:
        self._sweep = False
        for kind, queue in self._queues.items():
            kept: deque[PoolCall] = deque()
            for call in queue:
                if self._cancelling:
                    call.future.cancel()
                if not call.future.cancelled():
                    kept.append(call)
                else:
                    call.future.set_running_or_notify_cancel()
                    self.finished += 1
            self._queues[kind] = kept

    def _dispatch(self) -> None:
        """Give queued calls to workers, as many as they take."""
        batches: dict[int, list[tuple[int, int, int, bytes]]] = {}
        while self._fill(batches):
            pass  # calls have changed the queue, maybe to one that had its turn
        self.most_seen_in_flight = max(self.most_seen_in_flight, self._in_flight)
        for fd, batch in batches.items():
            self._send_calls(self._links[fd], batch)

    def _fill(self, batches: dict[int, list[tuple[int, int, int, bytes]]]) -> bool:
        """One turn through the queues; True if a call turned out to belong to another queue."""
        moved = False
        for kind in (FunctionKind.WAITING, FunctionKind.BLOCKING, FunctionKind.COMPUTING, FunctionKind.UNKNOWN):
            queue = self._queues[kind]
            passed: list[PoolCall] = []  # not yet to be started, but others of this kind may be
            while queue and self._in_flight < self._most_in_flight:
                call = queue.popleft()
                now_kind = self._kind(call)
                if now_kind is not kind:  # more is known of it by now
                    self._queues[now_kind].append(call)
                    moved = True
                    continue
                seconds = self._functions.get(call.function.id, (kind, 0.0))[1]
                link = self._choose(call, kind, seconds)
                if link is None:
                    passed.append(call)
                    if kind is not FunctionKind.UNKNOWN or len(passed) > len(self._links) * 8:
                        break
                    continue
                if not self._claim(call):
                    continue
                link.count(call, kind, seconds)
                slot = link.worker.assign(call)
                self._in_flight += 1
                batch = batches.setdefault(link.worker.channel.fd, [])
                batch.append((slot, call.function.id, call.hint, call.arguments))
            queue.extendleft(reversed(passed))
        return moved

    def _claim(self, call: PoolCall) -> bool:
        """The call is about to be sent and cannot be cancelled from now on. False: it has been, or is done already."""
        try:
            call.claimed = call.future.set_running_or_notify_cancel()
        except (InvalidStateError, RuntimeError):  # somebody has set the result of our future
            call.claimed = False
        if not call.claimed:
            self.finished += 1
        return call.claimed

    def _choose(self, call: PoolCall, kind: FunctionKind, seconds: float) -> _Link | None:
        """The worker for a call, or None if it is better kept here for now."""
        best: _Link | None = None
        best_load: tuple[float, int] = (0.0, 0)
        for link in self._links.values():
            worker = link.worker
            if worker.room <= 0:
                continue
            if kind is FunctionKind.COMPUTING:
                if link.computing and (
                    link.unmeasured or not seconds or link.computing_seconds + seconds > QUEUED_SECONDS
                ):
                    continue
            elif kind is FunctionKind.BLOCKING:
                queued_seconds = (link.blocking + 1 - self._setup.threads) * seconds
                if link.blocking >= self._setup.threads and (not seconds or queued_seconds > QUEUED_SECONDS):
                    continue
            elif kind is FunctionKind.UNKNOWN and call.function.id in link.probing:
                continue
            load = (link.computing_seconds + link.computing * 1e-9, len(worker.in_flight))
            if best is None or load < best_load:
                best, best_load = link, load
        return best

    def _send_calls(self, link: _Link, batch: list[tuple[int, int, int, bytes]]) -> None:
        worker = link.worker
        forgotten = self._take_forgotten()
        if forgotten:
            self._forget(forgotten)
        functions: list[tuple[int, bytes]] = []
        calls: list[tuple[int, int, int, bytes]] = []
        size = 0
        for item in batch:
            function = worker.in_flight[item[0]].function
            if function.id not in worker.known:
                worker.known.add(function.id)
                functions.append((function.id, function.blob))
                size += len(function.blob)
            calls.append(item)
            size += len(item[3]) + 16
            if size > _MESSAGE_BYTES:
                self._send(link, (functions, [], calls))
                functions, calls, size = [], [], 0
        if calls:
            self._send(link, (functions, [], calls))

    def _send(self, link: _Link, content: _Calls) -> None:
        link.worker.send(Kind.CALLS, content)
        self._after_sending(link)

    def _after_sending(self, link: _Link) -> None:
        """Wait for room if there was none; fail the calls that could not be sent at all."""
        for (functions, _, calls), error in link.worker.take_unsendable():
            link.worker.known.difference_update(number for number, _ in functions)
            for slot, *_ in calls:
                call = self._take_back(link, slot)
                refused = CannotTravel(f"{call.function.name}() could not be sent to a worker process: {error}")
                refused.__cause__ = error
                self._fail(call, refused)
        self._watch_writable(link)

    def _forget(self, functions: list[int]) -> None:
        for number in functions:
            self._functions.pop(number, None)
            self._ends_of_loading.pop(number, None)
            self._unloadable.pop(number, None)
        for link in self._links.values():
            known = [number for number in functions if number in link.worker.known]
            if known:
                link.worker.known.difference_update(known)
                self._send(link, ([], known, []))

    def _watch_writable(self, link: _Link) -> None:
        wanted = link.worker.has_unsent
        if wanted != link.writable_wanted and link.wire_watched:
            link.writable_wanted = wanted
            self._poller.modify(link.worker.channel.fd, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    # -- answers -----------------------------------------------------------------------------------------------

    def _read(self, link: _Link) -> None:
        try:
            while (message := link.worker.channel.receive(block=False)) is not None:
                self._handle(link, *message)
        except ChannelClosed:
            self._on_end_of_wire(link)

    def _handle(self, link: _Link, kind: Kind, content: Any) -> None:
        worker = link.worker
        if kind is Kind.READY:
            worker.limit = content
            worker.was_ready = True
            self._failed_starts = 0
            if worker.state is WorkerState.STARTING:
                worker.state = WorkerState.READY
        elif kind is Kind.BROKEN:
            self._break(
                InitializerFailed(f"the initializer of {self._setup.name} raised in worker process {worker.pid}"),
                load_error(content),
            )
        elif kind is Kind.REPORT:
            limit, results, returned, learned = content
            worker.limit = limit
            for number, function_kind, seconds in learned:
                self._learn(link, number, FunctionKind(function_kind), seconds)
            for slot, returned_value, blob in results:
                call = self._take_back(link, slot)
                self.finished += 1
                self._deliver(call, returned_value, blob)
            for slot in reversed(returned):
                self._put_back(self._take_back(link, slot))

    def _learn(self, link: _Link, number: int, kind: FunctionKind, seconds: float) -> None:
        self._ends_of_loading.pop(number, None)
        known = self._functions.get(number)
        if known is not None and known[0] is FunctionKind.WAITING:
            return  # seen to park, in whichever worker: that is for good
        self._functions[number] = (kind, seconds)
        for call in link.worker.in_flight.values():
            if call.function.id == number and not call.hint and call.sent_as is FunctionKind.UNKNOWN:
                link.uncount(call)
                link.count(call, kind, seconds)

    def _take_back(self, link: _Link, slot: int) -> PoolCall:
        call: PoolCall = link.worker.release(slot)
        link.uncount(call)
        self._in_flight -= 1
        return call

    def _deliver(self, call: PoolCall, returned_value: bool, blob: bytes) -> None:
        try:
            if returned_value:
                call.future.set_result(load_result(blob))
            else:
                call.future.set_exception(load_error(blob))
        except BaseException as error:  # the result does not unpickle here, or a callback of cf.wait raised
            if not call.future.done():
                call.future.set_exception(error)

    def _fail(self, call: PoolCall, error: BaseException) -> None:
        if call.claimed or self._claim(call):
            self.finished += 1
            with contextlib.suppress(InvalidStateError):
                call.future.set_exception(error)

    # -- workers -----------------------------------------------------------------------------------------------

    def _start_workers(self) -> None:
        """Start as many as are missing."""
        self._start_again_at = None
        while len(self._links) < self.size and self.broken is None:
            setup = replace(
                self._setup,
                name=f"{self._setup.name}-{next(self._numbers)}",
                path=list(sys.path),
                argv=list(getattr(sys, "argv", [""])),
            )
            try:
                worker = ProcessWorker(setup, self._slots)
            except OSError as error:
                self._start_later(error)
                return
            self._start_failures = 0
            link = _Link(worker)
            self._links[worker.channel.fd] = link
            self._poller.register(worker.channel.fd, select.EPOLLIN)
            if worker.pidfd >= 0:
                self._pidfds[worker.pidfd] = link
                self._poller.register(worker.pidfd, select.EPOLLIN)
            self._watch_writable(link)

    def _start_later(self, error: OSError) -> None:
        """The machine had no process or descriptor for us: try again in a while, but not for ever without a worker."""
        self._start_failures += 1
        if not self._links and self._start_failures >= _STARTS_ALLOWED_TO_FAIL:
            self._break(WorkerStartFailed(f"no worker process could be started: {error}"), error)
            return
        self._start_again_at = clock.monotonic() + min(5.0, 0.05 * 2**self._start_failures)

    def _on_end_of_wire(self, link: _Link) -> None:
        """The worker closed its end or died. Its death may take a moment longer; make sure of it."""
        if not link.worker.has_ended():
            if link.worker.pidfd >= 0:
                self._unwatch_wire(link)
                if not link.kill_ladder:
                    link.kill_ladder.append((clock.monotonic() + _SECONDS_TO_TERMINATE, link.worker.kill))
                return
            link.worker.kill()
            link.worker.wait()
        self._bury(link)

    def _unwatch_wire(self, link: _Link) -> None:
        """Explicitly, not by closing it: a forked child of this process may keep it open."""
        if link.wire_watched:
            link.wire_watched = False
            self._poller.unregister(link.worker.channel.fd)

    def _look_for_death(self, link: _Link) -> None:
        if not link.worker.has_ended():
            return
        try:  # what it sent before it died
            while (message := link.worker.channel.receive(block=False)) is not None:
                self._handle(link, *message)
        except (ChannelClosed, OSError):
            pass
        self._bury(link)

    def _bury(self, link: _Link) -> None:
        """The worker is gone: fail what it had started, run the rest elsewhere, replace it."""
        worker = link.worker
        self._unwatch_wire(link)
        self._links.pop(worker.channel.fd, None)
        if worker.pidfd >= 0:
            self._poller.unregister(worker.pidfd)
            self._pidfds.pop(worker.pidfd, None)
        started, loading, untouched = worker.take_calls()
        self._in_flight -= len(started) + len(loading) + len(untouched)
        for call in started:
            self._fail(call, self.broken or _death(worker, call))
        if not (self._stopping or self._abandoning or self.broken is not None):
            self._blame_loading(worker, loading)
        for call in reversed(loading + untouched):
            self._put_back(call)
        worker.close()
        if self._stopping or self._abandoning or self.broken is not None:
            return
        if not worker.was_ready:
            self._failed_starts += 1
            if self._failed_starts >= _STARTS_ALLOWED_TO_FAIL:
                how = f"signal {worker.exit_signal}" if worker.exit_signal else f"exit code {worker.exit_code}"
                self._break(
                    WorkerStartFailed(
                        f"{self._failed_starts} worker processes in a row ended before they were ready (the last "
                        f"with {how}); what they wrote to stderr says why"
                    )
                )
                return
        self._start_workers()

    def _blame_loading(self, worker: ProcessWorker, loading: list[PoolCall]) -> None:
        """The worker ended while it loaded the functions of these calls; give up a function that always does so."""
        for call in {call.function.id: call for call in loading}.values():
            number = call.function.id
            ends = self._ends_of_loading[number] = self._ends_of_loading.get(number, 0) + 1
            if ends < _WORKERS_A_FUNCTION_MAY_END:
                continue
            error = self._unloadable[number] = _death(worker, call)
            error.add_note(f"{ends} worker processes have ended while they imported or rebuilt {call.function.name}()")
            for kind, queue in self._queues.items():
                self._queues[kind] = deque(queued for queued in queue if queued.function.id != number)
                for queued in queue:
                    if queued.function.id == number:
                        self._fail(queued, error)

    def _is_done(self) -> bool:
        return not (self._in_flight or self._incoming or any(self._queues.values()))

    def _stop_workers(self) -> None:
        """Everything is done: let the workers exit, and help those that do not."""
        self._stopping = True
        for link in self._links.values():
            worker = link.worker
            deadline = clock.monotonic() + _SECONDS_TO_EXIT
            if worker.state is WorkerState.STARTING:
                worker.kill()  # it has never had a call
            else:
                worker.stop()
            self._watch_writable(link)
            link.kill_ladder.append((deadline, worker.terminate))
            link.kill_ladder.append((deadline + _SECONDS_TO_TERMINATE, worker.kill))

    def _abandon(self) -> None:
        """Do not wait for the calls that run: end the workers now."""
        if self._stopping and not self._links:
            return
        self._stopping = True
        self._cancelling = True
        self._drop_cancelled()
        for queue in self._queues.values():  # handed back by a worker, or left by one that died
            while queue:
                self._fail(queue.popleft(), PoolClosed(_LEFT))
        if not self._terminating:
            self._terminating = True
            for link in self._links.values():
                link.kill_ladder.clear()
                link.worker.terminate()
                link.kill_ladder.append((clock.monotonic() + _SECONDS_TO_TERMINATE, link.worker.kill))

    def _break(self, error: RimstoneError, cause: BaseException | None = None) -> None:
        """No call can run any more: fail all of them, and those to come."""
        if self.broken is None:
            error.__cause__ = cause
            self.broken = error
        for queue in self._queues.values():
            while queue:
                self._fail(queue.popleft(), error)
        for link in self._links.values():
            link.worker.terminate()
            link.kill_ladder.append((clock.monotonic() + _SECONDS_TO_TERMINATE, link.worker.kill))


def _death(worker: ProcessWorker, call: PoolCall) -> WorkerDied:
    return WorkerDied(worker.pid, worker.exit_signal, worker.exit_code, call.function.name)


def close_when_collected(pool: object, dispatcher: Dispatcher) -> None:
    """A pool that nobody holds any more finishes its calls and ends."""
    weakref.finalize(pool, dispatcher.close).atexit = False
