"""What a handler raises is reported with the peer's address, and ends its connection only."""

import logging

import pytest

from rimstone.errors import TaskExit


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(3), KeyError("k")])
def test_reported_with_the_peer(running, connect, talk, model, caplog, error):
    def handler(sock, peer):
        data = sock.recv(100)
        if data == b"fail":
            raise error
        sock.sendall(data.upper())

    server = running(handler, io_model=model)
    other, failing = connect(server), connect(server)
    failing.sendall(b"fail")
    assert failing.recv(1) == b""
    talk(other)
    host, port = failing.getsockname()
    (record,) = [record for record in caplog.records if record.name == "rimstone.server"]
    assert record.levelno == logging.ERROR
    assert f"{host}:{port}" in record.getMessage()
    assert "handler" in record.getMessage()
    assert record.exc_info[1] is error
    assert server.state == "serving"


def test_a_handler_that_kills_itself_is_no_error(running, connect, caplog):
    def handler(sock, peer):
        raise TaskExit

    assert connect(running(handler)).recv(1) == b""
    assert not caplog.records


def test_reset_by_the_peer_is_the_handlers_to_catch(running, connect, talk, caplog, wait_until):
    import socket
    import struct

    server = running()
    with connect(server) as client:
        talk(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: caplog.records)
    assert "ConnectionResetError" in caplog.text
    talk(connect(server))


def test_a_detached_connection_is_left_to_the_handler(running, connect):
    import os

    kept = []
    client = connect(running(lambda sock, peer: kept.append(sock.detach())))
    client.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.recv(1)
    os.close(kept[0])
