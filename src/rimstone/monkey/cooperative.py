"""CooperativeSocket: a socket whose blocking calls let other tasks run, in a process that is not patched.

What `patch_all` does to `socket.socket` itself is done to a subclass here, with the same functions. So whoever is given
such a socket (a handler of `rimstone.server`) may write plain blocking code, and no other socket changes.

Only what is called on the socket, or on a file that its `makefile` made, is cooperative. TLS, `select`, `time.sleep`
and other sockets that the code opens are the standard library's own until the process is patched.
"""

import socket

from rimstone.iomodel import _entry
from rimstone.monkey import _socket, _stream, is_patched

__all__ = ["CooperativeSocket", "socket_class"]


class CooperativeSocket(socket.socket):
    """A `socket.socket` for tasks; in a thread that runs no tasks it does what the standard one does."""

    __slots__ = ()


def _equip() -> None:
    for method in (*_stream.METHODS, *_socket.METHODS):
        if hasattr(socket.socket, method.__name__):
            setattr(CooperativeSocket, method.__name__, method)
    if hasattr(socket.socket, "_sendfile_use_sendfile"):
        # By its name, so that mypy need not know a private method.
        setattr(CooperativeSocket, "_sendfile_use_sendfile", _socket.sendfile)  # noqa: B010


_equip()
_entry.trust(CooperativeSocket)


def socket_class() -> type[socket.socket]:
    """The class of sockets that let other tasks run: the standard one where it is patched, else ours."""
    return socket.socket if is_patched() else CooperativeSocket
