"""Locks and queues against simple models: hypothesis starts, kills, times out and grants tasks in any order.

Each machine exists twice. *Eager*: after every step the tasks run until all wait, so the model knows who is next, and
the order is checked. *Lazy*: they run only when a step says so; kills, deadlines and grants pile up on the same task,
and what is checked, whenever all wait, is what no order may break: nothing is lost, and nobody waits for what is there.

Time stands still but for `time_passes`, so that each run with the same steps is the same run.
"""

import contextlib
import itertools
import queue
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from rimstone import clock, sync
from rimstone.errors import TaskExit
from rimstone.hub import Timeout, get_hub, live_tasks, sleep, spawn, waiter
from rimstone.sync import standard

pytestmark = pytest.mark.slow

SETTINGS = settings(
    max_examples=60,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],  # add Phase.shrink to study a failure: it takes longer than a test may
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],  # on a busy machine
)
MOST_ACTORS = 7
NEVER = float("inf")

seconds = st.sampled_from([None, None, None, None, 0, 1, 3])  # of the operation itself; None waits for ever
patience = st.sampled_from([None, None, None, None, None, 0, 2])  # of the rimstone.Timeout around it
either_mode = pytest.mark.parametrize("eager", [True, False], ids=["eager", "lazy"])


class Time:
    """What `clock.monotonic` says."""

    def __init__(self):
        self.now = clock.monotonic()

    def __call__(self):
        return self.now


@pytest.fixture
def time(monkeypatch):
    fake = Time()
    monkeypatch.setattr(clock, "monotonic", fake)
    monkeypatch.setattr(standard._threading, "_time", fake)
    monkeypatch.setattr(standard._semaphores, "_time", fake)
    monkeypatch.setattr(standard._queue, "time", fake)
    return fake


class Actor:
    """One task, one operation.

    Attributes:
        due: When its own timeout must have ended it at the latest. It may wait for an inner lock first, so this is
            counted from when the machine first sees it at rest; NEVER before.
        inside: It has got what it waited for, and keeps it until it is told to go on.
        outcome: None while it waits; then got, refused, timeout or kill.
        item: What it takes or gives, if that is an item.
        problem: What is wrong with it, to be raised by the machine.
    """

    def __init__(self, time, operation, timeout, patience):
        self._time = time
        self._stay = None
        self.operation = operation
        self.timeout = timeout
        self.patience = patience
        self.due = self.out_of_patience = NEVER
        self.killed = self.inside = False
        self.outcome = self.item = self.problem = None
        self.task = spawn(self._run)

    def _run(self):
        earliest = self._time.now + (NEVER if self.timeout is None else self.timeout)
        self.out_of_patience = self._time.now + (NEVER if self.patience is None else self.patience)
        try:
            with Timeout(self.patience):
                if not self.operation(self):
                    self.outcome = "refused"
                    assert self._time.now >= earliest
        except Timeout:
            assert self._time.now >= self.out_of_patience
            self.outcome = self.outcome or "timeout"
        except TaskExit:
            assert self.killed
            self.outcome = self.outcome or "kill"
        except BaseException as error:
            self.problem = error

    def got_it(self, item=None):
        """Called by the operation, without a wait in between: a kill cannot make it forget what it has got."""
        assert self.outcome is None
        self.outcome = "got"
        self.item = item

    def stay_inside(self):
        """Keep it until `go_on`, a kill or a Timeout."""
        self.inside = True
        self._stay = waiter()
        try:
            self._stay.park()
        finally:
            self.inside = False

    def go_on(self):
        self._stay.unpark()

    def kill(self):
        self.killed = True
        self.task.kill(block=False)

    @property
    def waits(self):
        return self.outcome is None and not self.task.ready()

    @property
    def is_overdue(self):
        return self.killed or min(self.due, self.out_of_patience) <= self._time.now

    def __repr__(self):
        return f"<{self.task!r}: {self.outcome}, inside={self.inside}, killed={self.killed}, due={self.due}>"


