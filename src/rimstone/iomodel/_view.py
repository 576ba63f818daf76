"""A second socket object over the user's descriptor, whose operations never wait. Read `_readiness.py` first."""

import _socket
import os
from typing import Any

__all__ = ["View", "view_of"]


class View(_socket.socket):
    """A second socket object over the user's descriptor, which it never closes."""

    def __del__(self) -> None:
        self.detach()


def view_of(sock: Any, fd: int) -> View:
    """A view of *sock* whose C timeout is None, whatever the user's is; *sock* itself stays as it is."""
    if _socket.getdefaulttimeout() is None:
        return View(sock.family, sock.type, sock.proto, fd)
    # socket.setdefaulttimeout() is in force: CPython gives the view that timeout and sets O_NONBLOCK. Taking the
    # timeout off clears O_NONBLOCK, which belongs to the user's socket: put it back as it was.
    blocking = os.get_blocking(fd)
    view = View(sock.family, sock.type, sock.proto, fd)
    view.settimeout(None)
    os.set_blocking(fd, blocking)
    return view
