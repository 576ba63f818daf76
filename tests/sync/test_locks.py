"""Lock and RLock between tasks, threads, and both."""

import itertools
import threading
import time

import pytest

from rimstone.errors import TaskExit
from rimstone.hub import Timeout, close_hub, joinall, sleep, spawn
from rimstone.sync import Lock, NotifyLock, RLock
from rimstone.sync.lock import acquire_shielded

kinds = pytest.mark.parametrize("make", [Lock, RLock, NotifyLock])


def in_thread(function, *args):
    got = []
    thread = threading.Thread(target=lambda: got.append(function(*args)))
    thread.start()
    thread.join()
    return got[0]


@kinds
def test_one_at_a_time(make):
    lock, inside, most = make(), [0], [0]

    def work():
        for _ in range(20):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                sleep(0)
                inside[0] -= 1

    joinall([spawn(work) for _ in range(5)], raise_error=True)
    assert most == [1]
    assert "unlocked" in repr(lock) or "owner=None" in repr(lock)


@kinds
def test_tasks_and_threads_together(make):
    lock, value = make(), [0]

    def work():
        for _ in range(200):
            with lock:
                before = value[0]
                if before % 7 == 0:
                    sleep(0)
                value[0] = before + 1

    def thread():
        joinall([spawn(work) for _ in range(3)], raise_error=True)

    threads = [threading.Thread(target=work) for _ in range(2)] + [threading.Thread(target=thread) for _ in range(2)]
    for one in threads:
        one.start()
    joinall([spawn(work) for _ in range(3)], raise_error=True)
    for one in threads:
        one.join()
    assert value == [200 * (2 + 6 + 3)]


@kinds
def test_waiting_in_vain(make):
    lock = make()
    with lock:
        for attempt in (
            lambda: lock.acquire(False),
            lambda: lock.acquire(blocking=False),
            lambda: lock.acquire(timeout=0.005),
            lambda: lock.acquire(timeout=0),
        ):
            assert spawn(attempt).get() is False
            assert in_thread(attempt) is False
    assert lock.acquire(timeout=5)
    lock.release()
    assert lock.acquire(True, threading.TIMEOUT_MAX)
    lock.release()


@kinds
def test_bad_arguments(make):
    lock = make()
    if make is RLock:
        with lock:
            assert lock.acquire()
            lock.release()
    for arguments in ((False, 1), (True, -2), (True, float("nan"))):
        with lock if make is not RLock else Lock(), pytest.raises(ValueError):
            spawn(lock.acquire, *arguments).get()
    with pytest.raises(RuntimeError):
        lock.release()


def test_lock_may_be_released_by_anybody():
    lock = Lock()
    lock.acquire()
    waiting = spawn(lock.acquire)
    sleep(0)
    assert lock.locked()
    in_thread(lock.release)
    assert waiting.get(timeout=10) is True
    assert lock.locked()


def test_rlock_belongs_to_its_task():
    lock = RLock()

    def owner():
        with lock, lock:
            assert lock._recursion_count() == 2
            sleep(0.01)
            assert lock._is_owned()

    def other():
        assert not lock._is_owned()
        with pytest.raises(RuntimeError, match="un-acquired"):
            lock.release()
        assert not lock.acquire(blocking=False)
        with lock:
            return "taken"

    first = spawn(owner)
    sleep(0)
    assert spawn(other).get() == "taken"
    first.get()


def test_rlock_taken_before_the_first_task():
    close_hub()
    lock = RLock()
    lock.acquire()
    spawn(int).join()
    assert lock._is_owned()
    lock.release()


@kinds
def test_killed_waiter_hands_the_wake_on(make):
    lock = make()
    got = []

    def work(name):
        with lock:
            got.append(name)

    lock.acquire()
    tasks = [spawn(work, name) for name in "abc"]
    sleep(0)
    lock.release()  # wakes a
    tasks[0].kill(block=False)
    joinall(tasks, timeout=10)
    assert got[-2:] == ["b", "c"]
    assert all(task.ready() for task in tasks)
    assert lock.acquire(timeout=1)
    lock.release()