class Machine(RuleBasedStateMachine):
    """What all have in common. A subclass has rules that call `start`, and checks.

    Attributes:
        line: The actors that wait, in the order in which they began.
        held: The root task holds the inner lock, which whoever ends a wait must take back first.
    """

    def __init__(self, time, eager, thing):
        super().__init__()
        self.time = time
        self.eager = eager
        self.thing = thing
        self.lock = self.inner_lock()
        self.actors = []
        self.line = []
        self.held = False

    # -- what a subclass says ----------------------------------------------------------------------------------

    def inner_lock(self):
        raise NotImplementedError

    def check(self):
        """What must be true whenever all wait and the inner lock is free."""

    def grant(self):
        """Give one of those who wait what it waits for; tasks must not run meanwhile, unless the thing makes them."""
        raise NotImplementedError

    def free_everybody(self):
        """A step on the way on which all who still wait get what they wait for."""

    def check_end(self):
        """What must be true when all have ended."""

    # -- steps -------------------------------------------------------------------------------------------------

    def start(self, operation, timeout=None, patience=None):
        if len(self.living) < MOST_ACTORS:
            self.add(operation, timeout, patience)
        self.after_step()

    def add(self, operation, timeout=None, patience=None):
        actor = Actor(self.time, operation, timeout, patience)
        self.actors.append(actor)
        self.line.append(actor)

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def kill(self, data):
        data.draw(st.sampled_from(self.living)).kill()
        self.after_step()

    @precondition(lambda self: self.waiting())
    @rule(data=st.data(), kill_first=st.booleans(), rounds=st.integers(0, 2))
    def kill_and_grant(self, data, kill_first, rounds):
        """The two that are hardest to get right together, with a few rounds of the scheduler in between, or none."""
        steps = [data.draw(st.sampled_from(self.waiting())).kill, self.grant]
        for step in steps if kill_first else reversed(steps):
            step()
            for _ in range(rounds):
                sleep(0)
        self.after_step()

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def go_on(self, data):
        data.draw(st.sampled_from(self.inside)).go_on()
        self.after_step()

    @rule(passed=st.sampled_from([1, 2]))
    def time_passes(self, passed):
        self.time.now += passed
        self.after_step()

    @rule()
    def keep_or_give_back_the_lock(self):
        if not self.held:
            self.held = self.lock.acquire(blocking=False)
        else:
            self.give_back()
        self.after_step()

    @precondition(lambda self: not self.eager)
    @rule()
    def one_round(self):
        sleep(0)
        self.look_for_problems()

    @precondition(lambda self: not self.eager)
    @rule()
    def all_run(self):
        self.run()

    def run(self):
        """Let the tasks run until all wait, then compare."""
        hub = get_hub()
        rounds_at_rest = 0
        for _ in range(500):
            before = hub.switches
            sleep(0)
            # Who is made ready by the poll of one round runs in the next.
            rounds_at_rest = rounds_at_rest + 1 if hub.switches == before else 0
            if rounds_at_rest == 3:
                break
        else:
            pytest.fail(f"it does not come to rest: {self.living}")
        self.look_for_problems()
        self.line = [actor for actor in self.line if actor.waits]
        if not self.held:
            assert not [actor for actor in self.line if actor.is_overdue]
            for actor in self.line:
                if actor.timeout is not None:
                    actor.due = min(actor.due, self.time.now + actor.timeout)
            self.check()

    def after_step(self):
        if self.eager:
            self.run()

    def give_back(self):
        self.held = False
        self.lock.release()

    def look_for_problems(self):
        for actor in self.actors:
            if actor.problem is not None:
                raise actor.problem

    # -- who is where ------------------------------------------------------------------------------------------

    @property
    def living(self):
        return [actor for actor in self.actors if not actor.task.ready()]

    @property
    def inside(self):
        return [actor for actor in self.actors if actor.inside]

    def waiting(self, operation=None):
        return [actor for actor in self.actors if actor.waits and operation in {None, actor.operation}]

    def having_done(self, operation):
        return [actor for actor in self.actors if actor.outcome == "got" and actor.operation == operation]

    # -- the end -----------------------------------------------------------------------------------------------

    def teardown(self):
        try:
            if self.held:
                self.give_back()
            self.run()
            left = self.waiting()
            for _ in range(5 * MOST_ACTORS):
                for actor in self.inside:
                    actor.go_on()
                if self.waiting():
                    self.free_everybody()
                self.run()
            assert not self.living, "nobody can free them any more"
            assert [actor.outcome for actor in left] == ["got"] * len(left)
            assert not live_tasks()
            assert not self.lock.locked()
            self.check_end()
        finally:
            for actor in self.living:
                actor.kill()
            for _ in range(20):
                sleep(0)


