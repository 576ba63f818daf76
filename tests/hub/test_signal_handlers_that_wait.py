"""A signal handler may wait where it strikes a task that runs; that task's own wait, just begun, must not miss its end.

It strikes between two bytecodes: in the compiled core only where Python code is called, as for a model in Python.
"""

import os
import signal
import socket
from contextlib import contextmanager

import pytest

from rimstone import clock, iomodel
from rimstone._core import core
from rimstone.hub import Hub, close_hub, get_hub, sleep, spawn, waiter
from rimstone.iomodel.base import READ, WRITE
from rimstone.testing.iomodel_suite import fill, until_parked

PATIENCE_SECONDS = 10.0
MODELS = [name for name, reason in iomodel.available().items() if reason is None]
only_pure = pytest.mark.skipif(core() == "compiled", reason="no signal handler strikes there")


@contextmanager
def handler(function):
    before = signal.signal(signal.SIGUSR1, lambda *_: function())
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def pair():
    one, other = socket.socketpair()
    with one, other:
        yield one, other


@pytest.fixture
def hub_with():
    """A hub whose model is struck when a task has been enlisted, and before it waits."""

    def make(name):
        close_hub()
        base = iomodel.choose(name)

        class Struck(base):
            struck = 0

            def strike(self):
                if not Struck.struck:
                    Struck.struck += 1
                    signal.raise_signal(signal.SIGUSR1)

            def _arm(self, entry):
                super()._arm(entry)
                self.strike()

            def _watch(self, fd):
                super()._watch(fd)
                self.strike()

        return get_hub(Struck)

    yield make
    close_hub()


