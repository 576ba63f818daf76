"""A plain, blocking handler serves many at once, under every IO model, in tasks, threads and processes."""

import os
import socket
import threading

import pytest

from rimstone import sleep, spawn
from rimstone.hub import close_hub, current_hub, get_hub
from rimstone.iomodel.epoll import EpollModel
from rimstone.iomodel.select import SelectModel
from rimstone.monkey import is_patched
from rimstone.server import StreamServer


def test_echoes(running, connect, talk, model):
    server = running(io_model=model)
    first, second = connect(server), connect(server)
    talk(second)
    talk(first)
    talk(second, b"x" * 100_000)
    first.shutdown(socket.SHUT_WR)
    assert first.recv(10) == b""


def test_echoes_in_several_threads(running, connect, talk):
    seen = set()

    def handler(sock, peer):
        seen.add(threading.get_ident())
        sock.sendall(sock.recv(100).upper())
        sock.recv(100)

    server = running(handler, threads=3)
    for _ in range(200):
        talk(connect(server))
        if len(seen) > 1:
            break
    assert len(seen) > 1


def test_the_peer_is_the_clients_address(running, connect):
    server = running(lambda sock, peer: sock.sendall(f"{peer}".encode()))
    client = connect(server)
    assert client.recv(1000).decode() == f"{client.getsockname()}"


def test_files_made_of_the_socket_wait_too(running, connect, talk, model):
    def handler(sock, peer):
        with sock.makefile("rwb") as file:
            for line in file:
                file.write(line.upper())
                file.flush()

    server = running(handler, io_model=model)
    first, second = connect(server), connect(server)
    first.sendall(b"not a whole li")
    talk(second, b"a line\n")
    first.sendall(b"ne\n")
    assert first.recv(100) == b"NOT A WHOLE LINE\n"


def test_the_users_process_is_not_patched(running, connect):
    before = socket.socket.recv, socket.socket.sendall
    types = []
    server = running(lambda sock, peer: types.append(type(sock)))
    assert connect(server).recv(1) == b""
    assert issubclass(types[0], socket.socket)
    assert types[0] is not socket.socket
    assert (socket.socket.recv, socket.socket.sendall) == before
    assert not is_patched()


def test_handlers_are_tasks_of_the_hub_of_the_thread_that_starts():
    hubs = []
    with StreamServer(("127.0.0.1", 0), lambda sock, peer: hubs.append(current_hub())) as server:

        def client():
            with socket.create_connection(server.address):
                while not hubs:
                    sleep(0)

        spawn(client).join()
        assert hubs == [get_hub()]


def test_the_first_hub_of_a_thread_gets_the_model_asked_for(model):
    if model == "blocking":
        pytest.skip("it needs no hub")
    assert current_hub() is None
    with StreamServer(("127.0.0.1", 0), print, io_model=model):
        assert get_hub().io.name == model
    close_hub()


def test_a_hub_with_another_model_is_left_alone(talk):
    assert type(get_hub(EpollModel).io) is EpollModel
    models = []

    def handler(sock, peer):
        models.append(type(get_hub().io))
        sock.sendall(sock.recv(100).upper())

    with (
        StreamServer(("127.0.0.1", 0), handler, io_model=SelectModel) as server,
        socket.create_connection(server.address) as client,
    ):
        talk(client)
    assert models == [SelectModel]


def test_blocking_handlers_have_threads_without_a_hub(running, connect, talk):
    seen = []

    def handler(sock, peer):
        seen.append((threading.current_thread().name, current_hub()))
        sock.sendall(sock.recv(100).upper())

    talk(connect(running(handler, io_model="blocking")))
    assert seen[0][0].startswith("rimstone-server-connection-")
    assert seen[0][1] is None


def test_handlers_begin_with_the_context_of_the_start(running, connect):
    import contextvars

    number = contextvars.ContextVar("number", default=0)
    seen = []

    def handler(sock, peer):
        seen.append(number.get())
        number.set(number.get() + 1)

    def start():
        number.set(5)
        with StreamServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=two_clients, args=(server,)).start()
            server.serve_forever()

    def two_clients(server):
        for _ in range(2):
            with socket.create_connection(server.address) as client:
                client.recv(1)
        server.stop()

    contextvars.copy_context().run(start)
    assert seen == [5, 5]


@pytest.mark.slow
def test_five_hundred_connections(running, connect, talk, model):
    server = running(io_model=model, processes=2)
    clients = [connect(server) for _ in range(500)]
    for client in clients:
        client.sendall(b"hello")
    for client in clients:
        assert client.recv(100) == b"HELLO"
    assert server.connections == 500
    for client in clients:
        talk(client, b"again")


def test_a_blocking_connection_blocks_where_it_inherits_from_the_listener(
    running, connect, talk, monkeypatch, wait_until
):
    """As on macOS and the BSDs."""
    from rimstone.server import blocking

    class Inherits:
        @staticmethod
        def _accept(sock):
            fd, peer = socket.socket._accept(sock)
            os.set_blocking(fd, False)
            return fd, peer

    monkeypatch.setattr(blocking, "RawSocket", Inherits)
    server = running(io_model="blocking")
    client = connect(server)
    wait_until(lambda: server.connections == 1)
    talk(client)
