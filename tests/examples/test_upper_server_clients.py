"""What real clients do to the naive upper-case server; a bystander who talks to it meanwhile is unharmed each time."""

import errno
import re
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 60  # for everything that must come
RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER for 0 seconds

StartServer = Callable[..., int]


@pytest.fixture
def port(start_server: StartServer) -> int:
    # With the naive backlog of 5 some of fifty quick connects would be dropped and come again after a second.
    return start_server("upper_server.py", 0, "default")


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)


def receive(conn: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        data = conn.recv(65536)
        if not data:
            break
        received += data
    return bytes(received)


def talk(conn: socket.socket, message: bytes) -> None:
    conn.sendall(message)
    assert receive(conn, len(message)) == message.upper()


@contextmanager
def bystander(port: int) -> Iterator[None]:
    """A client who has begun to talk before, and goes on after, and another who comes after."""
    with connect(port) as before:
        talk(before, b"before")
        yield
        talk(before, b"after")
        with connect(port) as after:
            talk(after, b"newcomer")


def test_fin_ends_the_conversation(port: int) -> None:
    with bystander(port), connect(port) as client:
        talk(client, b"hello")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1024) == b""


def test_fin_right_behind_the_data_loses_no_reply(port: int) -> None:
    with bystander(port), connect(port) as client:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        assert receive(client, 1024) == b"HELLO"


def test_fin_without_a_word(port: int) -> None:
    with bystander(port):
        for _ in range(50):
            connect(port).close()


def test_rst_in_the_middle_of_conversations(port: int) -> None:
    with bystander(port), ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(50)]
        for client in clients:
            talk(client, b"hello")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
        stack.close()


def test_rst_before_anything_was_said(port: int) -> None:
    with bystander(port):
        for _ in range(50):
            with connect(port) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)


def test_rst_with_a_reply_on_its_way(port: int) -> None:
    with bystander(port):
        for _ in range(50):
            with connect(port) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
                client.sendall(b"hello")


def test_replies_larger_than_all_buffers_reach_a_client_that_reads_late(port: int) -> None:
    """A blocking send takes all it is given, so the naive `conn.send` loses nothing; meanwhile others are served."""
    message = b"abcdefghijklmnopqrstuvwxyz" * 400_000
    with bystander(port), connect(port) as client:

        def send() -> None:
            client.sendall(message)
            client.shutdown(socket.SHUT_WR)  # the server hangs up in turn, so a lost reply is no endless wait

        sending = threading.Thread(target=send)
        sending.start()
        try:
            for _ in range(3):
                with bystander(port):
                    pass
            assert sending.is_alive()  # the server waits in send: 10 MB are more than the buffers between us hold
            received = receive(client, len(message))
        finally:
            client.settimeout(0)  # ends the thread if something above failed
            sending.join()
        assert len(received) == len(message)
        assert received == message.upper()


def test_a_message_in_many_small_pieces(port: int) -> None:
    with bystander(port), connect(port) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for letter in b"hello, world":
            client.sendall(bytes([letter]))
        assert receive(client, len(b"hello, world")) == b"HELLO, WORLD"


@pytest.mark.parametrize("backlog", [5, "default"])
def test_five_hundred_connect_at_once(start_server: StartServer, backlog: object) -> None:
    port = start_server("upper_server.py", 0, backlog)
    with bystander(port), ExitStack() as stack:
        for client in connect_at_once(port, 500, stack):
            talk_patiently(client, port, stack)


def connect_at_once(port: int, count: int, stack: ExitStack) -> list[socket.socket]:
    """Begin *count* connects before any of them can have been accepted, then wait for all."""
    with selectors.DefaultSelector() as selector:
        for _ in range(count):
            client = stack.enter_context(closing(socket.socket()))
            client.setblocking(False)
            assert client.connect_ex(("127.0.0.1", port)) in (0, errno.EINPROGRESS)
            selector.register(client, selectors.EVENT_WRITE)
        connected = []
        while len(connected) < count:
            ready = selector.select(PATIENCE_SECONDS)
            assert ready, f"only {len(connected)} of {count} connected in time"
            for key, _ in ready:
                selector.unregister(key.fileobj)
                client = key.fileobj
                assert isinstance(client, socket.socket)
                assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                connected.append(client)
    return connected


def talk_patiently(client: socket.socket, port: int, stack: ExitStack) -> None:
    """Talk; hearing nothing, connect anew: beyond its backlog the kernel may drop a client without telling it."""
    client.settimeout(2)
    try:
        talk(client, b"hello")
    except TimeoutError:
        talk(stack.enter_context(connect(port)), b"hello")


@pytest.mark.parametrize("backlog", [5, "default"])
def test_five_hundred_client_threads(
    start_server: StartServer, run_example: Callable[..., str], backlog: object
) -> None:
    port = start_server("upper_server.py", 0, backlog)
    with bystander(port):
        text = run_example("upper_clients.py", port, 500, 5, timeout=120)
    assert re.match(r"500 clients at once, 2500 right replies, 0 clients failed", text)


def test_wrong_replies_are_noticed_by_the_clients(run_example: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def echo() -> None:
            conn, _ = listener.accept()
            with conn:
                conn.sendall(conn.recv(1024))

        server = threading.Thread(target=echo)
        server.start()
        with pytest.raises(AssertionError, match="0 right replies, 1 clients failed"):
            run_example("upper_clients.py", listener.getsockname()[1], 1, 1)
        server.join()
