"""rimstone.sync's Condition, Event, Semaphore, Barrier and queues, in tasks and threads, where nothing is patched."""

import builtins
import copy
import dis
import pickle
import queue
import sys
import threading
from types import CodeType, FunctionType, ModuleType

import pytest

from rimstone import sync
from rimstone.errors import TaskExit
from rimstone.hub import Timeout, joinall, sleep, spawn
from rimstone.sync import standard

LONG = 20  # seconds that nothing here needs: a test that is broken ends all the same
SHORT = 0.005
CLASSES = ["Condition", "Event", "Semaphore", "BoundedSemaphore", "Barrier", "Queue", "LifoQueue", "PriorityQueue"]
QUEUES = ["Queue", "LifoQueue", "PriorityQueue"]

has_shutdown = pytest.mark.skipif(sys.version_info < (3, 13), reason="queues can be shut down from Python 3.13 on")


class Party:
    """Runs functions side by side: as tasks of this hub, tasks of another thread's hub, or plain threads."""

    def __init__(self, kind):
        self.kind = kind
        self.threads = []
        self.tasks = []
        self.results = queue.SimpleQueue()

    def run(self, function, *args):
        def record():
            try:
                self.results.put((None, function(*args)))
            except BaseException as error:
                self.results.put((error, None))

        if self.kind == "tasks":
            self.tasks.append(spawn(record))
            return
        body = record if self.kind == "threads" else lambda: joinall([spawn(record)])
        thread = threading.Thread(target=body)
        self.threads.append(thread)
        thread.start()

    def join(self):
        """What the functions returned, in the order of their ends; raises what one of them raised."""
        done = joinall(self.tasks, timeout=LONG)
        assert len(done) == len(self.tasks), self.tasks
        for thread in self.threads:
            thread.join(LONG)
            assert not thread.is_alive()
        found = []
        while not self.results.empty():
            error, value = self.results.get()
            if error is not None:
                raise error
            found.append(value)
        return found


@pytest.fixture(params=["tasks", "tasks of other threads", "threads"])
def party(request):
    made = Party(request.param)
    yield made
    for task in made.tasks:
        task.kill()


def wait_until(true):
    """Let other tasks and threads run until `true()`; what they do is never more than some calls away."""
    with Timeout(LONG):
        while not true():
            sleep(0.0005)


def waiting_in(condition):
    return len(condition._waiters)


# -- between tasks, tasks of other threads, and threads ---------------------------------------------------------


def test_event(party):
    event = sync.Event()
    assert not event.is_set()
    for _ in range(4):
        party.run(event.wait, LONG)
    wait_until(lambda: waiting_in(event._cond) == 4)
    event.set()
    assert party.join() == [True] * 4
    assert event.wait()
    event.clear()
    party.run(event.wait, SHORT)
    party.run(event.wait, 0)
    assert party.join() == [False, False]


def test_condition(party):
    condition, order = sync.Condition(), []

    def take_turn(number):
        with condition:
            assert condition.wait_for(lambda: len(order) == number, timeout=LONG)
            order.append(number)
            condition.notify_all()

    for number in (3, 1, 2, 0):
        party.run(take_turn, number)
    party.join()
    assert order == [0, 1, 2, 3]

    def give_up():
        with condition:
            return condition.wait(SHORT), condition.wait_for(lambda: False, SHORT), condition._is_owned()

    party.run(give_up)
    assert party.join() == [(False, False, True)]
    with pytest.raises(RuntimeError, match="un-acquired"):
        condition.notify()
    with pytest.raises(RuntimeError, match="un-acquired"):
        condition.wait()


@pytest.mark.parametrize("make", [sync.Lock, sync.RLock])
def test_condition_of_a_given_lock(party, make):
    lock = make()
    condition = sync.Condition(lock)

    def wait():
        with lock:
            return condition.wait(LONG)

    party.run(wait)
    wait_until(lambda: waiting_in(condition) == 1)
    with lock:
        condition.notify()
    assert party.join() == [True]
    assert not lock.locked()


