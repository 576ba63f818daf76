"""Which thread takes which call: the decisions of `Admission`, with hubs that only say whether they poll."""

import itertools
from types import SimpleNamespace

import pytest

from rimstone.workers import admission as module
from rimstone.workers.admission import Admission, Seat, WorkerCall
from rimstone.workers.placement import BUSY_SECONDS, FunctionKind


class FakeHub:
    """A thread's hub as admission sees it: it polls, or it is at work and comes back or does not."""

    def __init__(self):
        self.polling = True
        self.beats = 0
        self.woken = 0
        self.io = SimpleNamespace(wake=self._wake)

    def _wake(self):
        self.woken += 1


class Worker:
    """An Admission with a clock that stands still, and threads that start when they are asked to."""

    def __init__(self, monkeypatch, threads=3, coroutines=10):
        self.now = 1000.0
        monkeypatch.setattr(module, "clock", SimpleNamespace(monotonic=lambda: self.now))
        self.reports = 0
        self.started = []
        self.admission = Admission(threads, coroutines, threads * coroutines, self.start, self._report)
        self.slots = iter(range(10_000))
        self.admission.seats.append(Seat(0, FakeHub(), lambda: 0.0))

    def start(self, seat):
        seat.hub = FakeHub()
        seat.cpu_clock = lambda: 0.0
        self.started.append(seat)

    def _report(self):
        self.reports += 1

    def offer(self, count, function=1, hint=FunctionKind.UNKNOWN):
        calls = [WorkerCall(next(self.slots), function, hint, b"") for _ in range(count)]
        self.admission.offer(calls)
        return calls

    def seat(self, index):
        return self.admission.seats[index]

    def take(self, index=0):
        """The thread is idle and asks; it starts to work if it gets a call."""
        seat = self.seat(index)
        seat.hub.polling = True
        call = self.admission.take(seat)
        seat.hub.polling = call is None
        return call

    def take_all(self, index=0):
        """The thread takes calls that all wait at once, until there is none for it."""
        calls = []
        while (call := self.take(index)) is not None:
            calls.append(call)
        return calls

    def pass_time(self, seconds):
        self.now += seconds
        self.admission.tick()

    def become_busy(self):
        """The threads that work do not come back to their hubs for a while."""
        self.admission.tick()
        self.pass_time(2 * BUSY_SECONDS)

    def learn_waiting(self, function=1):
        (call,) = self.offer(1, function)
        assert self.take() is call
        assert self.take() is None  # so it has parked
        self.admission.finish(self.seat(0), call)


@pytest.fixture
def worker(monkeypatch):
    return Worker(monkeypatch)


def test_calls_that_wait_fill_the_first_thread_then_the_next(worker):
    worker.learn_waiting()
    worker.offer(15)
    assert len(worker.take_all(0)) == 10
    worker.admission.tick()
    assert len(worker.started) == 1
    assert len(worker.take_all(1)) == 5


def test_a_higher_thread_leaves_waits_to_a_lower_one_and_wakes_it(worker):
    worker.learn_waiting()
    worker.offer(10)
    worker.take_all(0)
    worker.offer(1)
    worker.admission.tick()
    assert len(worker.started) == 1
    worker.take_all(1)
    worker.admission.finish(
        worker.seat(0), WorkerCall(0, 1, FunctionKind.UNKNOWN, b"", usage=module.Usage(), parked=True)
    )
    worker.offer(1)
    before = worker.seat(0).hub.woken
    assert worker.take(1) is None
    assert worker.seat(0).hub.woken > before


def test_a_thread_that_does_not_come_back_is_passed_over(worker):
    worker.learn_waiting()
    (slow, *_) = worker.offer(2)
    assert worker.take(0) is slow  # and computes: its hub does not poll
    worker.admission.tick()
    assert worker.started == []  # it may come back soon
    worker.become_busy()
    assert len(worker.started) == 1
    assert worker.take(1) is not None


def test_a_thread_that_comes_back_often_is_not_busy(worker):
    worker.learn_waiting()
    worker.offer(2)
    worker.take(0)
    for _ in range(10):
        worker.seat(0).hub.beats += 1
        worker.pass_time(BUSY_SECONDS / 2)
    assert worker.started == []


def test_an_unknown_function_takes_a_thread_without_waiters(worker):
    worker.learn_waiting()
    worker.offer(3)
    worker.take_all(0)
    (unknown,) = worker.offer(1, function=2)
    assert len(worker.started) == 1
    assert worker.take(0) is None
    assert worker.take(1) is unknown


