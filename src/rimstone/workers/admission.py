"""Which thread of a worker takes which call, and when. Read `placement.py` first. Runs in the worker.

The rule (DESIGN, decision 9): *a thread takes its next call only when every call it already holds is waiting; the first
thread is filled first, the next one only when the first is busy or full.* So nothing has to be known beforehand: a call
that computes or blocks in C holds its thread, calls that wait pile up on one hub.

Three things refine it:

* A function that has never been seen to park goes to a thread without waiters, so that it cannot stall any.
* Of functions known to compute, one call at a time runs in a process: more would only fight for the interpreter.
* *Busy* means: has not come back to its hub for 20 ms while calls wait. (Taken literally, "busy" would load all threads
  evenly, and several loaded hubs in one process are slower than one.) Nobody is asked: `tick` looks at the hubs' beats.

How much work lies here: the pool may send calls until the cumulative number `limit`, which rises as calls are started,
by as much as is started in about 2 ms. What lies here and cannot start is handed back, for another worker to run.

Everything is decided under one native lock, held for microseconds; hubs are woken after it is released.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rimstone import clock
from rimstone._originals import allocate_lock
from rimstone.hub import Hub
from rimstone.workers.placement import BUSY_SECONDS, COMPUTING_SHARE, QUEUED_SECONDS, FunctionKind, FunctionRecord
from rimstone.workers.threadclock import Usage

__all__ = ["Admission", "Seat", "WorkerCall"]

_MOST_QUEUED = 256


@dataclass(slots=True, eq=False)
class WorkerCall:
    """One call as the worker sees it.

    Attributes:
        slot: Its number in the shared memory of started calls, and in reports.
        function: Id in the function table.
        hint: What `level=` asked for; UNKNOWN when nothing was asked.
        arguments: Still pickled.
    """

    slot: int
    function: int
    hint: FunctionKind
    arguments: bytes
    arrived: float = 0.0
    usage: Usage | None = None
    parked: bool = False
    exclusive: bool = False


@dataclass(slots=True, eq=False)
class Seat:
    """One thread that runs calls, as admission sees it.

    Attributes:
        index: Its place in the order of filling.
        hub: None until the thread runs.
        held: Calls it has started and not finished.
        last: The call it took last; if it is not finished when the thread is idle, it has parked.
        busy: Found not to have come back to its hub for a while.
    """

    index: int
    hub: Hub | None = None
    cpu_clock: Callable[[], float] = time.thread_time
    held: int = 0
    last: WorkerCall | None = None
    busy: bool = False
    beats: int = -1
    beats_since: float = 0.0
    cpu_then: float = 0.0

    @property
    def polling(self) -> bool:
        """True while all its calls wait."""
        return self.hub is not None and self.hub.polling


@dataclass(slots=True)
class Admission:
    """See the head of this file.

    Attributes:
        threads: Most threads.
        coroutines: Most calls that one thread holds.
        most_calls: Most calls that the process holds (threads x coroutines, or what its descriptors allow).
        start_thread: Called with a seat whose thread is to be started.
        report_soon: Called when the pool should hear of a new limit.
    """

    threads: int
    coroutines: int
    most_calls: int
    start_thread: Callable[[Seat], None]
    report_soon: Callable[[], None]
    seats: list[Seat] = field(default_factory=list)
    records: dict[int, FunctionRecord] = field(default_factory=dict)
    _lock: Any = field(default_factory=allocate_lock)
    _waiting: deque[WorkerCall] = field(default_factory=deque)  # calls that are going to park
    _alone: deque[WorkerCall] = field(default_factory=deque)  # calls that may hold their thread
    _computing: int = 0
    _received: int = 0
    _announced: int = 0
    _prefetch: int = 1
    _offered_at: float = 0.0

    # -- called by the threads that run calls ------------------------------------------------------------------

    def take(self, seat: Seat) -> WorkerCall | None:
        """The next call for *seat*, whose calls are all waiting; None: wait until there is one."""
        now = clock.monotonic()
        wake: Hub | None = None
        with self._lock:
            seat.busy = False
            last = seat.last
            if last is not None:
                seat.last = None
                if not last.parked:
                    self._note_parked(last)
            # More may lie here than can be held; beyond `most_calls` a call might find no descriptor.
            is_full = sum(each.held for each in self.seats) >= self.most_calls
            call = None if is_full else self._choose(seat)
            if call is None:
                wake = None if is_full else self._seat_for_waiting(seat)
            else:
                call.usage = Usage()
                seat.held += 1
                seat.last = call
                if self._kind(call) is FunctionKind.COMPUTING:
                    call.exclusive = True
                    self._computing += 1
                if not self._waiting and not self._alone and now - self._offered_at < QUEUED_SECONDS:
                    self._prefetch = min(_MOST_QUEUED, 2 * self._prefetch)
            report = self._should_report(call)
        if wake is not None:
            wake.io.wake()
        if report:
            self.report_soon()
        return call

    def finish(self, seat: Seat, call: WorkerCall) -> None:
        """*call* has ended on *seat*."""
        assert call.usage is not None
        wall_seconds, computing = call.usage.since()
        with self._lock:
            seat.held -= 1
            if seat.last is call:
                seat.last = None
            if call.exclusive:
                self._computing -= 1
            if not call.parked:
                self._record(call).held_thread(wall_seconds, computing=computing)

    # -- called by the wire thread -----------------------------------------------------------------------------

    def offer(self, calls: list[WorkerCall]) -> None:
        """Calls have arrived."""
        now = clock.monotonic()
        with self._lock:
            self._received += len(calls)
            self._offered_at = now
            for call in calls:
                call.arrived = now
                queue = self._waiting if self._kind(call) is FunctionKind.WAITING else self._alone
                queue.append(call)
        self.tick()

    def tick(self) -> None:
        """Look which threads are busy; wake or start one for calls that nobody is going to take soon."""
        now = clock.monotonic()
        with self._lock:
            for seat in self.seats:
                self._look_at(seat, now)
            self._sort_again()
            wake, start = self._seats_to_move()
        for seat in start:
            try:
                self.start_thread(seat)
            except RuntimeError:  # no thread to be had
                self.give_up(seat)
        for hub in wake:
            hub.io.wake()

    def give_up(self, seat: Seat) -> None:
        """The thread of *seat* could not be started: make do with those there are."""
        with self._lock:
            self.seats.remove(seat)
            for index, remaining in enumerate(self.seats):
                remaining.index = index
            self.threads = max(1, len(self.seats))

    def needs_tick(self) -> bool:
        """True while calls lie here, or a call runs of which nothing is known yet."""
        with self._lock:
            return bool(self._waiting or self._alone) or any(
                seat.last is not None and self._record(seat.last).kind is FunctionKind.UNKNOWN for seat in self.seats
            )

    def hand_back(self) -> list[WorkerCall]:
        """Calls that have been lying here and cannot start; the pool runs them elsewhere."""
        oldest_allowed = clock.monotonic() - BUSY_SECONDS
        given: list[WorkerCall] = []
        with self._lock:
            stuck = self._all_stuck() and not self._can_start()
            if stuck and self._waiting and self._waiting[0].arrived < oldest_allowed:
                given.extend(self._waiting)
                self._waiting.clear()
            if (
                self._alone
                and self._alone[0].arrived < oldest_allowed
                and not (self._seats_for_alone() and any(self._startable()))
            ):
                given.extend(self._alone)
                self._alone.clear()
            if given:
                self._prefetch = max(1, self._prefetch // 2)
        return given

    def announce_limit(self) -> int:
        """How many calls the pool may send, counted since the beginning. Never falls."""
        with self._lock:
            self._announced = max(self._announced, self._limit())
            return self._announced

    def learned(self) -> list[tuple[int, FunctionKind, float]]:
        """What the pool should know of functions: (id, kind, mean seconds), each piece of news once."""
        with self._lock:
            return [
                (function, record.kind, record.mean_seconds)
                for function, record in self.records.items()
                if record.take_news()
            ]

    def forget(self, functions: list[int]) -> None:
        """These functions are gone."""
        with self._lock:
            for function in functions:
                self.records.pop(function, None)

    def held(self) -> int:
        """Calls that are here: started, or not yet."""
        with self._lock:
            return self._held_and_queued()

    def _should_report(self, taken: WorkerCall | None) -> bool:
        """True when the pool should hear of a new limit now, rather than with the next result."""
        if taken is not None and self._alone:
            return True  # the calls that are left need another thread, which the wire thread starts
        missing = self._limit() - self._announced
        return missing > 0 and missing >= self._announced - self._received

    # -- under the lock ----------------------------------------------------------------------------------------

    def _record(self, call: WorkerCall) -> FunctionRecord:
        record = self.records.get(call.function)
        if record is None:
            record = self.records[call.function] = FunctionRecord()
        return record

    def _kind(self, call: WorkerCall) -> FunctionKind:
        return call.hint or self._record(call).kind

    def _note_parked(self, call: WorkerCall) -> None:
        call.parked = True
        if call.exclusive:
            call.exclusive = False
            self._computing -= 1
        record = self._record(call)
        if record.kind is not FunctionKind.WAITING:
            record.parked()
            self._sort_again()
            self.report_soon()

    def _sort_again(self) -> None:
        """Functions may have turned out to wait: their calls change the queue."""
        if self._alone and any(self._kind(call) is FunctionKind.WAITING for call in self._alone):
            alone, self._alone = self._alone, deque()
            for call in alone:
                (self._waiting if self._kind(call) is FunctionKind.WAITING else self._alone).append(call)

    def _choose(self, seat: Seat) -> WorkerCall | None:
        alone = next(self._startable(), None) if self._may_take_alone(seat) else None
        waiting = self._waiting[0] if self._waiting and self._may_take_waiting(seat) else None
        if alone is not None and (waiting is None or alone.arrived <= waiting.arrived):
            self._alone.remove(alone)  # at or near the head
            return alone
        if waiting is not None:
            return self._waiting.popleft()
        return None

    def _may_take_waiting(self, seat: Seat) -> bool:
        if seat.held >= self.coroutines:
            return False
        return all(lower.busy or lower.held >= self.coroutines for lower in self.seats[: seat.index])

    def _startable(self) -> Iterator[WorkerCall]:
        """The calls of `_alone` that may start now: all, but of those that compute one at a time in this process."""
        computing = self._computing
        for call in self._alone:
            if self._kind(call) is not FunctionKind.COMPUTING:
                yield call
            elif not computing:
                computing = 1
                yield call

    def _may_take_alone(self, seat: Seat) -> bool:
        if seat.held == 0:
            return True
        # Every thread has waiters and there cannot be another one: the last is to suffer.
        return (
            seat.index == self.threads - 1
            and seat.held < self.coroutines
            and all(other.held > 0 for other in self.seats)
        )

    def _all_stuck(self) -> bool:
        """True when no thread is going to take a waiting call soon: each is busy or full."""
        return all(seat.busy or seat.held >= self.coroutines for seat in self.seats)

    def _can_start(self) -> bool:
        return len(self.seats) < self.threads

    def _seat_for_waiting(self, asking: Seat | None = None) -> Hub | None:
        """The hub to wake for a waiting call; None when there is none, or one that is coming back by itself."""
        if self._waiting:
            for seat in self.seats:
                if seat.held >= self.coroutines or seat.busy:
                    continue
                return seat.hub if seat is not asking and seat.polling else None
        return None

    def _seats_for_alone(self) -> list[Seat]:
        return [seat for seat in self.seats if seat.polling and self._may_take_alone(seat)]

    def _seats_to_move(self) -> tuple[list[Hub], list[Seat]]:
        wake: list[Hub] = []
        start: list[Seat] = []
        if self._waiting:
            hub = self._seat_for_waiting()
            if hub is not None:
                wake.append(hub)
            elif self._all_stuck() and self._can_start():
                start.append(self._new_seat())
        startable = sum(1 for _ in self._startable())
        if startable:
            free = self._seats_for_alone()
            for seat in free[:startable]:
                if seat.hub is not None and seat.hub not in wake:
                    wake.append(seat.hub)
            starting = sum(seat.hub is None for seat in self.seats)
            missing = min(startable - len(free) - starting, self.threads - len(self.seats))
            start.extend(self._new_seat() for _ in range(missing))
        return wake, start

    def _new_seat(self) -> Seat:
        seat = Seat(len(self.seats))
        self.seats.append(seat)
        return seat

    def _look_at(self, seat: Seat, now: float) -> None:
        hub = seat.hub
        if hub is None or hub.polling:
            seat.busy = False
            seat.beats = -1
            return
        if hub.beats != seat.beats:
            seat.busy = False
            seat.beats = hub.beats
            seat.beats_since = now
            seat.cpu_then = seat.cpu_clock()
        elif now - seat.beats_since >= BUSY_SECONDS:
            seat.busy = True
            call = seat.last
            if call is not None and not call.parked:
                stuck = now - seat.beats_since
                used = seat.cpu_clock() - seat.cpu_then
                self._record(call).held_thread(stuck, computing=used >= COMPUTING_SHARE * stuck)
                if self._kind(call) is FunctionKind.COMPUTING and not call.exclusive:
                    call.exclusive = True
                    self._computing += 1

    def _held_and_queued(self) -> int:
        return sum(seat.held for seat in self.seats) + len(self._waiting) + len(self._alone)

    def _limit(self) -> int:
        queued = len(self._waiting) + len(self._alone)
        wanted = 0
        if self._can_start() or not self._all_stuck():
            wanted += 1
        if self._can_start() or any(not seat.busy for seat in self.seats):
            wanted += self._prefetch
        room = self.most_calls - self._held_and_queued()
        if any(seat.last is not None and not seat.busy for seat in self.seats):
            room += self._prefetch  # a thread is about to be free again: what comes now may lie here until then
        return self._received + max(0, min(wanted - queued, room))
