"""TLS: the C object behind every SSLSocket is wrapped, so that "want read" and "want write" park the task.

SSLSocket's own Python code stays as it is. Two things change, both in place:

* `SSLContext._wrap_socket` returns a `_Connection` around the C object. Its read, write, do_handshake and shutdown
  try, and wait for the socket when OpenSSL asks for more.
* The C object waits natively as long as the socket's C timeout says, so that one is 0 from then on, and the user's
  timeout is kept in the instance and reported by `gettimeout`. In a plain thread the same loop waits natively. When
  the socket becomes a plain one again (unwrap, shutdown, detach), C gets the user's timeout back.
"""

import _socket
import _ssl
import errno
import os
import ssl
import weakref
from collections.abc import Callable
from typing import Any

from rimstone import clock
from rimstone.hub import current_hub
from rimstone.iomodel.base import READ, WRITE
from rimstone.monkey._socket import native_wait

__all__ = ["patch"]

_Raw = _socket.socket
_CContext: Any = _ssl._SSLContext
_USER_TIMEOUT = "_rimstone_user_timeout"  # in the instance's __dict__; absent while the C timeout is the user's


class _Connection:
    """The C object of one TLS connection; waits for its socket where the C object would raise or block.

    It knows its socket weakly, as the C object does: the socket owns it, and a cycle would keep the descriptor open
    until the next garbage collection.
    """

    def __init__(self, sslobj: Any, sock: Any) -> None:
        self.__dict__["_sslobj"] = sslobj
        self.__dict__["_sock"] = weakref.ref(sock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sslobj, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._sslobj, name, value)

    def do_handshake(self) -> None:
        self._until_done("handshake", self._sslobj.do_handshake)

    def read(self, *args: Any) -> Any:
        return self._until_done("read", self._sslobj.read, *args)

    def write(self, data: Any) -> int:
        return self._until_done("write", self._sslobj.write, data)  # type: ignore[no-any-return]

    def shutdown(self) -> Any:
        plain = self._until_done("shutdown", self._sslobj.shutdown)
        sock = self._sock()
        if sock is not None:
            _give_back_timeout(sock)
        return plain

    def _until_done(self, name: str, operation: Callable[..., Any], *args: Any) -> Any:
        sock = self._sock()
        if sock is None:
            return operation(*args)  # the C object says that its socket has gone
        timeout = sock.gettimeout()
        deadline: float | None = None
        while True:
            try:
                return operation(*args)
            except ssl.SSLWantReadError:
                if timeout == 0:
                    raise
                direction = READ
            except ssl.SSLWantWriteError:
                if timeout == 0:
                    raise
                direction = WRITE
            if timeout is not None and deadline is None:
                deadline = clock.monotonic() + timeout
            _wait(sock, direction, deadline, name)
            if sock.fileno() < 0:  # OpenSSL only knows the number, and that may be a stranger's by now
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def _wait(sock: Any, direction: int, deadline: float | None, operation: str) -> None:
    hub = current_hub()
    message = f"The {operation} operation timed out"
    if hub is None:
        try:
            native_wait(sock, direction, deadline)
        except TimeoutError:
            raise TimeoutError(message) from None
    elif not hub.io.wait_socket(sock, direction, deadline):
        raise TimeoutError(message)


def _wrap_socket(self: Any, sock: Any, *args: Any, **kwargs: Any) -> _Connection:
    sslobj = _CContext._wrap_socket(self, sock, *args, **kwargs)
    if _USER_TIMEOUT not in sock.__dict__:
        sock.__dict__[_USER_TIMEOUT] = _Raw.gettimeout(sock)
    _Raw.settimeout(sock, 0)
    return _Connection(sslobj, sock)


def _give_back_timeout(sock: Any) -> None:
    if _USER_TIMEOUT in sock.__dict__:
        timeout = sock.__dict__.pop(_USER_TIMEOUT)
        if sock.fileno() >= 0:
            _Raw.settimeout(sock, timeout)


def gettimeout(self: Any) -> float | None:
    kept = self.__dict__
    return kept[_USER_TIMEOUT] if _USER_TIMEOUT in kept else _Raw.gettimeout(self)


def settimeout(self: Any, value: float | None) -> None:
    if _USER_TIMEOUT not in self.__dict__:
        _Raw.settimeout(self, value)
        return
    # Let the C code judge the value; then the C timeout must be 0 again.
    try:
        _Raw.settimeout(self, value)
        self.__dict__[_USER_TIMEOUT] = _Raw.gettimeout(self)
    finally:
        _Raw.settimeout(self, 0)


def setblocking(self: Any, flag: bool) -> None:
    settimeout(self, None if flag else 0.0)


def getblocking(self: Any) -> bool:
    return gettimeout(self) != 0


def patch() -> None:
    cls: Any = ssl.SSLSocket
    original_shutdown = cls.shutdown
    original_detach = cls.detach

    def shutdown(self: Any, how: int) -> None:
        try:
            original_shutdown(self, how)
        finally:  # it is a plain socket now, even if the peer was gone already (ENOTCONN)
            _give_back_timeout(self)

    def detach(self: Any) -> int:
        _give_back_timeout(self)
        return original_detach(self)  # type: ignore[no-any-return]

    ssl.SSLContext._wrap_socket = _wrap_socket  # type: ignore[attr-defined]
    for method in (gettimeout, settimeout, setblocking, getblocking, shutdown, detach):
        setattr(cls, method.__name__, method)
    cls.timeout = property(gettimeout)
