"""The socket methods that everything goes through: recv, recv_into, send, sendall. The others are in `_socket.py`.

A file of its own so that the compiled core can make C functions of them: between the user's frame and the switch there
is then no other Python frame, and from CPython 3.12 on each of those costs time at every switch.
"""

import _socket
from typing import Any

from rimstone.clock import monotonic
from rimstone.hub import scheduler
from rimstone.iomodel import _entry
from rimstone.iomodel.base import NEVER

__all__ = ["METHODS"]

_Raw = _socket.socket
_here = scheduler.here
_sockets = _entry.Sockets()


def recv(self: Any, bufsize: int, flags: int = 0, /) -> bytes:
    hub: scheduler.Hub | None = _here.get()
    if hub is None:
        return _Raw.recv(self, bufsize, flags)
    data = _begin_recv(hub, self, bufsize, flags)
    if type(data) is not bytes:
        until = _until(self)
        while type(data) is not bytes:
            data = hub.io.end_recv(self, bufsize, flags, data, until, hub.wait(data, until))
    return data


def _begin_recv(hub: scheduler.Hub, sock: Any, bufsize: int, flags: int) -> Any:
    timeout = _sockets.timeout(sock)
    if timeout is not None and timeout == 0:
        return _Raw.recv(sock, bufsize, flags)
    return hub.io.begin_recv(sock, bufsize, flags, timeout)


def _until(sock: Any) -> float:
    """When a wait that begins now must end."""
    timeout = _sockets.timeout(sock)
    return NEVER if timeout is None else monotonic() + timeout


def recv_into(self: Any, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
    hub: scheduler.Hub | None = _here.get()
    if hub is None:
        return _Raw.recv_into(self, buffer, nbytes, flags)
    count = _begin_recv_into(hub, self, buffer, nbytes, flags)
    if type(count) is not int:
        until = _until(self)
        exported = memoryview(buffer)  # so that nobody resizes it meanwhile
        try:
            while type(count) is not int:
                count = hub.io.end_recv_into(self, buffer, nbytes, flags, count, until, hub.wait(count, until))
        finally:
            exported.release()
    return count


def _begin_recv_into(hub: scheduler.Hub, sock: Any, buffer: Any, nbytes: int, flags: int) -> Any:
    timeout = _sockets.timeout(sock)
    if timeout is not None and timeout == 0:
        return _Raw.recv_into(sock, buffer, nbytes, flags)
    return hub.io.begin_recv_into(sock, buffer, nbytes, flags, timeout)


def send(self: Any, data: Any, flags: int = 0, /) -> int:
    hub: scheduler.Hub | None = _here.get()
    if hub is None:
        return _Raw.send(self, data, flags)
    sent = _begin_send(hub, self, data, flags)
    if type(sent) is not int:
        until = _until(self)
        while type(sent) is not int:
            sent = hub.io.end_send(self, data, flags, sent, until, hub.wait(sent, until))
    return sent


def _begin_send(hub: scheduler.Hub, sock: Any, data: Any, flags: int) -> Any:
    timeout = _sockets.timeout(sock)
    if timeout is not None and timeout == 0:
        return _Raw.send(sock, data, flags)
    return hub.io.begin_send(sock, data, flags, timeout)


def sendall(self: Any, data: Any, flags: int = 0, /) -> None:
    hub: scheduler.Hub | None = _here.get()
    if hub is None:
        return _Raw.sendall(self, data, flags)
    timeout = _sockets.timeout(self)
    if timeout is not None and timeout == 0:
        return _Raw.sendall(self, data, flags)
    return hub.io.sendall(self, data, flags, timeout)


METHODS = (recv, recv_into, send, sendall)
