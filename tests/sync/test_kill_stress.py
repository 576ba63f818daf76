"""Kills, timeouts, tasks and threads at random, from fixed seeds: no wake and no item is lost."""

import queue
import random
import threading

import pytest

from rimstone import clock
from rimstone.hub import joinall, sleep, spawn
from rimstone.sync import Lock, RLock, SimpleQueue

seeds = pytest.mark.parametrize("seed", range(8))


@seeds
@pytest.mark.parametrize("make", [Lock, RLock])
def test_lock(make, seed):
    chance = random.Random(seed)
    lock, inside, rounds = make(), [0], [0]

    def work():
        while True:
            if lock.acquire(timeout=chance.choice([-1, -1, 0, 0.0005])):
                try:
                    inside[0] += 1
                    assert inside[0] == 1
                    rounds[0] += 1
                    if chance.random() < 0.7:
                        sleep(chance.choice([0, 0, 0.0002]))
                finally:
                    inside[0] -= 1
                    lock.release()
            sleep(0)

    tasks = [spawn(work) for _ in range(8)]
    for _ in range(200):
        victim = chance.randrange(len(tasks))
        tasks[victim].kill(block=chance.random() < 0.3)
        tasks[victim] = spawn(work)
        sleep(chance.choice([0, 0, 0, 0.0003]))
    before = rounds[0]
    patience = clock.monotonic() + 20
    while rounds[0] == before and clock.monotonic() < patience:
        sleep(0)
    assert rounds[0] > before, "it has come to a standstill"
    for task in tasks:
        task.kill()
    assert all(task.successful() for task in tasks)
    assert lock.acquire(blocking=False)


@seeds
def test_lock_with_threads(seed):
    chance = random.Random(seed)
    lock, value, stop = Lock(), [0, 0], []

    def once():
        with lock:
            value[0] += 1
            if chance.random() < 0.1:
                sleep(0)
            value[1] += 1

    def thread():
        while not stop:
            once()

    def task():
        while True:
            once()
            sleep(0)

    threads = [threading.Thread(target=thread) for _ in range(2)]
    for one in threads:
        one.start()
    tasks = [spawn(task) for _ in range(4)]
    for _ in range(60):
        victim = chance.randrange(len(tasks))
        tasks[victim].kill(block=False)
        tasks[victim] = spawn(task)
        sleep(0.0002)
    stop.append(1)
    for one in tasks:
        one.kill()
    for one in threads:
        one.join()
    assert lock.acquire(timeout=5)


@seeds
def test_queue(seed):
    """Every item is taken by one getter, or is still there; and no getter sleeps over one."""
    chance = random.Random(seed)
    things, taken = SimpleQueue(), []

    def take():
        while True:
            try:
                item = things.get(timeout=chance.choice([None, None, 0, 0.0003]))
            except queue.Empty:
                sleep(0)
            else:
                taken.append(item)  # no wait between get and here: a kill cannot come in between

    tasks = [spawn(take) for _ in range(6)]
    sent = 0
    for _ in range(300):
        for _ in range(chance.randrange(3)):
            things.put(sent)
            sent += 1
        if chance.random() < 0.5:
            victim = chance.randrange(len(tasks))
            tasks[victim].kill(block=chance.random() < 0.3)
            tasks[victim] = spawn(take)
        if chance.random() < 0.5:
            sleep(0)
    for _ in range(20):
        sleep(0.0005)
    assert sorted(taken) == list(range(sent))
    assert things.empty()
    for task in tasks:
        task.kill()


@seeds
def test_queue_with_threads(seed):
    chance = random.Random(seed)
    things, taken = SimpleQueue(), SimpleQueue()

    def take():
        while (item := things.get()) is not None:
            taken.put(item)

    def give(numbers):
        for number in numbers:
            things.put(number)

    threads = [threading.Thread(target=take) for _ in range(2)]
    threads += [threading.Thread(target=give, args=(range(start, 400, 2),)) for start in range(2)]
    for one in threads:
        one.start()
    tasks = [spawn(take) for _ in range(4)]
    for _ in range(40):
        victim = chance.randrange(len(tasks))
        tasks[victim].kill(block=False)
        tasks[victim] = spawn(take)
        sleep(0.0002)
    assert sorted(taken.get(timeout=20) for _ in range(400)) == list(range(400))
    for _ in range(6):
        things.put(None)
    joinall(tasks)
    for one in threads:
        one.join()