# -- what takes turns --------------------------------------------------------------------------------------------


class LockMachine(Machine):
    def inner_lock(self):
        return self.thing

    def use(self, actor):
        depth = 2 if isinstance(self.thing, sync.RLock) else 1
        if not self.thing.acquire(timeout=-1 if actor.timeout is None else actor.timeout):
            return False
        for _ in range(depth - 1):
            assert self.thing.acquire(blocking=False)
        try:
            actor.got_it()
            actor.stay_inside()
        finally:
            for _ in range(depth):
                self.thing.release()
        return True

    @rule(timeout=seconds, patience=patience)
    def acquire(self, timeout, patience):
        self.start(self.use, timeout, patience)

    @precondition(lambda self: self.eager and self.inside and self.line)
    @rule()
    def the_first_in_line_is_next(self):
        first = self.line[0]
        self.inside[0].go_on()
        self.run()
        assert first.inside

    def grant(self):
        if self.held:
            self.give_back()
        for actor in self.inside:
            actor.go_on()

    @precondition(lambda self: self.eager and self.held and self.line)
    @rule()
    def the_first_in_line_is_beaten_once(self):
        first = self.line[0]
        self.lock.release()
        assert self.lock.acquire(blocking=False)
        self.run()
        assert first.waits
        self.lock.release()  # hands it over
        assert not self.lock.acquire(blocking=False)
        self.held = False
        self.run()
        assert first.inside

    def check(self):
        inside, waiting = self.inside, self.waiting()
        assert len(inside) <= 1
        assert self.thing.locked() == bool(inside)
        assert inside or not waiting
        native = getattr(self.thing, "_block", self.thing)
        assert len(native._waiters) + len(native._heirs) == len(waiting)

    def look_for_problems(self):
        super().look_for_problems()
        assert len(self.inside) + self.held <= 1


class SemaphoreMachine(Machine):
    def __init__(self, time, eager, thing):
        super().__init__(time, eager, thing)
        self.permits = thing._value

    def inner_lock(self):
        return self.thing._cond._lock

    def use(self, actor):
        if not self.thing.acquire(timeout=actor.timeout):
            return False
        try:
            actor.got_it()
            actor.stay_inside()
        finally:
            self.thing.release()
        return True

    @rule(timeout=seconds, patience=patience)
    def acquire(self, timeout, patience):
        self.start(self.use, timeout, patience)

    def grant(self):
        if self.held:
            self.give_back()
        for actor in self.inside:
            actor.go_on()

    @precondition(lambda self: not self.held and self.permits < 3 and type(self.thing) is sync.Semaphore)
    @rule()
    def one_permit_more(self):
        first = self.line[0] if self.line else None
        self.permits += 1
        self.thing.release()
        self.after_step()
        if self.eager and first is not None:
            assert first.inside

    @precondition(lambda self: self.eager and not self.held and self.inside and self.line)
    @rule()
    def the_first_in_line_is_next(self):
        first = self.line[0]
        self.inside[0].go_on()
        self.run()
        assert first.inside

    def check(self):
        assert len(self.inside) + self.thing._value == self.permits
        assert not (self.thing._value and self.waiting())
        assert len(self.thing._cond._waiters) == len(self.waiting())
        assert not self.lock.locked()

    def look_for_problems(self):
        super().look_for_problems()
        assert len(self.inside) <= self.permits

    def free_everybody(self):
        if not self.inside:  # all permits are there, and yet somebody waits
            pytest.fail(f"{self.thing!r} keeps {self.waiting()} waiting")


