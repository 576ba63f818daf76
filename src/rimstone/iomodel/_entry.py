"""What a hub knows of one socket, and the tries at it that never wait. `_entry.pyx` is its twin in C: keep them alike.

A try returns None (or -1, where it returns a count) instead of raising BlockingIOError: in C that saves an exception
for nearly every wait.
"""

import _socket
import operator
import weakref
from collections.abc import Callable
from typing import Any

from rimstone.iomodel._view import View, view_of

__all__ = ["SocketEntry", "Sockets", "trust"]

MSG_DONTWAIT = getattr(_socket, "MSG_DONTWAIT", 0)
_INTERNET = frozenset(getattr(_socket, name) for name in ("AF_INET", "AF_INET6") if hasattr(_socket, name))


def trust(cls: type) -> None:
    """Instances of *cls* say of themselves what a plain socket.socket does; the twin in C then need not ask them."""


class Sockets:
    """What a socket object says of itself: its descriptor, and its timeout in seconds."""

    fd = staticmethod(operator.methodcaller("fileno"))
    timeout = staticmethod(operator.methodcaller("gettimeout"))


class SocketEntry:
    """What a hub knows of one socket object.

    Attributes:
        fd: Its descriptor.
        owner: Weak reference to the user's socket; an entry whose owner is another object is stale.
        view: A second socket object over the same descriptor; for all that has no `try_` of its own.
        closed: True once the descriptor is not to be used any more.
        reader, writer: The task that waits, a list of tasks where several do, or None.
        armed: True once the model has a lasting registration for the descriptor (epoll only).
        stream: True for a stream, whatever its family.
        plain_tcp: True for a TCP stream whose events have never told of anything but data and room.
        dry: True after a read that left nothing behind, until the next event: reading again would be in vain.
    """

    __slots__ = (
        *("_recv", "_recv_into", "_send"),
        *("armed", "closed", "dry", "fd", "owner", "plain_tcp", "reader", "stream", "view", "writer"),
    )

    def __init__(self, sock: Any, fd: int, collected: Callable[[Any], None]) -> None:
        self.fd = fd
        self.owner: weakref.ref[Any] = weakref.ref(sock, collected)
        view: View = view_of(sock, fd)
        self.view = view
        self.closed = False
        self.reader: Any = None
        self.writer: Any = None
        self.armed = False
        self.stream: bool = sock.type == _socket.SOCK_STREAM
        self.plain_tcp = self.stream and sock.family in _INTERNET and sock.proto in {0, _socket.IPPROTO_TCP}
        self.dry = False
        self._recv = view.recv
        self._recv_into = view.recv_into
        self._send = view.send

    def is_of(self, sock: Any) -> bool:
        """True if *sock* is the owner."""
        return self.owner() is sock

    def try_recv(self, size_bytes: int, flags: int) -> bytes | None:
        """What `recv` returns, or None where it would wait."""
        try:
            return self._recv(size_bytes, flags | MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def try_recv_into(self, buffer: Any, size_bytes: int, flags: int) -> int:
        """What `recv_into` returns, or -1 where it would wait."""
        try:
            return self._recv_into(buffer, size_bytes, flags | MSG_DONTWAIT)
        except BlockingIOError:
            return -1

    def try_send(self, data: Any, flags: int) -> int:
        """What `send` returns, or -1 where it would wait."""
        try:
            return self._send(data, flags | MSG_DONTWAIT)
        except BlockingIOError:
            return -1

    def detach(self) -> None:
        """Let go of the descriptor; every operation fails with EBADF from now on."""
        self.closed = True
        self.view.detach()
