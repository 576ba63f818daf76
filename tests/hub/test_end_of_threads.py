"""A thread that ends kills its parked tasks first, and takes its hub with it."""

import gc
import os
import threading
import weakref

from rimstone.hub import current_hub, get_hub, sleep, spawn, waiter


def run_in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def test_tasks_of_an_ending_thread_run_their_finally_blocks():
    ended = []

    def wait(number):
        try:
            waiter().park()
        finally:
            ended.append((number, threading.get_ident()))

    def work():
        for number in range(3):
            spawn(wait, number)
        spawn(ended.append, ("never started", threading.get_ident()))
        ended.append(threading.get_ident())

    run_in_thread(work)
    ident = ended.pop(0)
    assert sorted(number for number, _ in ended) == []  # none had started

    def work_on():
        tasks = [spawn(wait, number) for number in range(3)]
        sleep(0)
        ended.append(threading.get_ident())
        return tasks

    run_in_thread(work_on)
    ident = ended.pop(0)
    assert sorted(ended) == [(0, ident), (1, ident), (2, ident)]


def test_thread_that_fails_ends_its_tasks_as_well(monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    ended = []

    def wait():
        try:
            waiter().park()
        finally:
            ended.append(True)

    def work():
        spawn(wait)
        sleep(0)
        raise ValueError

    run_in_thread(work)
    assert ended == [True]


def test_hub_of_an_ended_thread_is_garbage():
    hubs = []

    def work():
        spawn(sleep, 0.001).join()
        hubs.append(weakref.ref(get_hub()))

    run_in_thread(work)
    gc.collect()
    assert hubs[0]() is None


def test_thread_without_tasks_stays_as_it_is():
    before = len(os.listdir("/proc/self/fd"))
    seen = []
    run_in_thread(lambda: seen.append(current_hub()))
    assert seen == [None]
    assert len(os.listdir("/proc/self/fd")) == before