class ConditionMachine(Machine):
    """Tickets: who finds one takes it, as the documentation of Condition shows."""

    def __init__(self, time, eager, thing):
        super().__init__(time, eager, thing)
        self.tickets = self.given = 0

    def inner_lock(self):
        return self.thing._lock

    def take(self, actor):
        with self.thing:
            if not self.thing.wait_for(lambda: self.tickets, actor.timeout):
                return False
            assert self.thing._is_owned()
            self.tickets -= 1
            actor.got_it()
        return True

    @rule(timeout=seconds, patience=patience)
    def wait(self, timeout, patience):
        self.start(self.take, timeout, patience)

    def give(self, number, notify_all=False):
        with contextlib.nullcontext() if self.held else self.thing:
            self.tickets += number
            self.given += number
            if notify_all:
                self.thing.notify_all()
            else:
                self.thing.notify(number)

    def grant(self):
        self.give(1)

    @precondition(lambda self: self.waiting() and self.tickets < 2)  # else nobody ever has to wait
    @rule(number=st.sampled_from([1, 1, 1, 2]), notify_all=st.sampled_from([False, False, True]))
    def tickets_come(self, number, notify_all):
        first = self.line[:number]
        self.give(number, notify_all)
        self.after_step()
        if self.eager and not self.held and not notify_all:
            assert [actor.outcome for actor in first] == ["got"] * len(first)

    def check(self):
        assert self.tickets + len(self.having_done(self.take)) == self.given
        assert not (self.tickets and self.waiting())
        assert len(self.thing._waiters) == len(self.waiting())
        assert not self.lock.locked()

    def free_everybody(self):
        self.give(1)


# -- queues ------------------------------------------------------------------------------------------------------


class SimpleQueueMachine(Machine):
    def __init__(self, time, eager, thing):
        super().__init__(time, eager, thing)
        self.given = 0
        self.taken = []

    def inner_lock(self):
        return sync.Lock()  # it has none; this one stands for it and is nobody's

    def take(self, actor):
        try:
            item = self.thing.get(timeout=actor.timeout)
        except queue.Empty:
            return False
        self.taken.append(item)
        actor.got_it(item)
        return True

    @rule(timeout=seconds, patience=patience)
    def get(self, timeout, patience):
        self.start(self.take, timeout, patience)

    def grant(self):
        self.thing.put(self.given)
        self.given += 1

    @precondition(lambda self: self.thing.qsize() < 2)  # else nobody ever has to wait
    @rule(number=st.integers(1, 3))
    def put(self, number):
        first = self.line[:number]
        begin = self.given
        for _ in range(number):
            self.grant()
        self.after_step()
        if self.eager:
            assert [actor.item for actor in first] == list(range(begin, begin + len(first)))

    @rule()
    def get_nowait(self):
        with contextlib.suppress(queue.Empty):
            self.taken.append(self.thing.get_nowait())
        self.after_step()

    def check(self):
        assert not (self.thing.qsize() and self.waiting())
        assert len(self.taken) + self.thing.qsize() == self.given
        assert self.taken == list(range(len(self.taken)))
        assert len(self.thing._waiters) == len(self.waiting())

    def free_everybody(self):
        self.grant()


