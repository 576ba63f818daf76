"""serve(): SIGTERM and Ctrl-C stop gracefully, a second one at once, a third one does what it did before."""

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
def served(options, program=SERVER, *arguments):
    command = [sys.executable, "-c", program, repr(options), *arguments]
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


SPINS = """
import os
import sys
from rimstone.server import StreamServer, serve

class Tells(StreamServer):
    def stop(self, timeout=0, *, wait=True):
        super().stop(timeout, wait=wait)
        if not wait and timeout in (None, 0):
            os.write(1, b"told\\n")  # the signal has come

serve.__globals__["StreamServer"] = Tells

def handler(sock, peer):
    while True:
        try:
            sock.sendall(sock.recv(100).upper())
            while True:
                pass
        except BaseException as error:
            sock.sendall(type(error).__name__.encode())
            if sys.argv[2] == "stubborn":
                continue
            sock.recv(1)  # it may wait while it tidies up: it is killed once
            sock.sendall(b"tidied up")
            raise

def on_start(server):
    print(server.address[1], flush=True)

try:
    print(serve(("127.0.0.1", 0), handler, on_start=on_start, stop_timeout=None, **eval(sys.argv[1])))
except KeyboardInterrupt:
    print("KeyboardInterrupt")
"""


def tell(server, number):
    server.send_signal(number)
    assert server.stdout.readline() == "told\n"


def test_the_second_kills_a_handler_that_computes():
    with served({}, SPINS, "ends") as (server, client):
        tell(server, signal.SIGINT)
        tell(server, signal.SIGINT)
        assert client.recv(100) == b"TaskExit"
        client.sendall(b"x")
        assert client.recv(100) == b"tidied up"
        out, err = server.communicate(timeout=30)
    assert (server.returncode, err) == (0, "")
    assert out == f"{signal.SIGINT}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("options", [{"threads": 2}, {"io_model": "blocking"}, {"processes": 2}])
def test_the_third_does_what_it_did_before(options, number):
    with served(options, SPINS, "stubborn") as (server, _):
        for _ in range(2):
            tell(server, number)
        server.send_signal(number)
        out, _ = server.communicate(timeout=30)
    if number == signal.SIGINT:
        assert server.returncode == 0
        assert "KeyboardInterrupt" in out.splitlines()
    else:
        assert (server.returncode, out) == (-number, "")


COMPUTES = """
import sys
from rimstone.server import serve

def handler(sock, peer):
    sock.sendall(sock.recv(100).upper())
    while True:
        pass

def on_start(server):
    print(server.address[1], flush=True)

print(serve(("127.0.0.1", 0), handler, on_start=on_start, stop_timeout=0.1, **eval(sys.argv[1])))
"""


@pytest.mark.parametrize("options", [{"threads": 2}, {"io_model": "blocking"}, {"processes": 2}])
def test_the_first_gives_up_on_a_handler_that_computes_in_another_thread(options):
    with served(options, COMPUTES) as (server, _):
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=60)
    assert (server.returncode, out) == (0, f"{signal.SIGTERM}\n")
    assert err or "processes" in options


FORKS = """
import multiprocessing
import os
import sys
import time
from rimstone.server import serve

def live(writing):
    os.write(writing, b"x")  # what comes before, CPython forgets
    time.sleep(60)

def handler(sock, peer):
    reading, writing = os.pipe()
    child = multiprocessing.get_context("fork").Process(target=live, args=(writing,), daemon=True)
    child.start()
    os.read(reading, 1)
    sock.sendall(sock.recv(100).upper())
    sock.recv(1)
    child.terminate()
    child.join(20)
    sock.sendall(str(child.exitcode).encode())

serve(("127.0.0.1", 0), handler, on_start=lambda server: print(server.address[1], flush=True), **eval(sys.argv[1]))
"""


@pytest.mark.parametrize("options", [{}, {"io_model": "blocking"}])
def test_child_that_a_handler_forks_can_be_ended(options):
    with served(options, FORKS) as (_, client):
        client.sendall(b"x")
        assert client.recv(100) == str(-signal.SIGTERM).encode()


def test_the_third_ends_it_although_it_was_ignored_before():
    ignores = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    with served({"threads": 2}, ignores + SPINS, "stubborn") as (server, _):
        for _ in range(2):
            tell(server, signal.SIGTERM)
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == -signal.SIGTERM


def test_the_third_strikes_the_main_thread_wherever_it_is():
    with served({}, SPINS, "stubborn") as (server, client):
        for _ in range(2):
            tell(server, signal.SIGTERM)
        assert client.recv(100) == b"TaskExit"
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == -signal.SIGTERM


@pytest.mark.parametrize(("given", "error"), [("1", TypeError), (-1, ValueError), (float("nan"), ValueError)])
def test_a_wrong_timeout_is_refused_before_it_serves(given, error):
    started = []
    with pytest.raises(error, match=f"stop_timeout={given!r} must be a number of seconds"):
        serve(("127.0.0.1", 0), print, stop_timeout=given, on_start=started.append)
    assert started == []


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
