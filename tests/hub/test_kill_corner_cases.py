"""Kills that come at an awkward moment: from a signal handler, together with a timeout, while the hub closes."""

import _thread
import os
import signal
import sys
import threading
from contextlib import contextmanager

import pytest

from rimstone import clock
from rimstone._core import core
from rimstone.errors import HubError
from rimstone.hub import close_hub, current_hub, get_hub, sleep, spawn, waiter
from rimstone.iomodel.base import KILLED, TIMEOUT, UNPARKED

replaces_methods = pytest.mark.skipif(core() == "compiled", reason="replaces methods that the compiled core calls in C")


@contextmanager
def alarm(hub, handler):
    """Call *handler* from a signal handler while *hub* waits in a poll."""

    def on_idle():
        hub.on_idle = None
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        return False

    before = signal.signal(signal.SIGALRM, lambda *_: handler())
    hub.on_idle = on_idle
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_handler_kills_the_task_that_polls_on_its_own_stack(hub):
    task = spawn(sleep, 60)
    began = clock.monotonic()
    with alarm(hub, lambda: task.kill(block=False)):
        task.join()
    assert task.successful()
    assert clock.monotonic() - began < 30


def test_handler_kills_another_than_the_one_that_polls(hub):
    task = spawn(sleep, 60)
    spawn(sleep, 0.0)
    began = clock.monotonic()
    with alarm(hub, lambda: task.kill(block=False)):
        task.join(timeout=60)
    assert task.successful()
    assert clock.monotonic() - began < 30


def test_handler_spawns(hub):
    mine = waiter()
    began = clock.monotonic()
    with alarm(hub, lambda: spawn(mine.unpark)):
        assert mine.park(clock.monotonic() + 60)
    assert clock.monotonic() - began < 30


def test_kill_that_comes_after_the_timeout_is_raised_at_once(hub):
    done = []

    def work():
        waiter().park(clock.monotonic() + 60)
        done.append("went on")

    task = spawn(work)
    sleep(0)
    hub.make_ready(task, TIMEOUT)
    task.kill()
    assert task.successful()
    assert not done


def test_spurious_wake_is_no_grant(hub):
    got = []

    def work():
        got.append(waiter().park(clock.monotonic() + 0.05))

    task = spawn(work)
    for reason in (UNPARKED, KILLED):
        sleep(0)
        hub.make_ready(task, reason)
    task.get()
    assert got == [False]


@replaces_methods
def test_interrupted_wake_of_sleepers_is_made_up_for(hub):
    """A signal handler raises between two timers that are due: no sleeper is lost."""
    tasks = [spawn(sleep, 0.001) for _ in range(3)]
    sleep(0)
    make_ready = hub.make_ready
    strikes = [1]

    def struck(task, reason):
        make_ready(task, reason)
        if strikes and reason == TIMEOUT:
            strikes.pop()
            raise KeyboardInterrupt

    hub.make_ready = struck
    with pytest.raises(KeyboardInterrupt):
        waiter().park(clock.monotonic() + 20)
    for task in tasks:
        task.get(timeout=20)
    del hub.make_ready


@replaces_methods
def test_grant_of_a_signal_handler_just_before_the_park_is_heard(hub, monkeypatch):
    """It strikes when the task has looked for a grant, and is not parked yet."""
    mine = waiter()
    following = type(hub)._following

    def struck(self, task, ready):
        if mine is not None and task.waiting is mine:
            mine.unpark()
        return following(self, task, ready)

    monkeypatch.setattr(type(hub), "_following", struck)
    deadline = clock.monotonic() + 20
    assert mine.park(deadline)
    assert clock.monotonic() < deadline


def test_interrupted_call_of_another_thread_is_made_once_more(hub):
    calls = []

    def interrupted():
        calls.append("call")
        raise KeyboardInterrupt

    for call, times in ((interrupted, 2), (lambda: calls.append("call") or 1 / 0, 1)):
        calls.clear()
        hub.run_soon(call)
        for _ in range(4):
            try:
                sleep(0)
            except (KeyboardInterrupt, ZeroDivisionError):
                pass
        assert len(calls) == times


def test_close_lets_finally_blocks_wait():
    done = []

    def work():
        try:
            sleep(60)
        finally:
            sleep(0.02)
            spawn(sleep, 60)
            sleep(0.02)
            done.append(True)

    tasks = [spawn(work) for _ in range(3)]
    sleep(0)
    close_hub()
    assert done == [True] * 3
    assert all(task.successful() for task in tasks)


@pytest.mark.slow
def test_close_kills_once_and_does_not_wait_for_ever():
    kills = []
    stubborn = [True]

    def work():
        while stubborn:
            try:
                sleep(60)
            except BaseException:
                kills.append(True)

    task = spawn(work)
    sleep(0)
    hub = get_hub()
    close_hub()
    assert kills == [True]
    assert current_hub() is None
    with pytest.raises(HubError, match="ended"):
        task.get()
    stubborn.clear()
    hub.tasks.clear()


@replaces_methods
def test_hub_is_forgotten_though_closing_it_failed(hub, monkeypatch):
    def fail(_deadline):
        raise KeyboardInterrupt

    monkeypatch.setattr(hub, "_end_tasks", fail)
    with pytest.raises(KeyboardInterrupt):
        close_hub()
    assert current_hub() is None
    assert hub.closed


def test_task_whose_thread_ends_is_done_for_who_joins_it():
    box = []
    may_end = threading.Event()
    started = threading.Event()

    def leave():
        box.append(spawn(sleep, 60))
        sleep(0)
        started.set()
        may_end.wait(20)

    _thread.start_new_thread(leave, ())  # one that `threading` does not end, so that nobody kills its tasks
    started.wait(20)
    failure = []

    def get():
        try:
            box[0].get()
        except HubError as error:
            failure.append(error)

    getter = spawn(get)
    sleep(0)
    may_end.set()
    getter.get(timeout=20)
    assert len(failure) == 1
    box[0].join()
    box[0].kill()


def test_tasks_do_not_inherit_the_recursion_depth_of_who_parks_first(hub):
    assert hub.current is hub.root

    def deep(left):
        return deep(left - 1) if left else spawn(descend, sys.getrecursionlimit() - 300).get()

    def descend(left):
        return descend(left - 1) if left else os.getpid()

    assert deep(sys.getrecursionlimit() // 2) == os.getpid()
