"""The blocking methods of socket.socket, in place on the class; the busiest are in `_stream.py`.

Read `iomodel/_readiness.py` first.

Each method asks three questions: does this thread run tasks (else the original), is the user's socket non-blocking
(else `BlockingIOError` as ever), and then hands the operation to the hub's IO model, with the user's own timeout.
Host names in addresses are resolved before the second question: C would look them up natively, non-blocking or not.
"""

import _socket
import errno
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

from rimstone import clock
from rimstone._originals import poll, select_select
from rimstone.hub import current_hub, sleep
from rimstone.hub.scheduler import Hub
from rimstone.iomodel.base import READ, WRITE
from rimstone.monkey import _stream
from rimstone.monkey._dns import numeric_address

__all__ = ["METHODS", "hub_for", "native_wait", "patch", "sendfile"]

T = TypeVar("T")

_Raw = _socket.socket
_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
_DESCRIPTOR_PAUSES_SECONDS = (0.01, 0.02, 0.05, *([0.1] * 300))  # half a minute of others finishing, then give up


def hub_for(sock: Any) -> Hub | None:
    """The hub that must do the waiting for *sock*; None where the original method is right."""
    hub = current_hub()
    if hub is None or sock.gettimeout() == 0:
        return None
    return hub


def _accept(self: Any) -> tuple[int, Any]:
    hub = current_hub()
    timeout = self.gettimeout()
    if timeout == 0:
        return _Raw._accept(self)  # type: ignore[attr-defined, no-any-return]
    if hub is not None:
        io = hub.io
        return _with_descriptors(lambda: io.accept(self, timeout))
    while True:
        try:
            return _Raw._accept(self)  # type: ignore[attr-defined, no-any-return]
        except BlockingIOError:
            # A hub has made this listener O_NONBLOCK; for a plain thread it still blocks.
            native_wait(self, READ, clock.deadline_after(timeout))


def connect(self: Any, address: Any, /) -> None:
    hub = current_hub()
    if hub is None:
        return _Raw.connect(self, address)
    address = numeric_address(self, address)
    timeout = self.gettimeout()
    return _Raw.connect(self, address) if timeout == 0 else hub.io.connect(self, address, timeout)


def connect_ex(self: Any, address: Any, /) -> int:
    hub = current_hub()
    if hub is None:
        return _Raw.connect_ex(self, address)
    address = numeric_address(self, address)
    timeout = self.gettimeout()
    if timeout == 0:
        return _Raw.connect_ex(self, address)
    return hub.io.connect_ex(self, address, timeout)


