"""The select model keeps the contract of every IO model, and says so where it ends."""

import gc
import os
import socket

import pytest

from rimstone.errors import IOModelUnavailable
from rimstone.hub import spawn
from rimstone.iomodel.select import FD_SETSIZE, SelectModel
from rimstone.testing.iomodel_contract import IOModelContract


class TestSelectModel(IOModelContract):
    model = SelectModel

    def test_descriptors_too_large_for_select(self, hub, pair):
        large = os.dup2(pair[0].fileno(), FD_SETSIZE)
        with socket.socket(fileno=large) as sock:
            with pytest.raises(OSError, match=r"descriptor 1024 is too large .*RIMSTONE_IO_MODEL=epoll"):
                hub.io.recv(sock, 10, 0, None)
            pair[1].send(b"abc")
            assert hub.io.recv(sock, 10, 0, None) == b"abc"  # what need not wait needs no select

    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
    def test_socket_that_is_too_large_is_closed_with_the_task_that_has_failed(self, hub, pair):
        """Nothing but the task's error refers to it: the peer would wait for ever."""
        large = os.dup2(pair[0].fileno(), FD_SETSIZE)
        pair[0].close()

        def talk():
            sock = socket.socket(fileno=large)
            hub.io.recv(sock, 10, 0, None)

        with pytest.raises(OSError, match="too large"):
            spawn(talk).get()
        gc.collect()
        pair[1].settimeout(5)
        assert pair[1].recv(10) == b""

    def test_hub_with_too_many_descriptors_open(self, hub, monkeypatch):
        monkeypatch.setattr("rimstone.iomodel.select.FD_SETSIZE", 3)
        with pytest.raises(IOModelUnavailable, match="has more open already"):
            SelectModel(hub)
