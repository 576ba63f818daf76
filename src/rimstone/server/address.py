"""Where a server listens: from what the user gives to a listening socket, and errors that say what to do.

TCP addresses are reused at once (SO_REUSEADDR), so a server can be restarted while connections of the last one linger;
two servers on one address are still refused. A Unix socket on which nobody listens was left by a server that was
killed: it is replaced. One on which somebody listens is not touched.
"""

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from typing import Any, TypeAlias

from rimstone._originals import RawSocket

__all__ = ["Address", "Listener", "listen", "peer_name"]

# (host, port), "host:port", a path, "unix:PATH", or a bound socket.
Address: TypeAlias = (
    "tuple[str | None, int] | tuple[str, int, int, int] | str | bytes | os.PathLike[str] | socket.socket"
)

_FORMS = "give (host, port), 'host:port', a path with a slash in it, 'unix:PATH', or a bound socket"
_UNIX: Any = getattr(socket, "AF_UNIX", None)
_TCP_FAMILIES = frozenset({socket.AF_INET, socket.AF_INET6})


class Listener:
    """A listening socket and what is to be tidied up after it.

    Attributes:
        sock: The socket. Nobody accepts from it itself: each who does has a duplicate.
        address: What clients connect to, as `getsockname` says it: with the real port.
        name: The same for messages.
        is_closed: `close` was called.
    """

    def __init__(self, sock: socket.socket, path: str | None = None) -> None:
        self.sock = sock
        self.address: Any = sock.getsockname()
        self.name = _name(sock.family, self.address)
        self.is_closed = False
        self._pid = os.getpid()
        self._path = path
        self._file = None if path is None else _identity(path)

    def duplicate(self, cls: type[socket.socket] = socket.socket) -> socket.socket:
        """Another socket object on another descriptor of the same listener; with NODELAY and the like as it is."""
        fd = os.dup(self.sock.fileno())
        try:
            return cls(self.sock.family, self.sock.type, self.sock.proto, fileno=fd)
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Close it, and remove the file of a Unix socket, if it is still the one made here. Idempotent.

        Call from: any thread, any signal handler. A forked child only closes its copy.
        """
        self.is_closed = True
        path, self._path = self._path, None
        if path is not None and os.getpid() == self._pid and _identity(path) == self._file:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
        self.sock.close()


def listen(given: Address, backlog: int) -> Listener:
    """Bind to *given* and listen.

    Args:
        given: (host, port), for IPv6 also with four items; "host:port", "[::1]:8000"; a path, "unix:PATH"; or a socket
            that is bound already. An empty host, or "::", means all interfaces, of IPv4 and IPv6; "0.0.0.0" those of
            IPv4. A name is looked up, and the first of its addresses taken, IPv4 before IPv6. Port 0 is any free one.
        backlog: How many connections the kernel keeps that have not been accepted.
    Raises:
        TypeError, ValueError: it is no address.
        OSError: the address cannot be had; the message says why and what to do.
    """
    if isinstance(given, socket.socket):
        return _listen_on(given, backlog)
    path = _path_of(given)
    if path is not None:
        if "\0" in path and not path.startswith("\0"):
            raise ValueError(
                f"address {given!r} is no path: it has a null character inside; at its start it would be fine"
            )
        return _listen_unix(path, backlog)
    return _listen_tcp(_tcp_of(given), backlog)


def peer_name(family: int, peer: Any) -> str:
    """The address of a client, for messages."""
    return "a local process" if family == _UNIX and not peer else _name(family, peer)


# -- what was given --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _TCP:
    host: str
    port: int
    scope: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host or '*'}:{self.port}"


def _path_of(given: Any) -> str | None:
    if isinstance(given, bytes | os.PathLike):
        return os.fsdecode(given)
    if isinstance(given, str):
        if given.startswith("unix:"):
            if given == "unix:":
                raise ValueError("address 'unix:' names no path; write unix:PATH, for example unix:/run/app.sock")
            return given[5:]
        if os.sep in given or given.startswith("\0"):
            return given
    return None


def _tcp_of(given: Any) -> _TCP:
    if isinstance(given, str):
        host, colon, port = given.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not colon or not (port.isascii() and port.isdigit()) or (":" in host and not bracketed):
            hint = f"; for IPv6 write [{host}]:{port}" if ":" in host else ""
            raise ValueError(f"address {given!r} is neither host:port nor a path{hint}; {_FORMS}")
        return _checked(_TCP(host[1:-1] if bracketed else host, int(port)), given)
    if isinstance(given, tuple | list) and len(given) in {2, 4}:
        host, port, *scope = given
        if (host is None or isinstance(host, str)) and all(type(number) is int for number in (port, *scope)):
            return _checked(_TCP(host or "", port, tuple(scope)), given)
    raise TypeError(f"address {given!r} is {type(given).__name__} and no address; {_FORMS}")


def _checked(address: _TCP, given: object) -> _TCP:
    if "\0" in address.host:
        raise ValueError(f"address {given!r} has a null character in its host; {_FORMS}")
    if not 0 <= address.port <= 65535:
        raise ValueError(f"address {given!r} has port {address.port}; use 1 to 65535, or 0 for any free one")
    return address


# -- sockets ---------------------------------------------------------------------------------------------------------


def _listen_on(sock: socket.socket, backlog: int) -> Listener:
    if sock.type != socket.SOCK_STREAM:
        raise ValueError(f"{sock!r} is not a stream socket; a StreamServer needs SOCK_STREAM")
    name = sock.getsockname()
    if not name or (sock.family in _TCP_FAMILIES and not name[1]):
        raise ValueError(f"{sock!r} is not bound; bind it first, or give the address instead")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.listen(backlog)
    if sock.family in _TCP_FAMILIES:
        with contextlib.suppress(OSError):  # what is neither TCP nor MPTCP has none
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # see `_listen_tcp`
    return Listener(sock)


def _listen_tcp(address: _TCP, backlog: int) -> Listener:
    family, target, both = _resolve(address)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by every connection. A handler writes whole messages, often in two or three calls, and with Nagle's
        # algorithm the second would wait for the client's delayed acknowledgement: 40 ms. asyncio, trio, Go and nginx
        # switch it off too.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
        sock.bind(target)
        sock.listen(backlog)
        return Listener(sock)
    except OSError as error:
        sock.close()
        if both and not address.host and error.errno == errno.EADDRNOTAVAIL:  # IPv6 is there, and switched off
            return _listen_tcp(_TCP("0.0.0.0", address.port), backlog)  # noqa: S104 - asked for: all interfaces
        raise OSError(error.errno, _why_not(str(address), address.port, error)) from error
    except BaseException:
        sock.close()
        raise


def _resolve(address: _TCP) -> tuple[int, Any, bool]:
    """(family, address for bind, IPv4 too on that IPv6 socket)."""
    if address.host in {"", "::"}:
        if socket.has_dualstack_ipv6():
            return socket.AF_INET6, ("::", address.port, *address.scope), True
        if not address.host:
            return socket.AF_INET, ("0.0.0.0", address.port), False  # noqa: S104 - asked for: all interfaces
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )
    except UnicodeError:
        raise ValueError(
            f"address {str(address)!r}: {address.host!r} is no host name: from dot to dot it has 1 to 63 characters"
        ) from None
    except OSError as error:
        raise OSError(
            error.errno, f"cannot listen on {address}: host {address.host!r} is not known ({error.strerror})"
        ) from error
    family, _, _, _, found_address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    target: tuple[Any, ...] = found_address
    if address.scope:
        target = (target[0], address.port, *address.scope)
    return family, target, False


def _listen_unix(path: str, backlog: int) -> Listener:
    if _UNIX is None:
        raise OSError(errno.EAFNOSUPPORT, "this system has no Unix sockets; give (host, port)")
    sock = socket.socket(_UNIX, socket.SOCK_STREAM)
    try:
        _bind_unix(sock, path)
        sock.listen(backlog)
        return Listener(sock, None if path.startswith("\0") else os.path.abspath(path))
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError) and error.strerror != str(error):
            why = _why_not_unix(path, error)
            raise OSError(error.errno or errno.ENAMETOOLONG, why) from error
        raise


def _bind_unix(sock: socket.socket, path: str) -> None:
    try:
        sock.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or path.startswith("\0") or not _is_stale(path):
            raise
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        sock.bind(path)


def _is_stale(path: str) -> bool:
    """True if *path* is a Unix socket on which nobody listens."""
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        return False
    probe = RawSocket(_UNIX, socket.SOCK_STREAM)
    try:
        probe.setblocking(False)
        return probe.connect_ex(path) in {errno.ECONNREFUSED, errno.ENOENT}
    finally:
        probe.close()


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


# -- messages --------------------------------------------------------------------------------------------------------


def _name(family: int, address: Any) -> str:
    if family == _UNIX:
        path = os.fsdecode(address)
        return "@" + path[1:] if path.startswith("\0") else path
    if family in _TCP_FAMILIES:
        return str(_TCP(address[0], address[1]))
    known = {member.value: member.name for member in socket.AddressFamily}
    return f"{known.get(family, f'family {family}')} {address}"  # AF_VSOCK and the like, given as a socket


def _why_not(name: str, port: int, error: OSError) -> str:
    start = f"cannot listen on {name}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"{start}: another program does, or has a connection on that port; "
            f"stop it (ss -ltnp 'sport = :{port}' shows it), choose another port, or 0 for any free one"
        )
    if error.errno == errno.EACCES:
        return f"{start}: this user may not use that port; choose one above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{start}: this machine does not have that address; '' or '::' means all that it has"
    return f"{start}: {error.strerror or error}"


def _why_not_unix(path: str, error: OSError) -> str:
    start = f"cannot listen on the Unix socket {path!r}"
    if error.errno == errno.EADDRINUSE:
        if path.startswith("\0") or not os.path.exists(path) or stat.S_ISSOCK(os.stat(path).st_mode):
            return f"{start}: another program listens on it; stop it, or choose another path"
        return f"{start}: there is a file of that name which is not a socket; remove it, or choose another path"
    if error.errno is None:
        return f"{start}: {error}; the system takes at most 107 bytes, so choose a shorter path"
    if error.errno == errno.ENOENT:
        return f"{start}: there is no folder {os.path.dirname(path) or '.'!r}; make it first"
    return f"{start}: {error.strerror or error}"