def recvfrom(self: Any, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
    return _call(self, READ, "recvfrom", (bufsize,), flags)  # type: ignore[no-any-return]


def recvfrom_into(self: Any, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
    if hub_for(self) is None or not _are_writable(buffer):
        return _Raw.recvfrom_into(self, buffer, nbytes, flags)
    with memoryview(buffer) as view:  # so that nobody resizes it meanwhile
        return _call(self, READ, "recvfrom_into", (view, nbytes), flags)  # type: ignore[no-any-return]


def recvmsg(self: Any, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> Any:
    return _call(self, READ, "recvmsg", (bufsize, ancbufsize), flags)


def recvmsg_into(self: Any, buffers: Any, ancbufsize: int = 0, flags: int = 0, /) -> Any:
    buffers = list(buffers)
    if hub_for(self) is None or not _are_writable(*buffers):
        return _Raw.recvmsg_into(self, buffers, ancbufsize, flags)
    with ExitStack() as stack:
        views = [stack.enter_context(memoryview(buffer)) for buffer in buffers]
        return _call(self, READ, "recvmsg_into", (views, ancbufsize), flags)


def _are_writable(*buffers: Any) -> bool:
    """If not, the original says what they are."""
    try:
        return not any(memoryview(buffer).readonly for buffer in buffers)
    except TypeError:
        return False


def _call(self: Any, direction: int, method: str, args: tuple[Any, ...], flags: int) -> Any:
    hub = hub_for(self)
    if hub is None:
        return getattr(_Raw, method)(self, *args, flags)
    return hub.io.call(self, direction, method, (*args, flags | _socket.MSG_DONTWAIT), _timeout(self, flags))


def _timeout(sock: Any, flags: int) -> float | None:
    """How long to wait: as the user set it, but not at all for a call with MSG_DONTWAIT."""
    return 0 if flags & _socket.MSG_DONTWAIT else sock.gettimeout()


def sendto(self: Any, data: Any, *flags_and_address: Any) -> int:
    hub = current_hub()
    if hub is None or not 1 <= len(flags_and_address) <= 2:
        return _Raw.sendto(self, data, *flags_and_address)
    *given, address = flags_and_address
    address = numeric_address(self, address)
    flags = given[0] if given else 0
    if self.gettimeout() == 0:
        return _Raw.sendto(self, data, flags, address)
    args = (data, flags | _socket.MSG_DONTWAIT, address)
    sent: int = hub.io.call(self, WRITE, "sendto", args, _timeout(self, flags))
    return _send_rest(hub, self, [data], flags, sent)


def sendmsg(self: Any, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /) -> int:
    hub = current_hub()
    if hub is None:
        return _Raw.sendmsg(self, buffers, ancdata, flags, address)
    if address is not None:
        address = numeric_address(self, address)
    if self.gettimeout() == 0:
        return _Raw.sendmsg(self, buffers, ancdata, flags, address)
    buffers = list(buffers)  # iterators must survive a second try
    args = (buffers, list(ancdata), flags | _socket.MSG_DONTWAIT, address)
    sent: int = hub.io.call(self, WRITE, "sendmsg", args, _timeout(self, flags))
    return _send_rest(hub, self, buffers, flags, sent)


def _send_rest(hub: Hub, sock: Any, buffers: list[Any], flags: int, sent: int) -> int:
    """What a blocking stream socket does after it took *sent* of *buffers*: take the rest too, without ancillary data.

    An error after some of it was taken is the next call's, as in the kernel.
    """
    if _timeout(sock, flags) is not None or sock.type != socket.SOCK_STREAM:
        return sent
    flags &= ~getattr(_socket, "MSG_FASTOPEN", 0)  # it is connected, or connecting, by now
    end = 0
    for buffer in buffers:
        with memoryview(buffer) as view:
            start, end = end, end + view.nbytes
            if sent >= end:
                continue
            try:
                with view.cast("B") as octets, octets[sent - start :] as rest:
                    sent += hub.io.send(sock, rest, flags, None)
            except OSError:
                break
        if sent < end:
            break
    return sent


def bind(self: Any, address: Any, /) -> None:
    _Raw.bind(self, address if current_hub() is None else numeric_address(self, address))


def detach(self: Any) -> int:
    hub = current_hub()
    if hub is not None:
        fd = self.fileno()
        if fd >= 0:
            hub.io.forget(fd, detached=self)
    return _original_detach(self)


def _real_close(self: Any, _ss: Any = _Raw) -> None:
    hub = current_hub()
    if hub is not None:
        fd = self.fileno()
        if fd >= 0:
            hub.io.forget(fd)
    _ss.close(self)


def sendfile(self: Any, file: Any, offset: int = 0, count: int | None = None) -> int:
    """os.sendfile knows no MSG_DONTWAIT, so the descriptor is O_NONBLOCK while it runs."""
    hub = current_hub()
    if hub is None:
        return _original_sendfile(self, file, offset, count)  # type: ignore[no-any-return]
    self._check_sendfile_params(file, offset, count)
    try:
        source = file.fileno()
        size = os.fstat(source).st_size
    except (AttributeError, OSError, ValueError) as error:
        raise socket._GiveupOnSendfile(error) from None  # type: ignore[attr-defined]
    timeout = self.gettimeout()
    if timeout == 0:
        raise ValueError("non-blocking sockets are not supported")
    deadline = clock.deadline_after(timeout)
    fd = self.fileno()
    blocking = os.get_blocking(fd)
    os.set_blocking(fd, False)
    total = 0
    try:
        while count is None or total < count:
            block = min((size or 2**30) if count is None else count - total, 2**30)
            try:
                sent = os.sendfile(fd, source, offset, block)
            except BlockingIOError:
                if not hub.io.wait_socket(self, WRITE, deadline):
                    raise TimeoutError("timed out") from None
                if self.fileno() != fd:  # closed meanwhile: the number may be a stranger's
                    raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None
                continue
            except OSError as error:
                if total == 0:
                    raise socket._GiveupOnSendfile(error) from None  # type: ignore[attr-defined]
                raise
            if sent == 0:
                break
            offset += sent
            total += sent
        return total
    finally:
        if blocking and self.fileno() == fd:
            os.set_blocking(fd, True)
        if total > 0 and hasattr(file, "seek"):
            file.seek(offset)


def __init__(self: Any, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> None:
    if fileno is not None or current_hub() is None:
        _original_init(self, family, type, proto, fileno)
    else:
        _with_descriptors(lambda: _original_init(self, family, type, proto, fileno))


def _with_descriptors(make: Callable[[], T]) -> T:
    """Run *make*; when the process is out of descriptors, let other tasks give some back and try again."""
    for pause in _DESCRIPTOR_PAUSES_SECONDS:
        try:
            return make()
        except OSError as error:
            hub = current_hub()
            if error.errno not in _OUT_OF_DESCRIPTORS or hub is None or len(hub.tasks) < 2:
                raise
        sleep(pause)
    return make()


def native_wait(sock: Any, direction: int, deadline: float | None) -> None:
    """Block this thread, which has no hub, until *sock* is ready.

    Raises:
        TimeoutError: *deadline* passed.
    """
    timeout = clock.remaining(deadline)
    if poll is None:
        fds = [sock.fileno()]
        reading, writing = (fds, []) if direction == READ else ([], fds)
        ready: Any = any(select_select(reading, writing, [], timeout))
    else:
        import select

        poller = poll()
        poller.register(sock.fileno(), select.POLLIN if direction == READ else select.POLLOUT)
        ready = poller.poll(None if timeout is None else timeout * 1000)
    if not ready:
        raise TimeoutError("timed out")


_original_init = socket.socket.__init__
_original_detach = socket.socket.detach
_original_sendfile: Any = getattr(socket.socket, "_sendfile_use_sendfile", None)

# Set on the class under their own names, with those of `_stream.py`.
METHODS = (
    *(_accept, connect, connect_ex, recvfrom, recvfrom_into, sendto, bind, detach),
    *(recvmsg, recvmsg_into, sendmsg, _real_close, __init__),
)


def patch() -> None:
    for method in (*_stream.METHODS, *METHODS):
        name = method.__name__
        if hasattr(socket.socket, name):
            setattr(socket.socket, name, method)
    if hasattr(os, "sendfile"):
        socket.socket._sendfile_use_sendfile = sendfile  # type: ignore[attr-defined]
