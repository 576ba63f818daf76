"""serve(): SIGTERM and Ctrl-C stop gracefully, a second one at once."""

import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from rimstone.server import serve

pytestmark = pytest.mark.slow

SERVER = """
import sys
from rimstone.server import serve

def handler(sock, peer):
    try:
        while data := sock.recv(100):
            sock.sendall(data.upper())
    finally:
        sock.sendall(b"goodbye")

def on_start(server):
    print(server.address[1], flush=True)

print(serve(("127.0.0.1", 0), handler, on_start=on_start, **eval(sys.argv[1])))
"""
EVERYWHERE = pytest.mark.parametrize("options", [{}, {"threads": 2}, {"processes": 2}])


@contextmanager
def served(options):
    command = [sys.executable, "-c", SERVER, repr(options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            port = int(server.stdout.readline())
            with socket.create_connection(("127.0.0.1", port), 30) as client:
                client.sendall(b"hello")
                assert client.recv(100) == b"HELLO"
                yield server, client
        finally:
            server.kill()


def refused(client):
    with socket.socket() as other:
        return other.connect_ex(client.getpeername()) != 0


@EVERYWHERE
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_is_graceful(options, number, wait_until):
    with served({**options, "stop_timeout": 60}) as (server, client):
        server.send_signal(number)
        wait_until(lambda: refused(client))
        client.sendall(b"still here")
        assert client.recv(100) == b"STILL HERE"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b"goodbye"
        out, err = server.communicate(timeout=30)
    assert (server.returncode, err) == (0, "")
    assert out == f"{number}\n"


@EVERYWHERE
def test_the_second_kills_the_handlers(options, wait_until):
    with served({**options, "stop_timeout": None}) as (server, client):
        server.send_signal(signal.SIGTERM)
        wait_until(lambda: refused(client))
        server.send_signal(signal.SIGTERM)
        assert client.recv(100) == b"goodbye"
        out, err = server.communicate(timeout=30)
    assert (server.returncode, err) == (0, "")
    assert out == f"{signal.SIGTERM}\n"


def test_handlers_of_signals_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert serve(("127.0.0.1", 0), print, on_start=lambda server: server.stop()) is None
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_only_in_the_main_thread():
    errors = []

    def call():
        try:
            serve(("127.0.0.1", 0), print)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "only the main thread can" in errors[0]
