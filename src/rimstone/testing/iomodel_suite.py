"""What the contract of the IO models stands on: the hub under test, sockets, and ways to get a task to wait."""

import errno
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import pytest

from rimstone.hub import Hub, Task, close_hub, current_hub, get_hub, sleep
from rimstone.iomodel.base import IOModel

__all__ = [
    "PATIENCE_SECONDS",
    "SOON_SECONDS",
    "IOModelSuite",
    "Pair",
    "fill",
    "no_free_descriptors",
    "tcp_pair",
    "turns",
    "until_parked",
]

PATIENCE_SECONDS = 20.0  # only a broken model waits for it
SOON_SECONDS = 0.02
Pair = tuple[socket.socket, socket.socket]


def until_parked(*tasks: Task[Any]) -> None:
    """Let the tasks run until all of them wait."""
    for _ in range(1000):
        if all(task.state == "parked" for task in tasks):
            return
        assert not any(task.ready() for task in tasks), tasks
        sleep(0)
    pytest.fail(f"not all of them wait: {tasks}")


def turns(count: int = 5) -> None:
    """Let every other task and the poll have some turns."""
    for _ in range(count):
        sleep(0)


def fill(sock: socket.socket) -> int:
    """Send until the kernel takes no more."""
    count = 0
    try:
        while True:
            count += sock.send(b"x" * 65536, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return count


@contextmanager
def tcp_pair() -> Iterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    with one, other:
        yield one, other


@contextmanager
def no_free_descriptors() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        try:
            while True:
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            assert error.errno == errno.EMFILE
        yield


class IOModelSuite:
    """Derive from it, and set `model`.

    Attributes:
        acts_while_waiting: The model hands an operation over while its task waits, as if a plain thread blocked in it:
            a receive passes over urgent data, and an accept is under the descriptor limit of when it was asked for.
    """

    model: ClassVar[type[IOModel]]
    acts_while_waiting: ClassVar[bool] = False

    @pytest.fixture
    def hub(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
        monkeypatch.setenv("RIMSTONE_IO_MODEL", self.model.name)
        assert current_hub() is None
        hub = get_hub()
        assert type(hub.io) is self.model
        yield hub
        close_hub()

    @pytest.fixture
    def pair(self) -> Iterator[Pair]:
        one, other = socket.socketpair()
        with one, other:
            yield one, other

    @pytest.fixture
    def tcp(self) -> Iterator[Pair]:
        with tcp_pair() as pair:
            yield pair

    @pytest.fixture
    def udp(self) -> Iterator[Pair]:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        ):
            one.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            one.connect(other.getsockname())
            other.connect(one.getsockname())
            yield one, other

    def read_all(self, hub: Hub, sock: socket.socket, size_bytes: int) -> bytes:
        received = b""
        while chunk := hub.io.recv(sock, size_bytes, 0, None):
            received += chunk
        return received

    def take(self, sock: socket.socket, count: int) -> int:
        taken = 0
        while taken < count:
            taken += len(sock.recv(count - taken))
        return taken

    @contextmanager
    def full_listener(self) -> Iterator[Any]:
        """The address of one whose backlog is full: the kernel drops what comes then, and the client hears nothing."""
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as stack:
            for _ in range(3):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
            yield listener.getsockname()

    @contextmanager
    def pipe(self) -> Iterator[tuple[int, int]]:
        with ExitStack() as stack:
            fds = os.pipe()
            for fd in fds:
                stack.callback(os.close, fd)
            yield fds

    def once(self, function: Callable[[], object]) -> Callable[[], bool]:
        """Something for `on_idle`: calls *function* when the hub is about to wait for the first time."""
        left = [function]

        def on_idle() -> bool:
            if left:
                left.pop()()
            return False

        return on_idle