def test_condition_gives_back_every_level_of_its_rlock(party):
    condition = sync.Condition()

    def wait():
        with condition, condition:
            condition.wait(LONG)
            return condition._lock._recursion_count()

    party.run(wait)
    wait_until(lambda: waiting_in(condition) == 1)
    with condition:
        condition.notify()
    assert party.join() == [2]


@pytest.mark.parametrize("make", [sync.Semaphore, sync.BoundedSemaphore])
def test_semaphore(party, make):
    semaphore, inside = make(2), []
    most = sync.SimpleQueue()

    def enter(number):
        for _ in range(5):
            with semaphore:
                inside.append(number)
                most.put(len(inside))
                sleep(0)
                inside.remove(number)

    for number in range(6):
        party.run(enter, number)
    party.join()
    assert max(most.get() for _ in range(30)) <= 2
    with semaphore, semaphore:
        party.run(semaphore.acquire, True, SHORT)
        party.run(semaphore.acquire, False)
        assert party.join() == [False, False]
    if make is sync.BoundedSemaphore:
        with pytest.raises(ValueError, match="too many times"):
            semaphore.release()


def test_barrier(party):
    calls = []
    barrier = sync.Barrier(4, action=lambda: calls.append(1))

    def meet():
        return barrier.wait(LONG), barrier.wait(LONG)

    for _ in range(4):
        party.run(meet)
    places = party.join()
    assert sorted(first for first, _ in places) == sorted(second for _, second in places) == [0, 1, 2, 3]
    assert len(calls) == 2
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (4, 0, False)


def test_barrier_breaks(party):
    barrier = sync.Barrier(3)

    def meet(timeout):
        with pytest.raises(sync.BrokenBarrierError):
            barrier.wait(timeout)
        return "broken"

    party.run(meet, LONG)
    wait_until(lambda: barrier.n_waiting == 1)
    party.run(meet, SHORT)
    assert party.join() == ["broken", "broken"]
    assert barrier.broken
    barrier.reset()
    assert not barrier.broken
    party.run(meet, LONG)
    wait_until(lambda: barrier.n_waiting == 1)
    barrier.abort()
    assert party.join() == ["broken"]


@pytest.mark.parametrize("name", QUEUES)
def test_queues(party, name):
    things, taken = getattr(sync, name)(maxsize=2), sync.SimpleQueue()

    def take():
        while (item := things.get(timeout=LONG)) < 100:
            taken.put(item)
            things.task_done()
        things.task_done()

    def give(numbers):
        for number in numbers:
            things.put(number, timeout=LONG)

    for _ in range(3):
        party.run(take)
    givers = Party(party.kind)
    for start in range(2):
        givers.run(give, range(start, 20, 2))
    givers.join()
    things.join()
    for _ in range(3):
        things.put(100)
    party.join()
    things.join()
    assert sorted(taken.get(timeout=0) for _ in range(20)) == list(range(20))
    assert things.empty()
    party.run(things.get, True, SHORT)
    with pytest.raises(sync.Empty):
        party.join()
    things.put_nowait(1)
    things.put_nowait(2)
    assert things.full()
    party.run(things.put, 3, True, SHORT)
    with pytest.raises(sync.Full):
        party.join()
    with pytest.raises(queue.Full):
        things.put_nowait(3)


def test_orders_of_queues():
    for name, order in (("Queue", [2, 3, 1]), ("LifoQueue", [1, 3, 2]), ("PriorityQueue", [1, 2, 3])):
        things = getattr(sync, name)()
        for number in (2, 3, 1):
            things.put(number)
        assert [things.get_nowait() for _ in range(3)] == order
        with pytest.raises(queue.Empty):
            things.get_nowait()