class QueueMachine(Machine):
    def __init__(self, time, eager, thing):
        super().__init__(time, eager, thing)
        self.numbers = itertools.count()
        self.taken = []
        self.finished = 0

    def inner_lock(self):
        return self.thing.mutex

    def take(self, actor):
        try:
            item = self.thing.get(timeout=actor.timeout)
        except queue.Empty:
            return False
        self.taken.append(item)
        actor.got_it(item)
        return True

    def give(self, actor):
        item = next(self.numbers)
        try:
            self.thing.put(item, timeout=actor.timeout)
        except queue.Full:
            return False
        actor.got_it(item)
        return True

    def finish(self, actor):
        self.thing.task_done()
        self.finished += 1
        actor.got_it()
        return True

    def await_all(self, actor):
        self.thing.join()
        actor.got_it()
        return True

    @rule(timeout=seconds, patience=patience)
    def get(self, timeout, patience):
        self.start(self.take, timeout, patience)

    @rule(timeout=seconds, patience=patience)
    def put(self, timeout, patience):
        self.start(self.give, timeout, patience)

    @precondition(lambda self: self.finished + len(self.waiting(self.finish)) < len(self.taken))
    @rule()
    def task_done(self):
        self.start(self.finish)

    @rule(patience=patience)
    def join(self, patience):
        self.start(self.await_all, None, patience)

    @precondition(lambda self: self.eager and not self.held and self.line)
    @rule()
    def the_first_in_line_is_next(self):
        getters, putters = self.waiting(self.take), self.waiting(self.give)
        if getters or putters:
            self.add(self.give if getters else self.take)
            self.run()
            assert [*getters, *putters][0].outcome == "got"

    def check(self):
        things = self.thing
        inside = Counter(things.queue)
        given = Counter(actor.item for actor in self.having_done(self.give))
        assert inside + Counter(self.taken) == given
        assert max(given.values(), default=1) == 1
        assert not (inside and self.waiting(self.take))
        if things.maxsize:
            assert inside.total() <= things.maxsize
            assert inside.total() == things.maxsize or not self.waiting(self.give)
        else:
            assert not self.waiting(self.give)
        assert things.unfinished_tasks == given.total() - self.finished
        assert things.unfinished_tasks or not self.waiting(self.await_all)
        if type(things) is sync.Queue and self.eager:
            assert self.taken == sorted(self.taken)
        for condition, operation in (
            (things.not_empty, self.take),
            (things.not_full, self.give),
            (things.all_tasks_done, self.await_all),
        ):
            assert len(condition._waiters) == len(self.waiting(operation))
        assert not things.mutex.locked()

    def grant(self):
        self.free_everybody()

    def free_everybody(self):
        if self.waiting(self.take):
            self.add(self.give)
        elif self.waiting(self.give):
            self.add(self.take)
        elif self.waiting(self.await_all):
            if self.thing.queue:
                self.add(self.take)
            if self.thing.unfinished_tasks > len(self.waiting(self.finish)):
                self.add(self.finish)


def check(machine, time, eager, make):
    run_state_machine_as_test(lambda: machine(time, eager, make()), settings=SETTINGS)


@either_mode
@pytest.mark.parametrize("make", [sync.Lock, sync.RLock])
def test_locks(time, eager, make):
    check(LockMachine, time, eager, make)


@either_mode
@pytest.mark.parametrize("make", [sync.Semaphore, sync.BoundedSemaphore])
def test_semaphores(time, eager, make):
    check(SemaphoreMachine, time, eager, lambda: make(1))


@either_mode
@pytest.mark.parametrize("make", [sync.Lock, sync.RLock])
def test_conditions(time, eager, make):
    check(ConditionMachine, time, eager, lambda: sync.Condition(make()))


@either_mode
def test_simple_queue(time, eager):
    check(SimpleQueueMachine, time, eager, sync.SimpleQueue)


@either_mode
@pytest.mark.parametrize(
    ("make", "size"), [(sync.Queue, 0), (sync.Queue, 2), (sync.LifoQueue, 1), (sync.PriorityQueue, 2)]
)
def test_queues(time, eager, make, size):
    check(QueueMachine, time, eager, lambda: make(size))