def test_calls_that_block_take_a_thread_each_at_once(worker):
    calls = worker.offer(5, hint=FunctionKind.BLOCKING)
    assert worker.take(0) is calls[0]
    worker.admission.tick()
    assert len(worker.started) == 2
    assert worker.take(1) is calls[1]
    assert worker.take(2) is calls[2]
    worker.admission.finish(worker.seat(1), calls[1])
    assert worker.take(1) is calls[3]


def test_one_computing_call_at_a_time(worker):
    first, second = worker.offer(2, hint=FunctionKind.COMPUTING)
    assert worker.take(0) is first
    worker.become_busy()
    assert worker.started == []
    worker.admission.finish(worker.seat(0), first)
    assert worker.take(0) is second


def test_a_call_found_to_compute_counts_as_the_one(worker):
    (unknown,) = worker.offer(1)
    assert worker.take(0) is unknown
    used = itertools.count()
    worker.seat(0).cpu_clock = lambda: next(used)
    worker.become_busy()
    assert worker.admission.learned() == [(1, FunctionKind.COMPUTING, pytest.approx(2 * BUSY_SECONDS))]
    worker.offer(1)
    worker.become_busy()
    assert worker.started == []


def test_a_call_that_sleeps_in_c_is_found_to_block(worker):
    worker.offer(1)
    worker.take(0)
    worker.become_busy()
    assert worker.admission.learned() == [(1, FunctionKind.BLOCKING, pytest.approx(2 * BUSY_SECONDS))]


def test_one_park_makes_a_function_a_waiting_one_for_good(worker):
    worker.learn_waiting()
    (call,) = worker.offer(1)
    assert worker.take(0) is call
    worker.admission.finish(worker.seat(0), call)  # this one did not park
    assert worker.admission.learned() == [(1, FunctionKind.WAITING, 0.0)]
    assert worker.admission.learned() == []


def test_calls_that_cannot_start_are_handed_back(monkeypatch):
    worker = Worker(monkeypatch, threads=1, coroutines=1)
    running, *others = worker.offer(4, hint=FunctionKind.COMPUTING)
    assert worker.take(0) is running
    assert worker.admission.hand_back() == []  # they have only just come
    worker.become_busy()
    assert worker.admission.hand_back() == others
    assert worker.admission.held() == 1


def test_calls_that_wait_are_handed_back_when_every_thread_is_stuck(monkeypatch):
    worker = Worker(monkeypatch, threads=1)
    worker.learn_waiting()
    stuck, *others = worker.offer(3)
    assert worker.take(0) is stuck
    worker.become_busy()
    assert worker.admission.hand_back() == others


def test_the_limit_rises_with_the_calls_started_and_stops_when_stuck(monkeypatch):
    worker = Worker(monkeypatch, threads=1)
    limit = worker.admission.announce_limit()
    assert limit >= 1
    worker.learn_waiting()
    for _ in range(8):  # calls that are started as soon as they come: ever more may be sent
        worker.offer(worker.admission.announce_limit() - worker.admission._received)
        for call in worker.take_all(0):
            worker.admission.finish(worker.seat(0), call)
    assert worker.admission.announce_limit() - worker.admission._received > 8
    worker.offer(1)
    worker.take(0)
    worker.become_busy()
    announced = worker.admission.announce_limit()
    worker.offer(announced - worker.admission._received)
    worker.become_busy()
    worker.admission.hand_back()
    assert worker.admission.announce_limit() == announced  # nothing can start here


def test_the_limit_leaves_no_more_than_the_process_may_hold(monkeypatch):
    worker = Worker(monkeypatch)
    worker.admission.most_calls = 4
    worker.learn_waiting()
    for _ in range(10):
        worker.offer(worker.admission.announce_limit() - worker.admission._received)
        worker.take_all(0)
    assert worker.admission.held() <= 4


def test_when_all_threads_have_waiters_the_last_one_takes_the_unknown_call(monkeypatch):
    worker = Worker(monkeypatch, threads=2, coroutines=2)
    worker.learn_waiting()
    worker.offer(3)
    worker.take_all(0)
    worker.admission.tick()
    worker.take_all(1)
    (unknown,) = worker.offer(1, function=2)
    assert worker.take(0) is None
    assert worker.take(1) is unknown