@has_shutdown
@pytest.mark.parametrize("name", QUEUES)
@pytest.mark.parametrize("immediate", [False, True])
def test_queue_shutdown_wakes_everybody(party, name, immediate):
    def refused(method, *args):
        with pytest.raises(sync.ShutDown):
            method(*args)
        return "refused"

    empty, full = getattr(sync, name)(), getattr(sync, name)(maxsize=1)
    full.put(1)
    for _ in range(2):
        party.run(refused, empty.get)
        party.run(refused, full.put, 2)
    party.run(full.join)
    conditions = (empty.not_empty, full.not_full, full.all_tasks_done)
    wait_until(lambda: [waiting_in(condition) for condition in conditions] == [2, 2, 1])
    empty.shutdown(immediate)
    full.shutdown(immediate)
    if not immediate:
        assert full.get() == 1  # what is in it can still be taken
        full.task_done()
    assert sorted(party.join(), key=str) == [None, *["refused"] * 4]
    for refuse in (empty.get, empty.get_nowait, full.get):
        with pytest.raises(queue.ShutDown):
            refuse()


# -- nobody blocks the thread ------------------------------------------------------------------------------------


def broken_barrier():
    with pytest.raises(sync.BrokenBarrierError):
        sync.Barrier(2).wait(SHORT)


def condition_in_vain():
    condition = sync.Condition()
    with condition:
        assert not condition.wait(SHORT)


def join_of_a_queue():
    things = sync.Queue()
    things.put(1)
    with Timeout(SHORT, False):
        things.join()
        pytest.fail("nobody called task_done")


def full_queue():
    things = sync.Queue(1)
    things.put(1)
    with pytest.raises(sync.Full):
        things.put(2, timeout=SHORT)


def empty_queue():
    with pytest.raises(sync.Empty):
        sync.PriorityQueue().get(timeout=SHORT)


def taken_semaphore():
    assert not sync.Semaphore(0).acquire(timeout=SHORT)


def unset_event():
    assert not sync.Event().wait(SHORT)


@pytest.mark.parametrize(
    "wait",
    [
        broken_barrier,
        condition_in_vain,
        empty_queue,
        full_queue,
        join_of_a_queue,
        taken_semaphore,
        unset_event,
    ],
)
def test_a_sibling_runs_while_one_waits(wait):
    turns = []

    def work():
        while True:
            turns.append(1)
            sleep(0)

    sibling = spawn(work)
    sleep(0)
    before = len(turns)
    spawn(wait).get(timeout=LONG)
    sibling.kill()
    assert len(turns) > before + 2


def test_a_contended_mutex_parks_too():
    things = sync.Queue()
    with things.mutex:
        tasks = [spawn(things.put, 1), spawn(things.qsize), spawn(things.empty)]
        sleep(0)
        sleep(0)
        seen = [task.state for task in tasks]
    joinall(tasks, timeout=LONG, raise_error=True)
    assert seen == ["parked"] * 3
    assert things.get_nowait() == 1


# -- kills and timeouts ------------------------------------------------------------------------------------------

WHEN = ["after the notify", "before the notify", "while it takes the lock back"]


class Struck:
    """A task in the midst of `function()`; can be killed, or struck by a Timeout at a chosen moment."""

    def __init__(self, function):
        self.got = []
        self.ended = None
        self._function = function
        self._timeout = Timeout(LONG)
        self.task = spawn(self._run)

    def _run(self):
        try:
            with self._timeout:
                self.got.append(self._function())
                sleep(LONG)
        except Timeout as error:
            self.ended = "timeout" if error is self._timeout else repr(error)
        except TaskExit:
            self.ended = "kill"
            raise

    def end(self, how):
        if how == "kill":
            self.task.kill(block=False)
        else:
            self._timeout._strike()  # its time is up at exactly this moment


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("how", ["kill", "timeout"])
@pytest.mark.parametrize("kind", ["Condition", "Semaphore", *QUEUES])
def test_the_notified_one_of_two_goes_and_nothing_is_lost(kind, how, when):
    if kind == "Condition":
        condition, things = sync.Condition(), []

        def take():
            with condition:
                while not things:
                    condition.wait()
                return things.pop()

        def give():  # with the lock held
            things.append(1)
            condition.notify()

        lock = condition
    elif kind == "Semaphore":
        semaphore = sync.Semaphore(0)
        take, lock = semaphore.acquire, semaphore._cond

        def give():
            semaphore._value += 1
            semaphore._cond.notify()
    else:
        made = getattr(sync, kind)()
        take, lock = made.get, made.mutex

        def give():
            made._put(1)
            made.not_empty.notify()

    first, second = Struck(take), Struck(take)
    sleep(0)
    sleep(0)
    if when == "after the notify":
        with lock:
            give()
        first.end(how)
    elif when == "before the notify":
        first.end(how)
        with lock:
            give()
    else:
        with lock:
            first.end(how)
            sleep(0.001)  # it is out of its wait, and now waits for the lock
            assert first.task.state == "parked"
            give()
    wait_until(first.task.ready)
    wait_until(lambda: first.got or second.got)
    assert first.ended == how
    assert len(first.got) + len(second.got) == 1
    second.task.kill()
    assert lock.acquire(timeout=1)
    lock.release()


