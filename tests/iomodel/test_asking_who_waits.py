"""Whether any task waits for a descriptor is asked before each poll that blocks, so it must not cost a walk."""

import socket

import pytest

from rimstone._core import core
from rimstone.hub import close_hub, get_hub, sleep, spawn


@pytest.fixture
def model():
    yield get_hub().io
    close_hub()


def until_waiting(task):
    while task.state != "parked":
        sleep(0)


class NeverWalked(list):
    """A table of sockets that nobody may iterate over."""

    def __iter__(self):
        raise AssertionError("the table of sockets is walked")


def test_true_while_a_socket_waits_and_false_after(model):
    pairs = [socket.socketpair() for _ in range(3)]
    assert not model.waits()
    for _ in range(2):
        for one, other in pairs:
            task = spawn(model.recv, one, 1, 0, None)
            until_waiting(task)
            assert model.waits()
            assert model.waits()
            other.send(b"x")
            task.join()
            assert not model.waits()
    for pair in pairs:
        for sock in pair:
            model.forget(sock.fileno())
            sock.close()
    assert not model.waits()


@pytest.mark.skipif(
    core() == "compiled", reason="the table is a list of C there, and no other type can stand in for it"
)
def test_socket_that_waits_again_is_not_searched_for(model):
    one, other = socket.socketpair()

    def echo():
        for _ in range(3):
            model.recv(one, 1, 0, None)

    with one, other:
        task = spawn(echo)
        until_waiting(task)
        assert model.waits()
        model._entries = NeverWalked(model._entries)
        for _ in range(2):
            other.send(b"x")
            sleep(0.005)
            assert model.waits()
        other.send(b"x")
        task.join()
        model._entries = list.copy(model._entries)
        model.forget(one.fileno())
