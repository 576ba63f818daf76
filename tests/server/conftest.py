"""What the server's tests share: a server in a thread of its own, and clients that block."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rimstone.iomodel import available
from rimstone.server import StreamServer

PATIENCE_SECONDS = 30
MODELS = [*(name for name, reason in available().items() if reason is None), "blocking"]


def upper(sock: socket.socket, peer: Any) -> None:
    while data := sock.recv(1024):
        sock.sendall(data.upper())


class Running:
    """A server in a thread of its own, where it serves until it is stopped."""

    def __init__(self, server: StreamServer) -> None:
        self.server = server
        self.error: BaseException | None = None
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.server.start()
            self._up.set()
            self.server.serve_forever()
        except BaseException as error:
            self.error = error
        finally:
            self._up.set()

    def start(self) -> StreamServer:
        self._thread.start()
        assert self._up.wait(PATIENCE_SECONDS)
        if self.error is not None:
            self._thread.join()
            raise self.error
        return self.server

    def end(self) -> None:
        self.server.stop(0)
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()


@pytest.fixture
def running() -> Iterator[Callable[..., StreamServer]]:
    """`running(handler, address=..., **options)` is a StreamServer that serves."""
    with contextlib.ExitStack() as stack:

        def run(handler: Callable[..., Any] = upper, address: Any = ("127.0.0.1", 0), **options: Any) -> StreamServer:
            running = Running(StreamServer(address, handler, **options))
            server = running.start()
            stack.callback(running.end)
            return server

        yield run


@pytest.fixture
def connect() -> Iterator[Callable[[StreamServer], socket.socket]]:
    """`connect(server)` is a connection that is closed in the end."""
    with contextlib.ExitStack() as stack:

        def connect_to(server: StreamServer) -> socket.socket:
            address = server.address
            family = (
                socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if len(address) == 4 else socket.AF_INET
            )
            client = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            client.settimeout(PATIENCE_SECONDS)
            client.connect(("::1", *address[1:]) if address[0] == "::" else address)
            return client

        yield connect_to


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return request.param


def talk(client: socket.socket, message: bytes = b"hello") -> None:
    client.sendall(message)
    received = b""
    while len(received) < len(message):
        data = client.recv(1024)
        assert data, f"the connection was closed after {received!r}"
        received += data
    assert received == message.upper()


@pytest.fixture(name="talk")
def talk_fixture() -> Callable[..., None]:
    """Send a message; it comes back in upper case."""
    return talk


def wait_until(condition: Callable[[], Any]) -> None:
    """For what another process or thread does, and tells nobody."""
    tick = threading.Event()
    for _ in range(PATIENCE_SECONDS * 100):
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError("it did not happen in time")


@pytest.fixture(name="wait_until")
def wait_until_fixture() -> Callable[[Callable[[], Any]], None]:
    return wait_until