@pytest.mark.parametrize("how", ["kill", "timeout"])
@pytest.mark.parametrize("kind", QUEUES)
def test_a_putter_that_goes_leaves_its_room_to_the_next(kind, how):
    things = getattr(sync, kind)(maxsize=1)
    things.put(0)
    first, second = Struck(lambda: things.put(1)), Struck(lambda: things.put(2))
    sleep(0)
    sleep(0)
    assert things.get() == 0  # notifies the first
    first.end(how)
    wait_until(first.task.ready)
    found = [things.get(timeout=LONG)]
    if first.got:
        found.append(things.get(timeout=LONG))
        assert found == [1, 2]
    else:
        assert found == [2]
    second.task.kill()


@pytest.mark.parametrize("how", ["kill", "timeout"])
@pytest.mark.parametrize("make", [sync.Semaphore, sync.BoundedSemaphore])
def test_a_strike_while_the_permit_is_given_back_loses_it_not(make, how):
    semaphore, gate = make(1), sync.Event()

    def work():
        with semaphore:
            gate.wait()

    first = Struck(work)
    sleep(0)
    semaphore._cond.acquire()  # as another thread does for a moment, whenever it takes or gives
    gate.set()
    sleep(0)
    sleep(0)
    assert first.task.state == "parked"
    first.end(how)
    sleep(0.001)
    semaphore._cond.release()
    wait_until(first.task.ready)
    assert first.ended == how
    assert semaphore.acquire(blocking=False)


def test_a_killed_party_breaks_no_lock_of_the_barrier():
    barrier = sync.Barrier(3)
    first = Struck(barrier.wait)
    sleep(0)
    assert barrier.n_waiting == 1
    first.end("kill")
    wait_until(first.task.ready)
    assert barrier.n_waiting == 0
    tasks = [spawn(barrier.wait, LONG) for _ in range(3)]
    assert sorted(task.get(timeout=LONG) for task in tasks) == [0, 1, 2]


def test_getters_that_end_with_their_thread_take_no_item():
    things = sync.Queue()

    def leave_getters_behind():
        for _ in range(2):
            spawn(things.get)
        sleep(0)

    thread = threading.Thread(target=leave_getters_behind)
    thread.start()
    thread.join()
    getter = spawn(things.get)
    sleep(0)
    assert waiting_in(things.not_empty) == 1
    things.put(7)
    assert getter.get(timeout=LONG) == 7


# -- they are the standard library's -----------------------------------------------------------------------------


def original(name):
    return getattr(queue if hasattr(queue, name) else threading, name)


@pytest.mark.parametrize("name", CLASSES)
def test_class_and_members_are_those_of_the_standard_library(name):
    ours, theirs = getattr(sync, name), original(name)
    assert issubclass(ours, theirs)
    assert ours is not theirs
    assert ours.__doc__ == theirs.__doc__
    assert (ours.__module__, ours.__qualname__) == ("rimstone.sync", name)
    for member in set(vars(theirs)) - {"__dict__", "__weakref__", "__module__", "__firstlineno__"}:
        mine, its = getattr(ours, member), getattr(theirs, member)
        if isinstance(its, FunctionType):
            assert mine.__code__ is its.__code__
            assert (mine.__defaults__, mine.__kwdefaults__) == (its.__defaults__, its.__kwdefaults__)
            assert (mine.__name__, mine.__qualname__, mine.__doc__) == (its.__name__, its.__qualname__, its.__doc__)
    assert pickle.loads(pickle.dumps(ours)) is ours
    assert copy.deepcopy(ours) is ours


