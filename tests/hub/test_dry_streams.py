"""A stream that was read empty is not tried again before there is news: what must not be lost by that."""

import socket

import pytest

from rimstone import clock
from rimstone.hub import sleep, spawn
from rimstone.iomodel.base import READ
from rimstone.testing.iomodel_contract import tcp_pair


def recv(hub, sock, size_bytes=100, timeout=None):
    return hub.io.recv(sock, size_bytes, 0, timeout)


def dry(hub, near, far):
    """Make *near* dry: a first wait registers it, a short read does the rest."""
    reader = spawn(recv, hub, near)
    sleep(0)
    far.send(b"one")
    assert reader.get(timeout=20) == b"one"


def test_next_data_end_and_urgent_mark(hub):
    with tcp_pair() as (near, far):
        dry(hub, near, far)
        far.send(b"two")
        assert recv(hub, near) == b"two"
        far.send(b"three")
        far.send(b"!", socket.MSG_OOB)
        far.send(b"four")
        got = b""
        while got.replace(b"!", b"") != b"threefour":
            got += recv(hub, near, timeout=20)
        far.send(b"five")
        far.shutdown(socket.SHUT_WR)
        assert recv(hub, near) == b"five"
        assert recv(hub, near) == b""


def test_sizes_that_need_no_data(hub):
    with tcp_pair() as (near, far):
        dry(hub, near, far)
        assert recv(hub, near, 0, 20) == b""
        with pytest.raises(ValueError, match="negative buffersize"):
            recv(hub, near, -1, 20)


def test_second_socket_object_of_one_number(hub):
    with tcp_pair() as (near, far):
        dry(hub, near, far)
        reader = spawn(recv, hub, near)
        sleep(0)
        other = socket.socket(fileno=near.fileno())
        try:
            assert not hub.io.wait(other.fileno(), READ, clock.monotonic() + 0.01)
            hub.io.send(other, b"x", 0, None)
            far.send(b"two")
            assert reader.get(timeout=20) == b"two"
        finally:
            other.detach()


def test_wait_after_eagain_lets_nobody_run_before_it(hub):
    """Not even a task whose budget is used up: the edge would come meanwhile, and be lost."""
    with tcp_pair() as (near, far):
        dry(hub, near, far)
        for _ in range(64):
            hub.io.send(near, b"x", 0, None)
        spawn(far.send, b"two")
        assert hub.io.wait_socket(near, READ, clock.monotonic() + 20)
        assert recv(hub, near) == b"two"
