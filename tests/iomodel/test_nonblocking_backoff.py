"""The nonblocking model asks and asks again, with pauses that grow or with none; where nobody waits it asks nothing."""

import os

import pytest

from rimstone import _originals
from rimstone.hub import close_hub, get_hub, sleep, spawn
from rimstone.iomodel.base import READ
from rimstone.iomodel.nonblocking import NonblockingModel

if NonblockingModel.why_unavailable() is not None:
    pytest.skip(str(NonblockingModel.why_unavailable()), allow_module_level=True)


class Pauses:
    """Stands for the model's pause: notes how long each was to be, and cuts short the one after *count*."""

    def __init__(self, count):
        self.count = count
        self.seconds = []

    def is_cut_short(self, seconds):
        self.seconds.append(seconds)
        return len(self.seconds) > self.count


@pytest.fixture
def io(monkeypatch):
    monkeypatch.setenv("RIMSTONE_IO_MODEL", "nonblocking")
    monkeypatch.delenv("RIMSTONE_BACKOFF_MS", raising=False)
    yield get_hub().io
    close_hub()


@pytest.fixture
def somebody_waits(io):
    """A task that waits for a pipe, to which nobody writes."""
    reading, writing = os.pipe()
    task = spawn(io.wait, reading, READ)
    sleep(0)
    assert io.waits()
    yield
    task.kill()
    os.close(reading)
    os.close(writing)


def pauses_of(io, monkeypatch, count, timeout=None):
    pauses = Pauses(count)
    with monkeypatch.context() as patch:
        patch.setattr(io, "_pause", pauses)
        io.poll(timeout)
    return pauses.seconds


def test_pauses_double_up_to_the_longest(io, somebody_waits, monkeypatch):
    first = 0.000_05
    assert pauses_of(io, monkeypatch, 7) == [0.0, first, 2 * first, 4 * first, 8 * first, 16 * first, 0.001, 0.001]
    assert pauses_of(io, monkeypatch, 1) == [0.0, first]  # each poll begins anew


def test_without_backoff_it_never_pauses(io, somebody_waits, monkeypatch):
    io.longest_pause = 0.0
    assert pauses_of(io, monkeypatch, 1000) == [0.0] * 1001


def test_no_pause_is_longer_than_the_poll(io, somebody_waits, monkeypatch):
    assert max(pauses_of(io, monkeypatch, 1_000_000, 0.000_3)) <= 0.000_3


def test_where_nobody_waits_for_a_descriptor_it_sleeps(io, monkeypatch):
    io.longest_pause = 0.0
    assert pauses_of(io, monkeypatch, 0) == [None]
    assert 9 < pauses_of(io, monkeypatch, 0, 10.0)[0] <= 10


def test_one_system_call_for_each_descriptor_and_round(io, monkeypatch):
    calls = []

    class Question:
        def register(self, fd, mask):
            self.fd = fd

        def poll(self, timeout_ms):
            calls.append((self.fd, timeout_ms))
            return []

    monkeypatch.setattr(_originals, "poll", Question)
    pipes = [os.pipe() for _ in range(3)]
    tasks = [spawn(io.wait, reading, READ) for reading, _ in pipes]
    sleep(0)
    calls.clear()
    pauses_of(io, monkeypatch, 1)  # the round before the pause, and the one after it
    assert calls == [(reading, 0) for reading, _ in pipes] * 2
    for task in tasks:
        task.kill()
    assert pauses_of(io, monkeypatch, 0) == [None]
    for pair in pipes:
        for fd in pair:
            os.close(fd)


def test_subclass_argument_and_environment_set_it(io, monkeypatch):
    class Spinning(NonblockingModel):
        longest_pause = 0.0

    hub = get_hub()
    assert NonblockingModel(hub).longest_pause == 0.001
    assert Spinning(hub).longest_pause == 0
    monkeypatch.setenv("RIMSTONE_BACKOFF_MS", "2.5")
    assert Spinning(hub).longest_pause == 0.0025
    assert NonblockingModel(hub, 0.5).longest_pause == 0.5
    monkeypatch.setenv("RIMSTONE_BACKOFF_MS", "0")
    assert NonblockingModel(hub).longest_pause == 0


@pytest.mark.parametrize("text", ["fast", "-1", "nan", "inf"])
def test_what_is_no_time(io, monkeypatch, text):
    monkeypatch.setenv("RIMSTONE_BACKOFF_MS", text)
    with pytest.raises(ValueError, match=f"RIMSTONE_BACKOFF_MS='{text}' is no time in milliseconds; use 0 "):
        NonblockingModel(get_hub())
    with pytest.raises(ValueError, match="longest_pause=-1 is no time in seconds"):
        NonblockingModel(get_hub(), -1)


def test_wakes_of_many_are_one(io):
    hub = get_hub()
    for _ in range(3):
        hub.io.wake()
    io.poll(None)
    io.poll(0.0)
