"""Timers: a model of the heap with tombstones, driven by hypothesis."""

import gc
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rimstone._core import core
from rimstone.hub import Timeout, sleep, spawn
from rimstone.hub import timers as module
from rimstone.hub.taskcore import TaskCore
from rimstone.hub.timers import NEVER, Timers
from rimstone.sync import SimpleQueue


class Parkable(TaskCore):
    """A task as the timers see it."""

    def __init__(self):
        super().__init__(None, None, (), {})

    def park(self, timers, deadline):
        self.deadline = deadline
        if deadline < self.timer:
            timers.add(self)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("park"), st.integers(0, 9), st.integers(0, 20)),
        st.tuples(st.just("wake"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("look"), st.just(0), st.integers(0, 20)),
    ),
    max_size=80,
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_only_present_parks_are_due_in_the_order_of_their_deadlines(steps):
    module_limit, module._COMPACT_ABOVE = module._COMPACT_ABOVE, 4
    try:
        timers = Timers()
        tasks = [Parkable() for _ in range(10)]
        for step, number, time in steps:
            task = tasks[number]
            if step == "park":
                task.park(timers, time)
            elif step == "wake":
                task.deadline = NEVER
            else:
                expected = sorted(task.deadline for task in tasks if task.deadline <= time)
                found = []
                while (due := timers.due(time)) is not None:
                    found.append(due.deadline)
                    due.deadline = NEVER
                assert found == expected
            assert timers.next_deadline() == min(task.deadline for task in tasks)
            assert len(timers) >= sum(task.deadline != NEVER for task in tasks)
    finally:
        module._COMPACT_ABOVE = module_limit


def test_equal_deadlines_are_due_in_the_order_they_were_set():
    timers = Timers()
    tasks = [Parkable() for _ in range(20)]
    for task in tasks:
        task.park(timers, 5)
    for task in tasks:
        assert timers.due(5) is task
        task.deadline = NEVER


def test_one_task_that_extends_its_deadline_needs_one_timer():
    timers = Timers()
    task = Parkable()
    for deadline in range(10_000):
        task.park(timers, deadline)
    assert len(timers) == 1
    assert timers.next_deadline() == 9_999


def test_tombstones_do_not_pile_up():
    timers = Timers()
    task = Parkable()
    for deadline in reversed(range(10_000)):  # each timer but the last is one
        task.park(timers, deadline)
    assert len(timers) < 1000


def test_ended_tasks_do_not_pile_up():
    timers = Timers()
    for _ in range(10_000):
        task = Parkable()
        task.park(timers, 3600)
        task.deadline = NEVER
    assert len(timers) < 1000


def test_timer_that_is_left_behind_does_not_keep_what_the_task_returned(hub):
    """It stays until its time comes, for an hour here; the task and its value must not."""

    class Value:
        pass

    def work():
        things.get(timeout=3600)
        return Value()

    things = SimpleQueue()
    task = spawn(work)
    sleep(0)
    things.put(None)
    value = weakref.ref(task.get())
    task = weakref.ref(task)
    assert "1 timers" in repr(hub)
    assert value() is None
    assert task() is None


def test_timeout_that_nobody_keeps_strikes_all_the_same():
    Timeout(0.01).start()
    gc.collect()
    with pytest.raises(Timeout):
        sleep(20)


@pytest.mark.skipif(core() == "compiled", reason="no signal handler strikes there")
@pytest.mark.parametrize("limit", [0, 100], ids=["compact", "settle"])
def test_timer_that_a_signal_handler_sets_while_others_are_looked_at_stays(monkeypatch, limit):
    """It lies before the one that is being settled, or comes when those to be kept have been found."""
    timers = Timers()
    moved, struck = Parkable(), Parkable()
    moved.park(timers, 5)
    moved.deadline = 8
    task_of = module._task_of

    looks = []

    def strike(who):
        looks.append(who)
        if len(looks) == (2 if limit else 1):  # `due` looks once, and then `_settle_first`
            struck.park(timers, 3)
        return task_of(who)

    monkeypatch.setattr(module, "_COMPACT_ABOVE", limit)
    timers._compact_at = limit
    monkeypatch.setattr(module, "_task_of", strike)
    if limit:
        assert timers.due(6) is None or timers.due(6) is struck
    else:
        timers._compact()
    monkeypatch.undo()
    assert timers.due(4) is struck
    struck.deadline = NEVER
    assert timers.next_deadline() == 8
