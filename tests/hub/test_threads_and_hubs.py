"""A hub belongs to its thread, ends with it, and is told of things by others."""

import gc
import os
import threading

import pytest

from rimstone.hub import close_hub, current_hub, get_hub, joinall, live_tasks, sleep, spawn, waiter


def open_descriptors():
    return set(os.listdir("/proc/self/fd"))


def run_in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_thread_end_closes_the_hubs_descriptors():
    if get_hub().io.name == "nonblocking":
        pytest.skip("a hub of the nonblocking model has no descriptors of its own")
    before = open_descriptors()
    during = []

    def work():
        spawn(sleep, 100)
        sleep(0.001)
        during.append(open_descriptors() - before)

    for _ in range(5):
        run_in_thread(work)
    gc.collect()
    assert all(during)
    assert open_descriptors() == before


def test_tasks_of_a_thread_that_ended_never_run_elsewhere():
    ran = []

    def work():
        def task():
            try:
                sleep(100)
            finally:
                ran.append(threading.get_ident())

        spawn(task)
        sleep(0.001)

    run_in_thread(work)
    gc.collect()
    sleep(0.001)
    assert threading.get_ident() not in ran


def test_hub_may_be_closed_and_made_anew():
    first = get_hub()
    assert spawn(lambda: 1).get() == 1
    close_hub()
    assert current_hub() is None
    assert live_tasks() == []
    assert spawn(lambda: 2).get() == 2
    assert get_hub() is not first


def test_unpark_from_many_threads():
    def wait():
        for _ in range(50):
            mine = waiter()
            wishes.append(mine)
            assert mine.park()

    wishes = []
    stop = []

    def grant():
        while not stop:
            try:
                wishes.pop().unpark()
            except IndexError:
                os.sched_yield()

    tasks = [spawn(wait) for _ in range(20)]
    threads = [threading.Thread(target=grant) for _ in range(3)]
    for thread in threads:
        thread.start()
    joinall(tasks, raise_error=True)
    stop.append(1)
    for thread in threads:
        thread.join()


def test_unpark_after_the_hub_has_gone():
    kept = []

    def work():
        kept.append(spawn(lambda: kept.append(waiter())))
        sleep(0)

    run_in_thread(work)
    kept[1].unpark()
    kept[1].unpark()


def test_waiter_of_a_plain_thread():
    close_hub()
    mine = waiter()
    assert not mine.park(0)
    thread = threading.Thread(target=mine.unpark)
    thread.start()
    assert mine.park()
    thread.join()
    mine.unpark()
    mine.unpark()
    mine.cancel()


def test_import_of_the_package_makes_no_hub():
    close_hub()
    assert live_tasks() == []
    assert current_hub() is None
