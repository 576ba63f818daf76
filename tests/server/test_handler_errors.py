"""What a handler raises is reported with the peer's address, and ends its connection only."""

import logging
import os
import textwrap

import pytest

from rimstone.errors import TaskExit
from rimstone.server.tasks import TaskService


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


@pytest.mark.parametrize("options", [{"threads": 2}, {"io_model": "blocking"}])
def test_outside_of_the_main_thread_keyboard_interrupt_is_no_ctrl_c(running, connect, talk, caplog, options):
    def handler(sock, peer):
        while data := sock.recv(100):
            if data == b"fail":
                raise KeyboardInterrupt
            sock.sendall(data.upper())

    server = running(handler, **options)
    others = [connect(server) for _ in range(8)]
    for other in others:
        talk(other)
    for _ in range(2):
        client = connect(server)
        client.sendall(b"fail")
        assert client.recv(1) == b""
    for other in others:
        talk(other)
    assert [record.exc_info[0] for record in caplog.records] == [KeyboardInterrupt] * 2


def test_the_death_of_one_thread_is_told_at_once(running, connect, talk, caplog, wait_until, monkeypatch):
    failing = []
    original = TaskService._begin

    def begin(service, fd, peer):
        if not failing:
            failing.append(service)
            os.close(fd)
            raise ValueError("a defect")
        original(service, fd, peer)

    monkeypatch.setattr(TaskService, "_begin", begin)
    server = running(threads=2)
    with connect(server) as client:
        wait_until(lambda: "of 2 threads 1 go on" in caplog.text)
        assert client.recv(1) == b""
    (record,) = caplog.records
    assert record.exc_info[0] is ValueError
    for _ in range(3):
        talk(connect(server))


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


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
def test_a_handler_may_fork():
    from rimstone.testing.patched import run_script

    done = run_script(
        textwrap.dedent(
            """
            import os, socket, threading, warnings
            from rimstone.server import StreamServer

            warnings.simplefilter("ignore")  # of fork beside a thread: here the thread does nothing that matters

            def handler(sock, peer):
                child = os.fork()
                if child:
                    os.waitpid(child, 0)
                sock.sendall(b"parent" if child else b"child ")

            def clients():
                for _ in range(3):
                    with socket.create_connection(server.address) as client:
                        print(client.makefile().read())
                server.stop()

            server = StreamServer(("127.0.0.1", 0), handler)
            server.start()
            threading.Thread(target=clients).start()
            server.serve_forever()
            print(server.connections)
            """
        )
    )
    assert done.stdout == "child parent\n" * 3 + "0\n", done.stderr
