"""The operations of the readiness models (select, epoll), written once over "try, wait, retry". Read `base.py` first.

How an operation avoids blocking in C
-------------------------------------
A `socket.socket` of the user is in one of three states: blocking (timeout None), non-blocking (0), or with a timeout,
where CPython keeps the descriptor O_NONBLOCK and waits itself, natively, *before* the system call, MSG_DONTWAIT or
not. That native wait would stop every task of the thread. Setting the C timeout to 0 around each call would cost two
ioctls, be visible in `gettimeout()` and race with other threads.

So each socket gets, at its first operation in a hub, a second `_socket.socket` over the same descriptor (`_View`) whose
own C timeout is None for ever. With MSG_DONTWAIT its calls go straight to the kernel and return at once, whatever
timeout the user set and whether or not the descriptor is O_NONBLOCK; nothing of the user's socket is touched. Only
accept and connect know no flags: a listener is made O_NONBLOCK before it accepts, and stays so; connect switches
O_NONBLOCK on for the one call.

Who may be in the table
-----------------------
An entry belongs to one socket *object*: it is found by descriptor number and then checked by identity, because the
kernel hands out a closed number again at once. Entries leave by `forget` (close, detach) or when the owner is
collected. The view never closes the descriptor: it is detached first, in `__del__` at the latest.

While a task waits, a plain thread may close the socket and the number may be handed out again; so whoever wakes looks
whether the owner still has the number before the view is used again. Two living socket objects may also share one
number (`socket.socket(fileno=s.fileno())`): the table has the one that was used last, and the other's waiting tasks go
on with the entry that they hold.
"""

import _socket
import errno
import os
import weakref
from abc import abstractmethod
from typing import Any

from rimstone import clock
from rimstone.iomodel.base import IO, READ, TIMEOUT, WRITE, Buffer, IOModel, Scheduler

__all__ = ["ReadinessModel", "SocketEntry"]

MSG_DONTWAIT = getattr(_socket, "MSG_DONTWAIT", 0)
MSG_WAITALL = getattr(_socket, "MSG_WAITALL", 0)
_CONNECTING = frozenset({errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY, errno.EINTR})
_UNIX_CONNECT_RETRY_SECONDS = 0.005


class _View(_socket.socket):
    """A second socket object over the user's descriptor, which it never closes."""

    def __del__(self) -> None:
        self.detach()


class SocketEntry:
    """What a hub knows of one socket object.

    Attributes:
        owner: Weak reference to the user's socket; an entry whose owner is another object is stale.
        armed: True once the model has a lasting registration for the descriptor (epoll only).
    """

    __slots__ = ("armed", "fd", "owner", "recv", "recv_into", "send", "view")

    def __init__(self, fd: int, owner: "weakref.ref[Any]", view: _View) -> None:
        self.fd = fd
        self.owner = owner
        self.view = view
        self.recv = view.recv
        self.recv_into = view.recv_into
        self.send = view.send
        self.armed = False


def _view_of(sock: Any, fd: int) -> _View:
    if _socket.getdefaulttimeout() is None:
        return _View(sock.family, sock.type, sock.proto, fd)
    # socket.setdefaulttimeout() is in force: CPython gives the view that timeout and sets O_NONBLOCK. Taking the
    # timeout off clears O_NONBLOCK, which belongs to the user's socket: put it back as it was.
    blocking = os.get_blocking(fd)
    view = _View(sock.family, sock.type, sock.proto, fd)
    view.settimeout(None)
    os.set_blocking(fd, blocking)
    return view


def _gathers(entry: SocketEntry, flags: int, timeout: float | None) -> bool:
    """Whether MSG_WAITALL means anything: not with a timeout (O_NONBLOCK for the kernel), for datagrams, in a peek."""
    stream = entry.view.type == _socket.SOCK_STREAM
    return stream and timeout is None and not flags & (_socket.MSG_PEEK | MSG_DONTWAIT)


