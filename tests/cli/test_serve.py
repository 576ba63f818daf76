"""`rimstone serve`: what it serves, how it ends, and what it says of mistakes."""

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

HANDLERS = """\
import functools, time

def upper(sock, peer):
    time.sleep(0.001)
    while data := sock.recv(100):
        sock.sendall(data.upper())

def ends(sock, peer):
    import os, socket
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            other = socket.socket(fileno=os.dup(fd))
        except OSError:
            continue
        if other.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            other.shutdown(socket.SHUT_RDWR)  # as somebody might who has it too

def one(sock):
    pass

async def waits(sock, peer):
    pass

def simple_wsgi(environ, start_response):
    start_response("200 OK", [])
    return [b""]

class Flasklike:
    def __call__(self, environ, start_response):
        return self.wsgi_app(environ, start_response)

    def wsgi_app(self, environ, start_response):
        return []

class Djangolike:
    def __call__(self, environ, start_response):
        return []

class Starlettelike:
    async def __call__(self, scope, receive, send):
        pass

async def simple_asgi(scope, receive, send):
    pass

async def renamed_asgi(a, b, c):
    pass

flask, django, starlette = Flasklike(), Djangolike(), Starlettelike()
NUMBER = 5
"""


@pytest.fixture(autouse=True)
def handlers(functions: Path) -> Path:
    file = functions.parent / "app.py"
    file.write_text(HANDLERS)
    return file


@contextmanager
def served(*arguments: str):
    """A server in a child: the process, and what its first line says of the address."""

    command = [sys.executable, "-m", "rimstone", "serve", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            line = server.stderr.readline()
            found = re.fullmatch(r"rimstone: serving (\S+) on (\S+) \((.*)\); Ctrl-C stops\n", line)
            assert found, line + server.stderr.read()
            yield server, found
        finally:
            server.kill()


def talk(address: str) -> None:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=30) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"HELLO"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ((), "epoll, 1 process x 1 thread"),
        (("--processes", "2", "--threads", "2"), "epoll, 2 processes x 2 threads"),
        (("--io-model", "select", "--max-connections", "10"), "select, 1 process x 1 thread"),
        (("--io-model", "blocking"), "blocking, 1 process x 1 thread"),
    ],
)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_serves_until_a_signal(options, sizes, number, code, monkeypatch):
    monkeypatch.delenv("RIMSTONE_IO_MODEL", raising=False)
    with served("app.py:upper", "--bind", "127.0.0.1:0", *options) as (server, found):
        assert found[1] == "app.py:upper"
        assert found[3] == sizes
        for _ in range(3):
            talk(found[2])
        server.send_signal(number)
        assert server.wait(30) == code
        assert server.stderr.read() == ""


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--threads", "2"), ("--io-model", "blocking")])
def test_a_failure_while_it_serves_is_no_mistake_of_usage(options):
    with served("app.py:ends", "--bind", "127.0.0.1:0", *options) as (server, found):
        host, _, port = found[2].rpartition(":")
        socket.create_connection((host, int(port)), timeout=30).close()
        assert server.wait(30) == 1
        assert "rimstone: app.py:ends is served no more: Invalid argument" in server.stderr.read()


@pytest.mark.slow
def test_a_unix_socket():
    with served("app:upper", "-b", "unix:s") as (server, found):
        assert found[2] == "s"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("s")
            client.sendall(b"hello")
            assert client.recv(100) == b"HELLO"
        server.terminate()
        assert server.wait(30) == 0
    assert not os.path.exists("s")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("application", "server"),
    [
        ("simple_wsgi", "gunicorn"),
        ("flask", "gunicorn"),
        ("django", "gunicorn"),
        ("starlette", "uvicorn"),
        ("simple_asgi", "uvicorn"),
        ("renamed_asgi", "uvicorn"),
    ],
)
def test_says_where_web_applications_belong(in_child, application, server):
    result = in_child("serve", f"app.py:{application}", "--processes", "2")
    assert result.code == 2
    assert f"{'WSGI' if server == 'gunicorn' else 'ASGI'} application" in result.err
    assert result.err.endswith(f"Run it with: {server} app:{application}\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["app.py:one"], "cannot be called with (socket, address of the peer)"),
        (["app.py:waits"], "is async"),
        (["app.py:NUMBER"], "cannot be called; give a function of (socket, address of the peer)"),
        (["app.py:uper"], "did you mean upper?"),
        (["app.py:upper", "--bind", "nowhere"], "neither host:port nor a path"),
        (["app.py:upper", "--bind", "192.0.2.1:0"], "does not have that address"),
        (["app.py:upper", "--io-model", "epol"], "--io-model 'epol' is not an IO model; use one of"),
        (["app.py:upper", "--io-model", "blocking", "--threads", "2"], "max_connections bounds them"),
        (["app.py:upper", "--processes", "0"], "--processes"),
    ],
)
def test_mistakes(in_child, arguments, message):
    result = in_child("serve", *arguments)
    assert result.code == 2, result.err
    assert message in " ".join(result.err.split())
    assert "Traceback" not in result.err


@pytest.mark.slow
def test_an_address_in_use(in_child):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = in_child("serve", "app.py:upper", "--bind", f"127.0.0.1:{port}")
    assert result.code == 2
    assert result.err.startswith(f"rimstone: cannot listen on 127.0.0.1:{port}: another program does")


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--processes", "2")])
@pytest.mark.parametrize(("name", "model"), [("RIMSTONE_STALL_MS", "epoll"), ("RIMSTONE_BACKOFF_MS", "nonblocking")])
def test_a_wrong_variable_of_the_environment(in_child, monkeypatch, options, name, model):
    monkeypatch.setenv(name, "soon")
    result = in_child("serve", "app.py:upper", "--bind", "127.0.0.1:0", "--io-model", model, *options)
    assert result.code == 2
    assert result.err.startswith(f"rimstone: {name}='soon' is no")
    assert len(result.err.splitlines()) == 1