def names_used(code: CodeType) -> set[str]:
    """The global names of a function and of those inside it."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname in {"LOAD_GLOBAL", "LOAD_NAME"}}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= names_used(constant)
    return names


MAKES_NO_LOCK = {"BrokenBarrierError", "Empty", "Full", "ShutDown", "_deque", "_time", "deque", "time", "warnings"}
MAKES_NO_LOCK |= {"heappush", "heappop"}


def test_every_lock_that_their_functions_make_is_ours():
    """Fails on a Python whose classes reach their locks by a name that `standard.py` does not know of."""
    builtin = set(dir(builtins))
    for name in CLASSES:
        ours = getattr(sync, name)
        for member, function in vars(ours).items():
            if isinstance(function, FunctionType):
                for used in names_used(function.__code__) - builtin - MAKES_NO_LOCK:
                    found = function.__globals__[used]
                    ours_too = found is standard._threading or found.__module__.startswith("rimstone.sync")
                    assert ours_too, (name, member, used)
        for member, thing in vars(original(name)).items():
            if isinstance(thing, property):
                assert not names_used(thing.fget.__code__) - builtin - MAKES_NO_LOCK, (name, member)
    assert "_allocate_lock" in names_used(sync.Condition.wait.__code__)
    assert "_allocate_lock" in names_used(threading.Condition.wait.__code__)
    assert threading.Condition.wait.__globals__["_allocate_lock"] is not sync.NotifyLock


@pytest.mark.parametrize("name", CLASSES)
def test_instances(name):
    ours, theirs = getattr(sync, name), original(name)
    arguments = (2,) if name == "Barrier" else ()
    made, model = ours(*arguments), theirs(*arguments)
    assert isinstance(made, theirs)
    if name == "Condition":
        assert repr(made) == f"<Condition({made._lock!r}, 0)>"
    else:
        mine, its = repr(made).partition(" at ")[0], repr(model).partition(" at ")[0]
        assert mine == its.replace(f"{theirs.__module__}.", "rimstone.sync.")
    assert set(vars(made)) >= set(vars(model))
    for thing in (made, model):
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(thing)


@pytest.mark.parametrize("name", QUEUES)
def test_subscription(name):
    alias = getattr(sync, name)[int]
    assert alias.__origin__ is getattr(sync, name)
    assert repr(alias) == f"rimstone.sync.{name}[int]"
    assert isinstance(alias(), getattr(sync, name))


def test_subclasses_of_a_queue():
    class Reversed(sync.Queue):
        def _put(self, item):
            self.queue.appendleft(item)

    things = Reversed(3)
    for number in range(3):
        things.put(number)
    assert [things.get() for _ in range(3)] == [2, 1, 0]
    assert issubclass(sync.BoundedSemaphore, sync.Semaphore)
    assert issubclass(sync.PriorityQueue, sync.Queue)
    assert issubclass(sync.LifoQueue, sync.Queue)


def test_errors_are_the_very_ones():
    assert sync.Empty is queue.Empty
    assert sync.Full is queue.Full
    assert sync.BrokenBarrierError is threading.BrokenBarrierError
    with pytest.raises(ValueError, match="non-negative"):
        sync.Queue().get(timeout=-1)
    with pytest.raises(ValueError, match="non-blocking"):
        sync.Semaphore().acquire(blocking=False, timeout=1)
    with pytest.raises(AttributeError, match="NoSuchName"):
        sync.NoSuchName  # noqa: B018 - looking it up is the test


def test_a_python_without_one_of_the_names_is_refused():
    module = ModuleType("threading")
    module.Lock = threading.Lock
    with pytest.raises(ImportError, match=r"'threading' of this Python.* has no Event, _allocate_lock"):
        standard._rebind(module, ["Event"], {"Lock": sync.Lock, "_allocate_lock": sync.NotifyLock})


def test_nothing_is_patched():
    assert threading.Lock is not sync.Lock
    assert threading.Condition().__class__ is threading.Condition
    assert type(queue.Queue().mutex) is type(threading.Lock())
