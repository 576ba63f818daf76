"""Hub.on_idle, where workers take their next call: only when every task waits and no event is there."""

import os

from rimstone.hub import sleep, spawn
from rimstone.iomodel.base import READ


def test_asked_only_when_every_task_waits(hub):
    asked = []

    def on_idle():
        asked.append({task.state for task in hub.tasks})
        assert hub.polling
        return False

    def busy():
        for _ in range(5):
            sleep(0)
        sleep(0.001)

    tasks = [spawn(busy) for _ in range(3)]
    hub.on_idle = on_idle
    for task in tasks:
        task.join()
    assert asked
    assert all(states == {"parked"} for states in asked)


def test_not_asked_while_an_event_is_there(hub):
    reading, writing = os.pipe()
    reader = spawn(hub.io.wait, reading, READ)
    sleep(0)
    os.write(writing, b"x")
    asked = []
    hub.on_idle = lambda: asked.append(reader.state) or False
    reader.join()
    assert asked == []
    os.close(reading)
    os.close(writing)


def test_hook_that_always_has_something_starves_neither_timers_nor_io(hub):
    reading, writing = os.pipe()
    reader = spawn(hub.io.wait, reading, READ)
    sleep(0)

    def on_idle():
        spawn(int)
        return True

    hub.on_idle = on_idle
    sleep(0.01)
    os.write(writing, b"x")
    assert reader.get(timeout=10)
    hub.on_idle = None
    os.close(reading)
    os.close(writing)


def test_what_the_hook_starts_runs(hub):
    left = [1, 2, 3]
    done = []

    def on_idle():
        if not left:
            return False
        spawn(done.append, left.pop())
        return True

    hub.on_idle = on_idle
    sleep(0.01)
    assert done == [3, 2, 1]


def test_news_that_comes_while_the_hook_looks_is_not_slept_over(hub):
    sleeper = spawn(hub.park)
    sleep(0)

    def on_idle():
        hub.on_idle = None
        hub.run_soon(hub.make_ready, sleeper, 1)
        return False

    hub.on_idle = on_idle
    assert sleeper.get(timeout=20) == 1