class ReadinessModel(IOModel):
    """A model that is told when a descriptor is ready. Subclasses say how to watch descriptors and how to poll."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(scheduler)
        self._entries: dict[int, SocketEntry] = {}
        # Tasks that wait, by descriptor. Several may wait for the same one, as threads may: all are woken and try.
        self._readers: dict[int, list[Any]] = {}
        self._writers: dict[int, list[Any]] = {}

    # -- for subclasses ----------------------------------------------------------------------------------------

    @abstractmethod
    def _watch(self, fd: int) -> None:
        """The tasks waiting for *fd* have changed: (de)register what `_readers` and `_writers` now say.

        Raises PermissionError for a descriptor that cannot be polled because it is always ready.
        """

    def _arm(self, entry: SocketEntry) -> None:
        """A task is about to wait for this socket after EAGAIN. Default: the same as for any descriptor."""
        self._watch(entry.fd)

    def _disarm(self, entry: SocketEntry) -> None:
        """No task waits for this socket any more."""
        self._watch_quietly(entry.fd)

    def _ready(self, fd: int, events: int) -> None:
        """Subclasses report here what poll found."""
        # Made ready first, taken out after: a signal handler may raise in between, and twice does no harm.
        if events & READ:
            self._wake(self._readers, fd)
        if events & WRITE:
            self._wake(self._writers, fd)

    def _wake(self, waiting: dict[int, list[Any]], fd: int) -> None:
        tasks = waiting.get(fd)
        if tasks is not None:
            for task in tasks:
                self.scheduler.make_ready(task, IO)
            waiting.pop(fd, None)

    # -- waiting -----------------------------------------------------------------------------------------------

    def _enlist(self, fd: int, events: int, task: Any) -> None:
        if events & READ:
            self._readers.setdefault(fd, []).append(task)
        if events & WRITE:
            self._writers.setdefault(fd, []).append(task)

    def _delist(self, fd: int, task: Any) -> None:
        for waiting in (self._readers, self._writers):
            tasks = waiting.get(fd)
            if tasks is not None and task in tasks:
                tasks.remove(task)
                if not tasks:
                    del waiting[fd]

    def wait(self, fd: int, events: int, deadline: float | None = None) -> bool:
        task = self.scheduler.current
        try:
            self._enlist(fd, events, task)
            self._watch(fd)
            return self.scheduler.park(deadline) != TIMEOUT
        except PermissionError:
            return True
        finally:
            self._delist(fd, task)
            self._watch_quietly(fd)

    def _watch_quietly(self, fd: int) -> None:
        try:
            self._watch(fd)
        except OSError:
            pass  # closed meanwhile; nothing left to watch

    def wait_socket(self, sock: Any, events: int, deadline: float | None = None) -> bool:
        return self._wait_entry(self._entry(sock), events, deadline)

    def _wait_entry(self, entry: SocketEntry, events: int, deadline: float | None) -> bool:
        task = self.scheduler.current
        fd = entry.fd
        reason = 0
        try:
            self._enlist(fd, events, task)
            self._arm(entry)
            reason = self.scheduler.park(deadline)
        finally:
            # After an event for one direction the task has left that list already.
            if reason != IO or events == READ | WRITE:
                self._delist(fd, task)
                if entry.view.fileno() >= 0:
                    self._disarm(entry)
        if reason == TIMEOUT:
            return False
        self._check_still_open(entry)
        return True

    def _check_still_open(self, entry: SocketEntry) -> None:
        """After a wait: is the entry's number still its owner's? If not, it may be another connection's by now."""
        owner = entry.owner()
        if owner is None or owner.fileno() != entry.fd or entry.view.fileno() < 0:
            entry.view.detach()
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._entries.get(entry.fd) is not entry:
            # Another socket object with the same number has been used meanwhile, and may have taken the registration
            # with it when it was detached.
            entry.armed = False
            self._entries.setdefault(entry.fd, entry)

    # -- the socket table --------------------------------------------------------------------------------------

    def _entry(self, sock: Any) -> SocketEntry:
        entry = self._entries.get(sock.fileno())
        if entry is not None and entry.owner() is sock:
            return entry
        return self._adopt(sock)

    def _adopt(self, sock: Any) -> SocketEntry:
        fd = sock.fileno()
        if fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._other_owner(fd, sock) is None:
            self.forget(fd)  # stale: its owner was closed behind our back and the number was handed out again
        entries = self._entries

        def collected(_: Any) -> None:
            # The owner closed its descriptor before this runs, and the number may belong to another socket by now.
            if entries.get(fd) is entry:
                del entries[fd]
            entry.view.detach()

        entry = SocketEntry(fd, weakref.ref(sock, collected), _view_of(sock, fd))
        entries[fd] = entry
        return entry

    def _other_owner(self, fd: int, sock: Any) -> Any:
        """The living socket object in the table that has the same number as *sock*; None if there is no other one."""
        entry = self._entries.get(fd)
        owner = None if entry is None else entry.owner()
        return None if owner is None or owner is sock or owner.fileno() != fd else owner

    def forget(self, fd: int, detached: Any = None) -> None:
        if detached is not None and self._other_owner(fd, detached) is not None:
            return
        entry = self._entries.pop(fd, None)
        if entry is not None:
            entry.view.detach()
        if entry is not None or fd in self._readers or fd in self._writers:
            self._ready(fd, READ | WRITE)
            self._unwatch(fd, entry)

    def _unwatch(self, fd: int, entry: SocketEntry | None) -> None:
        """*fd* is going to be closed: drop its registration, if there is one."""

    def close(self) -> None:
        for entry in self._entries.values():
            entry.view.detach()
        self._entries.clear()

    # -- operations --------------------------------------------------------------------------------------------

    def recv(self, sock: Any, size_bytes: int, flags: int, timeout: float | None) -> bytes:
        entry = self._entries.get(sock.fileno())
        if entry is None or entry.owner() is not sock:
            entry = self._adopt(sock)
        if flags & MSG_WAITALL:
            if _gathers(entry, flags, timeout):
                return self._recv_whole(entry, size_bytes, flags)
            flags &= ~MSG_WAITALL
        deadline: float | None = None
        while True:
            try:
                return entry.recv(size_bytes, flags | MSG_DONTWAIT)
            except BlockingIOError:
                if flags & MSG_DONTWAIT:
                    raise
            if timeout is not None and deadline is None:
                deadline = clock.monotonic() + timeout
            self._wait_or_raise(entry, READ, deadline)

    def _recv_whole(self, entry: SocketEntry, size_bytes: int, flags: int) -> bytes:
        """MSG_WAITALL: the kernel ignores it together with MSG_DONTWAIT, so gather here."""
        buffer = bytearray(size_bytes)
        count = self._recv_into_whole(entry, memoryview(buffer), flags)
        return bytes(buffer[:count])

    def _recv_into_whole(self, entry: SocketEntry, view: memoryview, flags: int) -> int:
        """An error after some of it has come is the next call's, as in the kernel."""
        flags = flags & ~MSG_WAITALL | MSG_DONTWAIT
        done = 0
        while done < len(view):
            try:
                count = self._retry(entry, READ, entry.recv_into, (view[done:], 0, flags), None)
            except OSError:
                if done:
                    break
                raise
            if not count:
                break
            done += count
        return done

    def recv_into(self, sock: Any, buffer: Buffer, size_bytes: int, flags: int, timeout: float | None) -> int:
        entry = self._entry(sock)
        if flags & MSG_WAITALL:
            view = memoryview(buffer).cast("B")
            if _gathers(entry, flags, timeout) and 0 <= size_bytes <= len(view):
                return self._recv_into_whole(entry, view[: size_bytes or len(view)], flags)
            flags &= ~MSG_WAITALL
        deadline: float | None = None
        while True:
            try:
                return entry.recv_into(buffer, size_bytes, flags | MSG_DONTWAIT)
            except BlockingIOError:
                if flags & MSG_DONTWAIT:
                    raise
            if timeout is not None and deadline is None:
                deadline = clock.monotonic() + timeout
            self._wait_or_raise(entry, READ, deadline)

    def send(self, sock: Any, data: Buffer, flags: int, timeout: float | None) -> int:
        entry = self._entries.get(sock.fileno())
        if entry is None or entry.owner() is not sock:
            entry = self._adopt(sock)
        try:
            sent = entry.send(data, flags | MSG_DONTWAIT)
        except BlockingIOError:
            if flags & MSG_DONTWAIT:
                raise
            deadline = clock.deadline_after(timeout)
            self._wait_or_raise(entry, WRITE, deadline)
            sent = self._retry(entry, WRITE, entry.send, (data, flags | MSG_DONTWAIT), deadline)
        if timeout is None and sent != len(data) and not flags & MSG_DONTWAIT:
            return self._send_rest(entry, data, flags, sent)
        return sent

    def _send_rest(self, entry: SocketEntry, data: Buffer, flags: int, sent: int) -> int:
        """A blocking socket's send takes all that it is given, and much naive code relies on it; so does this one.

        An error after some of it was taken is the next call's, as in the kernel.
        """
        with memoryview(data) as view, view.cast("B") as octets:
            try:
                while sent < len(octets):
                    with octets[sent:] as rest:
                        sent += self._retry(entry, WRITE, entry.send, (rest, flags | MSG_DONTWAIT), None)
            except OSError:
                pass
        return sent

    def sendall(self, sock: Any, data: Buffer, flags: int, timeout: float | None) -> None:
        entry = self._entry(sock)
        flags |= MSG_DONTWAIT
        try:
            sent = entry.send(data, flags)
        except BlockingIOError:
            sent = 0
        with memoryview(data) as view, view.cast("B") as octets:
            if sent == len(octets):
                return
            deadline = clock.deadline_after(timeout)
            while sent < len(octets):
                if deadline is not None and deadline <= clock.monotonic():
                    raise TimeoutError("timed out")
                with octets[sent:] as rest:
                    sent += self._retry(entry, WRITE, entry.send, (rest, flags), deadline)

    def accept(self, sock: Any, timeout: float | None) -> tuple[int, Any]:
        entry = self._entry(sock)
        # Who sees a listener readable may find that somebody else was faster; only O_NONBLOCK keeps accept from waiting
        # then. Looked at each time, since `settimeout(None)` takes it away again.
        if os.get_blocking(entry.fd):
            os.set_blocking(entry.fd, False)
        accept = entry.view._accept  # type: ignore[attr-defined]
        return self._retry(entry, READ, accept, (), clock.deadline_after(timeout))  # type: ignore[no-any-return]

    def connect(self, sock: Any, address: Any, timeout: float | None) -> None:
        entry = self._entry(sock)
        deadline = clock.deadline_after(timeout)
        while True:
            fd = entry.view.fileno()  # -1, and so EBADF, if it was closed while we waited
            blocking = os.get_blocking(fd)
            if blocking:
                os.set_blocking(fd, False)
            try:
                error = entry.view.connect_ex(address)
            finally:
                if blocking:
                    os.set_blocking(fd, True)
            if error != errno.EAGAIN or sock.family != getattr(_socket, "AF_UNIX", -1):
                break
            # A Unix listener's backlog is full, and the kernel tells nobody when it has room again.
            pause = clock.monotonic() + _UNIX_CONNECT_RETRY_SECONDS
            if deadline is not None and deadline <= pause:
                self.scheduler.park(deadline)
                raise TimeoutError("timed out")
            self.scheduler.park(pause)
            self._check_still_open(entry)
        if error == 0:
            return
        if error not in _CONNECTING:
            raise OSError(error, os.strerror(error))
        while True:
            self._wait_or_raise(entry, WRITE, deadline)
            error = entry.view.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error))
            try:
                entry.view.getpeername()
            except OSError as not_yet:
                # An event from before the connect, seen late.
                if not_yet.errno != errno.ENOTCONN:
                    raise
            else:
                return

    def call(self, sock: Any, direction: int, method: str, args: tuple[Any, ...], timeout: float | None) -> Any:
        entry = self._entry(sock)
        function = getattr(entry.view, method)
        if timeout == 0:
            return function(*args)
        return self._retry(entry, direction, function, args, clock.deadline_after(timeout))

    def _retry(
        self, entry: SocketEntry, direction: int, function: Any, args: tuple[Any, ...], deadline: float | None
    ) -> Any:
        while True:
            try:
                return function(*args)
            except BlockingIOError:
                pass
            self._wait_or_raise(entry, direction, deadline)

    def _wait_or_raise(self, entry: SocketEntry, direction: int, deadline: float | None) -> None:
        if not self._wait_entry(entry, direction, deadline):
            raise TimeoutError("timed out")