OPERATIONS = {
    "recv": lambda io, sock: io.recv(sock, 10, 0, PATIENCE_SECONDS),
    "recv_into": lambda io, sock: io.recv_into(sock, bytearray(10), 0, 0, PATIENCE_SECONDS),
    "wait": lambda io, sock: io.wait(sock.fileno(), READ, clock.monotonic() + PATIENCE_SECONDS),
    "wait_socket": lambda io, sock: io.wait_socket(sock, READ, clock.monotonic() + PATIENCE_SECONDS),
    "wait_both": lambda io, sock: io.wait_socket(sock, READ | WRITE, clock.monotonic() + PATIENCE_SECONDS),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("model", [name for name in MODELS if name not in ("uring", "completion_threads")])
def test_what_comes_while_the_handler_waits_ends_the_wait_that_it_has_interrupted(hub_with, pair, model, operation):
    hub = hub_with(model)
    fill(pair[0])  # else it is writable

    def bring_and_wait():
        os.write(pair[1].fileno(), b"abc")
        sleep(0.01)  # in which the hub polls, and finds somebody who waits for something else

    with handler(bring_and_wait):
        task = spawn(OPERATIONS[operation], hub.io, pair[0])
        began = clock.monotonic()
        assert task.get()
        assert clock.monotonic() - began < PATIENCE_SECONDS


@only_pure
@pytest.mark.parametrize("model", [name for name in MODELS if name != "uring"])
def test_handler_that_waits_just_before_a_task_parks(hub_with, pair, monkeypatch, model):
    monkeypatch.setenv("RIMSTONE_IO_MODEL", model)
    close_hub()
    hub = get_hub()
    may_not_wait = Hub._may_not_wait
    strikes = []

    def struck(self, task, *args):
        if task is victim and not strikes:
            strikes.append(task)
            signal.raise_signal(signal.SIGUSR1)
        return may_not_wait(self, task, *args)

    def bring_and_wait():
        os.write(pair[1].fileno(), b"abc")
        granted.unpark()
        sleep(0.01)

    monkeypatch.setattr(Hub, "_may_not_wait", struck)
    granted = waiter()
    with handler(bring_and_wait):
        victim = spawn(hub.io.recv, pair[0], 10, 0, PATIENCE_SECONDS)
        assert victim.get() == b"abc"
        strikes.clear()
        granted = None

        def be_granted():
            nonlocal granted
            granted = waiter()
            return granted.park(clock.monotonic() + PATIENCE_SECONDS)

        victim = spawn(be_granted)
        assert victim.get()
    assert strikes


HANDLERS = {
    "recv": lambda io, sock: io.recv(sock, 10, 0, PATIENCE_SECONDS),
    "wait": OPERATIONS["wait"],
    "park": lambda io, sock: sleep(0.01),
    "reschedule": lambda io, sock: sleep(0),
}


@pytest.fixture
def struck_at_its_wait(monkeypatch):
    """Make `spawn(...)` under a model a task that is struck once, just before its first wait or just after."""

    def make(model, when, function, *args):
        monkeypatch.setenv("RIMSTONE_IO_MODEL", model)
        close_hub()
        hub = get_hub()
        wait = Hub.wait
        strikes = []

        def struck(self, *waited):
            reason = wait(self, *waited) if when == "after" else None
            if self.current is task and not strikes:
                strikes.append(task)
                signal.raise_signal(signal.SIGUSR1)
            return wait(self, *waited) if when == "before" else reason

        monkeypatch.setattr(Hub, "wait", struck)
        task = spawn(function, hub.io, *args)
        return task

    yield make
    close_hub()


@only_pure
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("handles", HANDLERS)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("model", [name for name in MODELS if name != "uring"])
def test_operation_of_a_handler_leaves_alone_what_the_interrupted_one_waits_for(
    struck_at_its_wait, pair, model, operation, handles, when
):
    fill(pair[0])  # else it is writable
    mine, other = socket.socketpair()
    other.send(b"for the handler")
    handled = []
    with mine, other, handler(lambda: handled.append(HANDLERS[handles](get_hub().io, mine))):
        victim = struck_at_its_wait(model, when, OPERATIONS[operation], pair[0])
        sleep(0.02)
        began = clock.monotonic()
        pair[1].send(b"abc")
        assert victim.get() in (b"abc", 3, True)
        assert clock.monotonic() - began < PATIENCE_SECONDS / 2
    assert handled


@only_pure
@pytest.mark.parametrize("handles", HANDLERS)
@pytest.mark.parametrize("model", [name for name in MODELS if name != "uring"])
def test_operation_of_a_handler_leaves_alone_how_long_the_interrupted_one_waits(
    struck_at_its_wait, pair, model, handles
):
    mine, other = socket.socketpair()
    other.send(b"for the handler")
    handled = []
    with mine, other, handler(lambda: handled.append(HANDLERS[handles](get_hub().io, mine))):
        victim = struck_at_its_wait(model, "before", lambda io: io.recv(pair[0], 10, 0, 0.05))
        with pytest.raises(TimeoutError, match="timed out"):
            victim.get(timeout=PATIENCE_SECONDS / 2)
    assert handled


@only_pure
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("model", [name for name in MODELS if name != "uring"])
def test_handler_that_closes_what_a_task_is_about_to_wait_for(struck_at_its_wait, model, operation):
    one, other = socket.socketpair()

    def close():
        get_hub().io.forget(one.fileno())
        one.close()

    with other, handler(close):
        fill(one)
        victim = struck_at_its_wait(model, "before", OPERATIONS[operation], one)
        began = clock.monotonic()
        with pytest.raises(OSError, match="Bad file descriptor"):
            victim.get()
        assert clock.monotonic() - began < PATIENCE_SECONDS / 2


@only_pure
def test_wait_that_has_ended_keeps_its_reason_and_its_deadline_from_a_handler_that_waits(hub, pair, monkeypatch):
    """The task was woken in vain, for another one took the data; then the handler strikes; then it waits again."""
    wait = Hub.wait
    strikes = []

    def struck(self, *args):
        reason = wait(self, *args)
        if self.current is victim and not strikes:
            strikes.append(victim)
            signal.raise_signal(signal.SIGUSR1)
        return reason

    victim = None
    monkeypatch.setattr(Hub, "wait", struck)
    faster = spawn(hub.io.recv, pair[0], 10, 0, None)
    until_parked(faster)
    victim = spawn(hub.io.recv, pair[0], 10, 0, None)
    until_parked(victim)
    with handler(lambda: sleep(0.001)):
        pair[1].send(b"one")
        assert faster.get() == b"one"
        sleep(0.01)
        pair[1].send(b"two")
        assert victim.get() == b"two"
    assert strikes


@only_pure
def test_handler_that_waits_when_the_switch_has_come_back_leaves_the_reason_alone(hub, pair, monkeypatch):
    strikes = []

    class Greenlets(type(hub._greenlets)):
        def switch(self, target):
            super().switch(target)
            if hub.current is victim and not strikes:
                strikes.append(victim)
                signal.raise_signal(signal.SIGUSR1)

    hub._greenlets = Greenlets()
    victim = spawn(hub.io.recv, pair[0], 10, 0, None)
    with handler(lambda: sleep(0.001)):
        until_parked(victim)
        sleep(0)  # of the root, which so polls itself: the victim is switched to
        pair[1].send(b"abc")
        assert victim.get() == b"abc"
    assert strikes
