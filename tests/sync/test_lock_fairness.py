"""A lock that is held through every wait of a loop goes round; arguments are refused before anything is taken."""

import _thread
import threading

import pytest

from rimstone import clock
from rimstone.hub import get_hub, joinall, sleep, spawn
from rimstone.sync import Lock, NotifyLock, RLock


@pytest.mark.parametrize("kind", [Lock, RLock, NotifyLock])
def test_nobody_starves_while_others_sleep_under_the_lock(kind):
    lock = kind()
    turns = []

    def work(name):
        for _ in range(6):
            with lock:
                turns.append(name)
                sleep(0.001)

    joinall([spawn(work, name) for name in "ABC"], raise_error=True)
    assert len(turns) == 18
    assert set(turns[:9]) == set("ABC")
    assert not lock.locked()


def beaten(lock, *arguments):
    """A task that was woken once for *lock* and found it taken again, by the caller."""
    lock.acquire()
    task = spawn(lock.acquire, *arguments)
    sleep(0)
    lock.release()
    assert lock.acquire(False)
    sleep(0)
    return task


def test_release_hands_over_to_who_was_beaten():
    lock = Lock()
    task = beaten(lock)
    lock.release()
    assert not lock.acquire(False)
    assert task.get() is True
    lock.release()
    with pytest.raises(RuntimeError):
        lock.release()


def test_beaten_waiter_that_is_killed_leaves_the_line():
    lock = Lock()
    task = beaten(lock)
    task.kill()
    lock.release()
    assert lock.acquire(False)


def test_kill_after_the_lock_was_handed_over_does_not_lose_it():
    lock = Lock()

    def work():
        with lock:
            sleep(10)

    lock.acquire()
    task = spawn(work)
    sleep(0)
    lock.release()
    assert lock.acquire(False)
    sleep(0)
    lock.release()
    task.kill()
    assert lock.acquire(False)


def test_beaten_waiter_that_times_out_leaves_the_line():
    lock = Lock()
    task = beaten(lock, True, 0.01)
    assert task.get() is False
    lock.release()
    assert lock.acquire(False)


def test_heirs_among_threads_and_tasks():
    lock = Lock()
    count = [0]

    def work():
        for _ in range(200):
            with lock:
                count[0] += 1
                sleep(0)

    def tasks():
        joinall([spawn(work) for _ in range(3)], raise_error=True)

    threads = [threading.Thread(target=target) for target in (work, work, tasks, tasks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert count[0] == 8 * 200
    assert not lock.locked()


@pytest.mark.parametrize("kind", [Lock, RLock])
@pytest.mark.parametrize("arguments", [(True, -0.5), (False, 5), (True, float("nan"))])
def test_refused_arguments_take_nothing(kind, arguments):
    lock = kind()
    with pytest.raises(ValueError, match="timeout"):
        lock.acquire(*arguments)
    assert lock.acquire(True, 1)
    with pytest.raises(ValueError, match="timeout"):
        lock.acquire(*arguments)
    lock.release()
    assert not lock.locked()


def run_in_raw_thread(function):
    """In a thread that `threading` does not end, so that nobody kills its tasks."""
    hubs = []
    _thread.start_new_thread(lambda: (hubs.append(get_hub()), function()), ())
    limit = clock.monotonic() + 20
    while not (hubs and hubs[0].closed) and clock.monotonic() < limit:
        sleep(0.001)


def test_wake_passes_over_a_task_whose_thread_has_ended():
    lock = Lock()
    lock.acquire()
    doomed = []

    def leave():
        doomed.append(spawn(lock.acquire))
        sleep(0)

    run_in_raw_thread(leave)
    got = []
    waiting = threading.Thread(target=lambda: got.append(lock.acquire(True, 20)))
    waiting.start()
    limit = clock.monotonic() + 20
    while len(lock._waiters) < 2 and clock.monotonic() < limit:
        sleep(0.001)
    lock.release()
    waiting.join()
    assert got == [True]
    assert doomed[0].ready()


def test_notify_is_refused_by_a_waiter_whose_thread_has_ended():
    lock = NotifyLock()
    lock.acquire()

    def leave():
        spawn(lock.acquire)
        sleep(0)

    run_in_raw_thread(leave)
    with pytest.raises(RuntimeError, match="ended"):
        lock.release()
