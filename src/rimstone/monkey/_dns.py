"""Name resolution on real threads, since the C library's resolver blocks; numeric addresses take no thread at all.

Equal questions that a hub's tasks ask at the same time are asked once.
"""

import _socket
import socket
from collections.abc import Callable
from typing import Any

from rimstone._outcome import Outcome
from rimstone.hub import Hub, Task, current_hub, spawn
from rimstone.hub.offload import offload

__all__ = ["is_numeric", "numeric_address", "patch"]

_NAMES = ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo")
_native: dict[str, Callable[..., Any]] = {name: getattr(_socket, name) for name in _NAMES}
_asking: dict[Any, Task[Outcome[Any]]] = {}  # (hub, question) -> the task that asks it


def is_numeric(host: Any) -> bool:
    """True if *host* needs no look-up: an IPv4 or IPv6 address (also with a scope), empty, or None."""
    if host is None or host in ("", b"", "<broadcast>"):
        return True
    if isinstance(host, (bytes, bytearray)):
        host = bytes(host).decode("ascii", "replace")
    if not isinstance(host, str):
        return True  # not ours to judge: the original complains
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
        except (OSError, ValueError):
            continue
        return True
    return False


def _ask(hub: Hub, name: str, args: tuple[Any, ...]) -> Any:
    """One look-up on a real thread; whoever asks the same meanwhile gets the same answer (or error).

    The look-up is a task of its own, so that killing one of those who wait does not take it from the others.
    """
    key = (id(hub), name, args)
    try:
        task = _asking.get(key)
    except TypeError:  # an argument that has no hash: the original says what it thinks of it
        return _native[name](*args)
    if task is None or task.ready():  # one that was killed before it started is still there
        task = _asking[key] = spawn(_look_up, key, name, args)
    answer = task.get()
    if answer.error is None:
        return answer.value
    if isinstance(answer.error, OSError):  # each gets its own, with its own traceback
        raise type(answer.error)(*answer.error.args)
    raise answer.error


def _look_up(key: Any, name: str, args: tuple[Any, ...]) -> Outcome[Any]:
    """Body of the look-up's task. It never fails: whoever asked may have gone, and an error would be reported."""
    try:
        return Outcome(args, value=offload(_native[name], *args))
    except Exception as error:
        return Outcome(args, error=error)
    finally:
        _asking.pop(key, None)


def _raw_getaddrinfo(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
    """What socket.getaddrinfo (which turns numbers into enums) calls as `_socket.getaddrinfo`."""
    hub = current_hub()
    args = (host, port, family, type, proto, flags)
    return _native["getaddrinfo"](*args) if hub is None or is_numeric(host) else _ask(hub, "getaddrinfo", args)


def _getaddrinfo(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
    found = _raw_getaddrinfo(host, port, family, type, proto, flags)
    return [
        (_as_enum(f, socket.AddressFamily), _as_enum(t, socket.SocketKind), p, name, address)
        for f, t, p, name, address in found
    ]


def _as_enum(number: int, kind: Any) -> Any:
    try:
        return kind(number)
    except ValueError:
        return number


def _gethostbyname(hostname: Any, /) -> Any:
    return _by_host("gethostbyname", hostname)


def _gethostbyname_ex(hostname: Any, /) -> Any:
    return _by_host("gethostbyname_ex", hostname)


def _by_host(name: str, host: Any) -> Any:
    hub = current_hub()
    return _native[name](host) if hub is None or is_numeric(host) else _ask(hub, name, (host,))


def _gethostbyaddr(ip_address: Any, /) -> Any:
    hub = current_hub()  # the reverse look-up of a number is a question to the network
    return _native["gethostbyaddr"](ip_address) if hub is None else _ask(hub, "gethostbyaddr", (ip_address,))


def _getnameinfo(sockaddr: Any, flags: int, /) -> Any:
    hub = current_hub()
    numeric_only = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    if hub is None or flags & numeric_only == numeric_only:
        return _native["getnameinfo"](sockaddr, flags)
    return _ask(hub, "getnameinfo", (sockaddr, flags))


def numeric_address(sock: Any, address: Any) -> Any:
    """*address* with its host name resolved, for C functions that would look it up themselves, natively."""
    if (
        sock.family not in (socket.AF_INET, socket.AF_INET6)
        or not isinstance(address, tuple)
        or len(address) < 2
        or is_numeric(address[0])
    ):
        return address
    found = _raw_getaddrinfo(address[0], address[1], sock.family, sock.type, sock.proto)
    resolved = found[0][4]
    return (*resolved[:2], *address[2:]) if len(address) > 2 else resolved


def patch() -> None:
    socket.getaddrinfo = _getaddrinfo
    socket.gethostbyname = _gethostbyname
    socket.gethostbyname_ex = _gethostbyname_ex
    socket.gethostbyaddr = _gethostbyaddr
    socket.getnameinfo = _getnameinfo
