"""SimpleQueue between tasks, threads, and both."""

import queue
import threading
import time

import pytest

from rimstone.hub import joinall, sleep, spawn
from rimstone.sync import SimpleQueue


def test_first_in_first_out():
    things = SimpleQueue()
    for number in range(3):
        things.put(number)
    assert things.qsize() == 3
    assert not things.empty()
    assert [things.get(), things.get_nowait(), things.get(block=False)] == [0, 1, 2]
    assert things.empty()
    with pytest.raises(queue.Empty):
        things.get_nowait()
    with pytest.raises(queue.Empty):
        things.get(timeout=0.001)
    with pytest.raises(queue.Empty):
        things.get(timeout=0)
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match="non-negative"):
            things.get(timeout=wrong)
    things.put(1, False, None)
    things.put_nowait(2)
    assert "2 items" in repr(things)
    assert SimpleQueue[int]


def test_getters_are_served_in_order():
    things = SimpleQueue()
    tasks = [spawn(things.get) for _ in range(5)]
    sleep(0)
    for number in range(5):
        things.put(number)
    joinall(tasks)
    assert [task.value for task in tasks] == list(range(5))


def test_tasks_and_threads_together():
    things, got = SimpleQueue(), SimpleQueue()

    def take():
        while (item := things.get()) is not None:
            got.put(item)

    def give(numbers):
        for number in numbers:
            things.put(number)
            if number % 10 == 0:
                sleep(0)

    def thread():
        joinall([spawn(take) for _ in range(3)], raise_error=True)

    threads = [threading.Thread(target=take) for _ in range(2)] + [threading.Thread(target=thread)]
    for one in threads:
        one.start()
    takers = [spawn(take) for _ in range(3)]
    joinall([spawn(give, range(start, 3000, 3)) for start in range(3)], raise_error=True)
    assert sorted(got.get(timeout=20) for _ in range(3000)) == list(range(3000))
    for _ in range(8):
        things.put(None)
    joinall(takers, raise_error=True)
    for one in threads:
        one.join()


@pytest.mark.parametrize("first", ["put", "kill"])
def test_item_is_not_lost_with_a_killed_getter(first):
    things = SimpleQueue()
    got = []

    def take(name):
        got.append((name, things.get()))
        sleep(100)

    tasks = [spawn(take, name) for name in "ab"]
    sleep(0)
    if first == "put":
        things.put(1)
        tasks[0].kill(block=False)
    else:
        tasks[0].kill(block=False)
        things.put(1)
    sleep(0.001)
    assert [item for _, item in got] == [1]
    for task in tasks:
        task.kill()


def test_item_is_not_lost_with_a_getter_whose_time_is_up():
    for _ in range(10):
        things = SimpleQueue()
        got = []

        def take(things=things, got=got):
            try:
                got.append(things.get(timeout=0.002))
            except queue.Empty:
                got.append(None)

        tasks = [spawn(take) for _ in range(3)]
        sleep(0)
        time.sleep(0.005)  # natively: all deadlines pass before the hub looks
        things.put(1)
        joinall(tasks)
        assert got.count(1) + things.qsize() == 1
