"""A wait that was ended by a wake and an exception at once (Ctrl-C in a plain thread) hands the wake on."""

import pytest

from rimstone.hub import spawn, waiter
from rimstone.sync import Lock, NotifyLock, SimpleQueue, lock, simplequeue


class Interrupted:
    """Stands for a waiter that is woken, and struck by Ctrl-C before it has gone on."""

    def __init__(self, wake):
        self.wake = wake

    def park(self, deadline=None):
        self.wake()
        raise KeyboardInterrupt

    def unpark(self):
        return True  # it reached somebody who waited


def first(one, others):
    """A function that gives *one* when called first, and what *others* gives after that."""
    left = [one]
    return lambda: left.pop() if left else others()


def behind(module, wake, wait, monkeypatch):
    """Let one wait be struck; returns a task that was waiting behind it."""
    waiting = []

    def wake_with_somebody_behind():
        waiting.append(spawn(wait))
        spawn(int).join()  # so that it stands in line
        wake()

    monkeypatch.setattr(module, "waiter", first(Interrupted(wake_with_somebody_behind), waiter))
    with pytest.raises(KeyboardInterrupt):
        wait()
    return waiting[0]


def test_lock(monkeypatch):
    taken = Lock()
    taken.acquire()
    assert behind(lock, taken.release, taken.acquire, monkeypatch).get(timeout=10) is True


def test_queue(monkeypatch):
    things = SimpleQueue()
    assert behind(simplequeue, lambda: things.put(1), things.get, monkeypatch).get(timeout=10) == 1


def test_lock_of_a_condition_frees_itself(monkeypatch):
    """`Condition.notify` then finds it free, and goes on to the next waiter."""
    taken = NotifyLock()
    taken.acquire()
    monkeypatch.setattr(lock, "waiter", lambda: Interrupted(int))
    with pytest.raises(KeyboardInterrupt):
        taken.acquire()
    with pytest.raises(RuntimeError):
        taken.release()