@kinds
def test_waiter_whose_time_is_up_hands_the_wake_on(make):
    lock = make()
    lock.acquire()
    impatient = [spawn(lock.acquire, True, 0.01) for _ in range(3)]
    patient = spawn(lock.acquire)
    sleep(0)
    sleep(0)
    time.sleep(0.02)  # natively: all deadlines pass before the hub looks
    if make is not RLock:
        lock.release()
    else:
        lock.release()
    joinall(impatient)
    winners = [task for task in impatient if task.get()]
    if winners:
        assert len(winners) == 1
        patient.kill()
    else:
        assert patient.get(timeout=10)


def test_condition_parts():
    for lock in (Lock(), RLock()):
        with lock:
            saved = lock._release_save()
            assert not lock._is_owned()
            lock._acquire_restore(saved)
            assert lock._is_owned()


@pytest.mark.parametrize("make", [Lock, RLock])
def test_taking_back_is_shielded_from_kills(make):
    lock = make()
    after = []

    def work():
        lock.acquire()
        saved = lock._release_save()
        sleep(0)
        lock._acquire_restore(saved)
        after.append(lock._is_owned())
        lock.release()
        sleep(100)

    task = spawn(work)
    sleep(0)
    lock.acquire()
    sleep(0)
    sleep(0)
    assert task.state == "parked"
    task.kill(block=False)
    sleep(0.001)
    assert not task.ready()
    lock.release()
    task.join()
    assert after == [True]
    assert isinstance(task.value, TaskExit)


@pytest.mark.parametrize("make", [Lock, RLock])
@pytest.mark.parametrize("order", list(itertools.permutations(["kill", "inner", "outer"])))
@pytest.mark.parametrize("last_with_the_lock", [False, True])
def test_two_timeouts_and_a_kill_while_it_is_taken_back(make, order, last_with_the_lock):
    """In any order, none displaces another, or one that comes together with the lock."""
    lock, seen = make(), []
    inner, outer = Timeout(100), Timeout(100)

    class Kill(Exception):
        pass

    def work():
        lock.acquire()
        saved = lock._release_save()
        sleep(0)
        with outer, inner:
            lock._acquire_restore(saved)
            lock.release()
            for _ in order:
                try:
                    sleep(100)
                except Timeout as error:
                    seen.append("inner" if error is inner else "outer")
                except Kill:
                    seen.append("kill")

    task = spawn(work)
    sleep(0)
    lock.acquire()
    sleep(0)
    sleep(0)
    assert task.state == "parked"
    for number, strike in enumerate(order):
        if number == 2 and last_with_the_lock:
            lock.release()
        if strike == "kill":
            task.kill(Kill, block=False)
        else:
            (inner if strike == "inner" else outer)._strike()
        if lock.locked():
            sleep(0)
    if not last_with_the_lock:
        lock.release()
    task.join(20)
    assert sorted(seen) == ["inner", "kill", "outer"]


def test_after_fork_it_is_free():
    for lock in (Lock(), RLock()):
        lock.acquire()
        lock._at_fork_reinit()
        assert lock.acquire(timeout=1)


@pytest.mark.parametrize("make", [Lock, RLock])
def test_all_that_is_thrown_while_it_is_taken_back_is_raised(make):
    lock = make()
    raised = []

    def work():
        lock.acquire()
        saved = lock._release_save()
        sleep(0)
        lock._acquire_restore(saved)
        lock.release()
        for _ in errors:
            try:
                sleep(0.5)
            except (Timeout, TaskExit, ValueError) as error:
                raised.append(error)

    errors = [ValueError(), TaskExit(), Timeout()]
    task = spawn(work)
    sleep(0)
    lock.acquire()
    sleep(0)
    sleep(0)
    for error in errors:
        task.kill(error, block=False)
        sleep(0.001)
    lock.release()
    task.join()
    assert [id(error) for error in raised] == [id(error) for error in errors]


def test_a_plain_thread_that_is_struck_twice_shows_both():
    errors = [KeyboardInterrupt("first"), KeyboardInterrupt("second")]
    lock = Lock()

    class Struck:
        def acquire(self):
            if left:
                raise left.pop(0)
            return lock.acquire()

    left = list(errors)
    caught = []

    def work():
        try:
            acquire_shielded(Struck())
        except KeyboardInterrupt as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert caught == [errors[1]]
    assert caught[0].__context__ is errors[0]
    assert lock.locked()
