"""Who runs when: sleeping, yielding, and what neither may starve."""

import os
import threading
import time

import pytest

from rimstone.errors import TaskExit
from rimstone.hub import close_hub, current_hub, joinall, sleep, spawn
from rimstone.hub.scheduler import _LONGEST_POLL_SECONDS
from rimstone.iomodel.base import READ


def test_two_sleepers_take_as_long_as_the_longer():
    began = time.monotonic()
    joinall([spawn(sleep, 0.2), spawn(sleep, 0.12)])
    assert 0.2 <= time.monotonic() - began < 0.32


def test_tasks_start_in_the_order_they_were_spawned_when_the_spawner_waits():
    order = []
    for number in range(5):
        spawn(order.append, number)
    assert order == []
    sleep(0)
    assert order == [0, 1, 2, 3, 4]


def test_sleepers_wake_in_the_order_of_their_deadlines():
    order = []

    def nap(seconds):
        sleep(seconds)
        order.append(seconds)

    joinall([spawn(nap, seconds) for seconds in (0.03, 0.01, 0.02)])
    assert order == [0.01, 0.02, 0.03]


def test_sleep_of_nothing_lets_every_ready_task_run_once():
    turns = []

    def take_turns(name):
        for _ in range(3):
            turns.append(name)
            sleep(0)

    joinall([spawn(take_turns, name) for name in "abc"])
    assert turns == list("abcabcabc")


def test_sleep_alone_returns():
    sleep(0)
    sleep(0.001)
    assert sleep(0) is None


def test_yielding_for_ever_starves_neither_timers_nor_io():
    reading, writing = os.pipe()

    def spin():
        while True:
            sleep(0)

    spinners = [spawn(spin) for _ in range(3)]
    joinall([spawn(sleep, 0.01)])
    reader = spawn(current_hub().io.wait, reading, READ)
    sleep(0)
    os.write(writing, b"x")
    assert reader.get(timeout=5)
    for spinner in spinners:
        spinner.kill()
    os.close(reading)
    os.close(writing)


def test_waking_each_other_for_ever_starves_no_timer():
    def ping():
        while True:
            task = spawn(int)
            task.join()

    tasks = [spawn(ping) for _ in range(2)]
    joinall([spawn(sleep, 0.01)])
    for task in tasks:
        task.kill()


@pytest.mark.parametrize("seconds", [-1, -0.001, float("nan")])
def test_sleep_of_less_than_nothing(seconds):
    with pytest.raises(ValueError, match="non-negative"):
        sleep(seconds)


@pytest.mark.parametrize("seconds", [10**7, 10**12, float("inf")])
def test_sleep_longer_than_any_poll(hub, seconds):
    assert seconds > _LONGEST_POLL_SECONDS
    sleeper = spawn(sleep, seconds)
    thread = threading.Thread(target=sleeper.kill)

    def on_idle():  # the hub is about to wait for that long
        hub.on_idle = None
        thread.start()
        return False

    hub.on_idle = on_idle
    assert isinstance(sleeper.get(), TaskExit)
    thread.join()


def test_sleep_without_a_hub_is_the_threads_own():
    close_hub()
    sleep(0)
    assert current_hub() is None
    with pytest.raises(ValueError):
        sleep(-1)


def test_chain_of_tasks_each_spawned_by_the_last():
    depth = []

    def link(left):
        if left:
            spawn(link, left - 1).join()
        else:
            depth.append(left)

    spawn(link, 5000).join()
    assert depth == [0]


def test_tasks_in_several_threads_do_not_meet():
    seen = [[] for _ in range(4)]

    def count(mine, name):
        for _ in range(100):
            mine.append((name, threading.get_ident()))
            sleep(0)

    def thread(mine):
        joinall([spawn(count, mine, name) for name in "ab"])

    threads = [threading.Thread(target=thread, args=(mine,)) for mine in seen]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    for mine in seen:
        assert [name for name, _ in mine] == ["a", "b"] * 100
        assert len({ident for _, ident in mine}) == 1
