"""The operations of the readiness models (select, epoll), written once over "try, wait, retry". Read `base.py` first.

How an operation avoids blocking in C
-------------------------------------
A `socket.socket` of the user is in one of three states: blocking (timeout None), non-blocking (0), or with a timeout,
where CPython keeps the descriptor O_NONBLOCK and waits itself, natively, *before* the system call, MSG_DONTWAIT or
not. That native wait would stop every task of the thread. Setting the C timeout to 0 around each call would cost two
ioctls, be visible in `gettimeout()` and race with other threads.

So each socket gets, at its first operation in a hub, an entry (`_entry.py`) that makes its own calls on the same
descriptor, with MSG_DONTWAIT: they go straight to the kernel and return at once, whatever timeout the user set and
whether or not the descriptor is O_NONBLOCK; nothing of the user's socket is touched. What has no such call of its own
goes through a second `_socket.socket` over the descriptor (`_view.py`), whose C timeout is None for ever. Only accept
and connect know no flags: a listener is made O_NONBLOCK before it accepts, and stays so; connect switches O_NONBLOCK on
for the one call.

Who may be in the table
-----------------------
An entry belongs to one socket *object*: it is found by descriptor number and then checked by identity, because the
kernel hands out a closed number again at once. Entries leave by `forget` (close, detach) or when the owner is
collected. The view never closes the descriptor: it is detached first, in `__del__` at the latest.

While a task waits, a plain thread may close the socket and the number may be handed out again; so whoever wakes looks
whether the owner still has the number before the entry is used again. Two living socket objects may also share one
number (`socket.socket(fileno=s.fileno())`): the table has the one that was used last, and the other's tasks wait for
the number, as those of `wait` do.

Fairness: every operation costs its task one of its `budget`, and who has none left lets the others run first. Before
the operation, not after it: a kill that is raised then takes nothing with it that has been read.
"""

import _socket
import errno
import os
import select
from typing import Any, NoReturn

from rimstone import _originals, clock
from rimstone.clock import monotonic
from rimstone.errors import CannotWait
from rimstone.iomodel import _entry
from rimstone.iomodel.base import (
    CLOSED,
    IO,
    KILLED,
    NEVER,
    READ,
    TIMEOUT,
    UNPARKED,
    WRITE,
    Buffer,
    IOModel,
    Scheduler,
    Waiting,
)

__all__ = ["ReadinessModel"]

MSG_DONTWAIT = getattr(_socket, "MSG_DONTWAIT", 0)
MSG_WAITALL = getattr(_socket, "MSG_WAITALL", 0)
# EWOULDBLOCK is what Windows says. Elsewhere it is EAGAIN: there is no room, for a Unix socket in the listener's queue.
_CONNECTING = frozenset({errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY, errno.EINTR}) - {errno.EAGAIN}
_INTERNET = frozenset(getattr(_socket, name) for name in ("AF_INET", "AF_INET6") if hasattr(_socket, name))
_UNIX_CONNECT_RETRY_SECONDS = 0.005
_ERRORS_PAUSE_SECONDS = 0.005
_TIMED_OUT, _KILLED = -1000, -1001  # instead of an errno


def _gathers(sock: Any, flags: int, timeout: float | None) -> bool:
    """Whether MSG_WAITALL means anything: not with a timeout (O_NONBLOCK for the kernel), for datagrams, in a peek."""
    stream = sock.type == _socket.SOCK_STREAM
    return stream and timeout is None and not flags & (_socket.MSG_PEEK | MSG_DONTWAIT)


class ReadinessModel(IOModel):
    """A model that is told when a descriptor is ready. Subclasses say how to watch descriptors and how to poll."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(scheduler)
        self._sockets = _entry.Sockets()
        self._entries: list[_entry.SocketEntry | None] = []  # by descriptor number
        # Tasks that wait for a number rather than a socket. Several may wait for the same one, as threads may: all are
        # woken and try.
        self._readers: dict[int, list[Any]] = {}
        self._writers: dict[int, list[Any]] = {}
        self._waiting: _entry.SocketEntry | None = None  # waited when `waits` was last asked

    # -- for subclasses ----------------------------------------------------------------------------------------

    def _watch(self, fd: int) -> None:
        """The tasks waiting for *fd* have changed: (de)register what `_wanted` now says.

        Raises PermissionError for a descriptor that cannot be polled because it is always ready.
        """
        raise NotImplementedError

    def _arm(self, entry: _entry.SocketEntry) -> None:
        """A task is about to wait for this socket after EAGAIN. Default: the same as for any descriptor."""
        self._watch(entry.fd)

    def _disarm(self, entry: _entry.SocketEntry) -> None:
        """No task waits for this socket any more."""
        self._watch_quietly(entry.fd)

    def _entry_at(self, fd: int) -> "_entry.SocketEntry | None":
        """The entry in the table for that number, whoever owns it."""
        entries = self._entries
        return entries[fd] if 0 <= fd < len(entries) else None

    def _wanted(self, fd: int) -> int:
        """What the tasks waiting for *fd* wait for: READ, WRITE, both or 0."""
        wanted = (READ if fd in self._readers else 0) | (WRITE if fd in self._writers else 0)
        entry = self._entry_at(fd)
        if entry is not None:
            wanted |= (READ if entry.reader is not None else 0) | (WRITE if entry.writer is not None else 0)
        return wanted

    def _ready(self, fd: int, events: int) -> None:
        """Subclasses report here what poll found."""
        entry = self._entry_at(fd)
        # Made ready first, taken out after: a signal handler may raise in between, and twice does no harm.
        if events & READ:
            if entry is not None:
                entry.dry = False
                if entry.reader is not None:
                    self._wake(entry, entry.reader)
                    entry.reader = None
            if self._readers:
                self._wake_by_number(self._readers, fd)
        if events & WRITE:
            if entry is not None and entry.writer is not None:
                self._wake(entry, entry.writer)
                entry.writer = None
            if self._writers:
                self._wake_by_number(self._writers, fd)

    def _wake(self, entry: _entry.SocketEntry, waiting: Any) -> None:
        if type(waiting) is list:
            for task in waiting:
                self.scheduler.happened(task, entry)
        else:
            self.scheduler.happened(waiting, entry)

    def _wake_by_number(self, waiting: dict[int, list[Any]], fd: int) -> None:
        tasks = waiting.get(fd)
        if tasks is not None:
            for task in tasks:
                self.scheduler.make_ready(task, IO)
            waiting.pop(fd, None)

    def _in_vain(self, entry: _entry.SocketEntry, sock: Any, direction: int, until: float) -> None:
        """A task was told that its socket is ready, tried, and is about to wait again, *until* at the latest.

        It pauses, if all that makes the socket "ready" is that nobody has read its error queue. So it is after an ICMP
        error under IP_RECVERR, or a timestamp: poll(2) says POLLERR until the queue has been read (MSG_ERRQUEUE), while
        a blocking recv waits for data. A model that reports a change once needs no such pause.
        """
        if self._pause_in_vain(entry, sock, direction, until) == KILLED:
            self.scheduler.current.raise_pending()

    def _pause_in_vain(self, entry: _entry.SocketEntry, sock: Any, direction: int, until: float) -> int:
        """The same; KILLED instead of raising what was thrown into the task."""
        if not _has_only_errors(entry.fd, direction):
            return IO
        reason = self._sleep(min(until, monotonic() + _ERRORS_PAUSE_SECONDS))
        if reason != KILLED:
            self._come_back(entry, sock)
        return reason

    def _sleep(self, until: float) -> int:
        """Wait for nothing, until then; KILLED instead of raising what was thrown into the task."""
        self.scheduler.check_wait()
        self.scheduler.current.enlisted = True
        return self.scheduler.wait(None, until)

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
        scheduler = self.scheduler
        reason = UNPARKED
        while reason == UNPARKED:  # for no reason: it might not be ready
            scheduler.check_wait()
            task = scheduler.current
            try:
                task.enlisted = True
                self._enlist(fd, events, task)
                try:
                    self._watch(fd)
                except PermissionError:
                    return True
                reason = self._wait_by_number(deadline)
            finally:
                self._delist(fd, task)
                self._watch_quietly(fd)
        if reason == CLOSED:  # the number may be somebody else's by now
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return reason != TIMEOUT

    def _wait_by_number(self, deadline: float | None) -> int:
        """The wait of a task that is `enlisted` for a descriptor, not for a socket; a kill is raised here."""
        reason = self.scheduler.wait(None, NEVER if deadline is None else deadline)
        if reason == KILLED:
            self.scheduler.current.raise_pending()
        return reason

    def _watch_quietly(self, fd: int) -> None:
        try:
            self._watch(fd)
        except OSError:
            pass  # closed meanwhile; nothing left to watch

    def wait_socket(self, sock: Any, events: int, deadline: float | None = None) -> bool:
        if self.scheduler.budget <= 0:
            self.scheduler.budget = 1  # others must not run now: the edge that is to come would be lost
        entry = self._entry_of(sock)
        if events == READ | WRITE:
            return self._wait_both(entry, sock, deadline)
        reason = self._wait_entry(entry, sock, events, deadline)
        if reason == KILLED:
            self.scheduler.current.raise_pending()
        if reason == IO:
            self._in_vain(entry, sock, events, NEVER if deadline is None else deadline)  # its caller tries again
        return reason != TIMEOUT

    def _wait_both(self, entry: _entry.SocketEntry, sock: Any, deadline: float | None) -> bool:
        self.scheduler.check_wait()
        task = self.scheduler.current
        fd = entry.fd
        try:
            task.enlisted = True
            self._enlist(fd, READ | WRITE, task)
            self._arm(entry)
            reason = self._wait_by_number(deadline)
        finally:
            self._delist(fd, task)
            if not entry.closed:
                self._disarm(entry)
        if reason == TIMEOUT:
            return False
        self._come_back(entry, sock)
        return True

    def _wait_entry(self, entry: _entry.SocketEntry, sock: Any, direction: int, deadline: float | None) -> int:
        """Wait after EAGAIN; returns why it is over: IO, UNPARKED, TIMEOUT or KILLED.

        As `Scheduler.wait` it does not raise what was thrown into the task. That may be any exception, a
        ConnectionResetError too; so an OSError that comes from here is the socket's own.
        """
        self._enlist_at(entry, direction)
        return self._waited(entry, sock, self.scheduler.wait(entry, NEVER if deadline is None else deadline))

    def _waited(self, entry: _entry.SocketEntry, sock: Any, reason: int) -> int:
        """The wait after `_enlist_at` has ended, for *reason*, which is returned."""
        if reason != IO:  # after an event it has left already
            self._leave(entry, self.scheduler.current)
            if reason == KILLED:
                return reason
        entry.dry = False
        if reason != TIMEOUT and (entry.closed or self._sockets.fd(sock) != entry.fd or self._is_displaced(entry)):
            self._come_back(entry, sock)
        return reason

    def _until_ready(
        self, entry: _entry.SocketEntry, sock: Any, direction: int, deadline: float | None, again: bool = False
    ) -> None:
        """Wait after EAGAIN, for an operation that has nothing to lose: raises what ends the wait before its time.

        *again*: the same operation has waited before.
        """
        if again:
            self._in_vain(entry, sock, direction, NEVER if deadline is None else deadline)
        reason = self._wait_entry(entry, sock, direction, deadline)
        if reason == KILLED:
            self.scheduler.current.raise_pending()
        if reason == TIMEOUT:
            _timed_out()

    def _end_wait(self, entry: _entry.SocketEntry, sock: Any, reason: int) -> None:
        """The same, where it has waited by itself."""
        self._waited(entry, sock, reason)
        if reason == KILLED:
            self.scheduler.current.raise_pending()
        if reason == TIMEOUT:
            _timed_out()

    def _enlist_at(self, entry: _entry.SocketEntry, direction: int) -> None:
        """The current task is about to `wait` for this socket. If that is cut short, what is left here does no harm.

        A handler that may not wait is refused before anything is stored: `current` is then whoever it has struck.
        """
        self.scheduler.check_wait()
        task: Waiting = self.scheduler.current
        task.enlisted = True
        if self._is_displaced(entry):
            self._enlist(entry.fd, direction, task)
        elif direction == READ:
            entry.reader = task if entry.reader is None else _both(entry.reader, task)
        else:
            entry.writer = task if entry.writer is None else _both(entry.writer, task)
        if not entry.armed:
            self._arm_or_leave(entry, task)

    def _arm_or_leave(self, entry: _entry.SocketEntry, task: Any) -> None:
        """A task that cannot wait here must leave at once: its error holds its socket, and the entry would hold it."""
        try:
            self._arm(entry)
        except BaseException:
            _take_out(entry, task)
            self._delist(entry.fd, task)
            raise

    def _is_displaced(self, entry: _entry.SocketEntry) -> bool:
        """True if another socket object with the same number has the table."""
        return self._entries[entry.fd] is not entry

    def _leave(self, entry: _entry.SocketEntry, task: Any) -> None:
        _take_out(entry, task)
        self._delist(entry.fd, task)
        if not entry.closed:
            self._disarm(entry)

    def _come_back(self, entry: _entry.SocketEntry, sock: Any) -> None:
        """After a wait: is the entry's number still its owner's? If not, it may be another connection's by now."""
        fd = entry.fd
        if entry.closed or self._sockets.fd(sock) != fd:
            entry.detach()
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._entries[fd] is not entry:
            # Another socket object with the same number has been used meanwhile, and may have taken the registration
            # with it when it was detached.
            entry.armed = False
            if self._entries[fd] is None:
                self._entries[fd] = entry

    # -- the socket table --------------------------------------------------------------------------------------

    def _entry_of(self, sock: Any) -> _entry.SocketEntry:
        """The entry of *sock*, for an operation: this is where its task may have to let others run first."""
        scheduler = self.scheduler
        scheduler.budget -= 1
        if scheduler.budget < 0:
            scheduler.give_way()
        entries = self._entries
        fd: int = self._sockets.fd(sock)
        if 0 <= fd < len(entries):
            entry = entries[fd]
            if entry is not None and entry.is_of(sock):
                return entry
        return self._adopt(sock, fd)

    def _adopt(self, sock: Any, fd: int) -> _entry.SocketEntry:
        if fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        entries = self._entries
        if fd >= len(entries):
            entries.extend([None] * (fd + 1 - len(entries)))
        if self._other_owner(fd, sock) is not None:
            self._move_to_number(fd)
        elif entries[fd] is not None:  # else who waits for the bare number goes on: nothing has become ready
            # Stale: its owner was closed behind our back and the number was handed out again. Not closed a second time:
            # who waits for the bare number may mean the new one, and tries.
            self.forget(fd, detached=sock)

        def collected(_: Any) -> None:
            # The owner closed its descriptor before this runs, and the number may belong to another socket by now.
            if fd < len(entries) and entries[fd] is entry:
                entries[fd] = None
            entry.detach()

        entry = _entry.SocketEntry(sock, fd, collected)
        entries[fd] = entry
        return entry

    def _move_to_number(self, fd: int) -> None:
        """Another socket object takes the table: who waits for the present one waits for its number from now on."""
        entry = self._entries[fd]
        assert entry is not None
        for waiting, direction in ((entry.reader, READ), (entry.writer, WRITE)):
            for task in waiting if type(waiting) is list else [] if waiting is None else [waiting]:
                self._enlist(fd, direction, task)
        entry.reader = entry.writer = None
        entry.plain_tcp = entry.dry = False  # the events are the other one's from now on

    def _other_owner(self, fd: int, sock: Any) -> Any:
        """The living socket object in the table that has the same number as *sock*; None if there is no other one."""
        entry = self._entry_at(fd)
        owner = None if entry is None else entry.owner()
        return None if owner is None or owner is sock or owner.fileno() != fd else owner

    def forget(self, fd: int, detached: Any = None) -> None:
        if detached is not None and self._other_owner(fd, detached) is not None:
            return
        entry = self._entry_at(fd)
        if entry is not None:
            entry.detach()
        if entry is not None or fd in self._readers or fd in self._writers:
            waited = self._wanted(fd) != 0
            if detached is None:
                for task in (*self._readers.get(fd, ()), *self._writers.get(fd, ())):
                    self.scheduler.make_ready(task, CLOSED)
            self._ready(fd, READ | WRITE)
            if entry is not None:
                self._entries[fd] = None
            self._unwatch(fd, entry)
            if waited:
                self.scheduler.wake_if_blocked()  # a signal handler has closed it, and the poll goes on after that

    def _unwatch(self, fd: int, entry: "_entry.SocketEntry | None") -> None:
        """*fd* is going to be closed: drop its registration, if there is one."""

    def close(self) -> None:
        for entry in self._entries:
            if entry is not None:
                entry.detach()
        self._entries[:] = [None] * len(self._entries)  # as long as it is: who still waits looks there

    def waits(self) -> bool:
        if self._readers or self._writers:
            return True
        # Asked before each poll that blocks. The socket that waited then waits again, as a rule; to count all that wait
        # would cost every wait a little, and to look for one among thousands of idle sockets costs much each time.
        entry = self._waiting
        if entry is not None and (entry.reader is not None or entry.writer is not None):
            return True
        for entry in self._entries:
            if entry is not None and (entry.reader is not None or entry.writer is not None):
                self._waiting = entry
                return True
        self._waiting = None
        return False

    def _state(self) -> str:
        known = sum(entry is not None for entry in self._entries)
        waiting = sum(self._wanted(fd) != 0 for fd in {*range(len(self._entries)), *self._readers, *self._writers})
        return f"{known} sockets known, {waiting} descriptors waited for"

    # -- operations --------------------------------------------------------------------------------------------

    def recv(self, sock: Any, size_bytes: int, flags: int, timeout: float | None) -> bytes:
        data = self.begin_recv(sock, size_bytes, flags, timeout)
        if type(data) is not bytes:
            until = clock.until_after(timeout)
            while type(data) is not bytes:
                data = self.end_recv(sock, size_bytes, flags, data, until, self.scheduler.wait(data, until))
        return data

    def begin_recv(self, sock: Any, size_bytes: int, flags: int, timeout: float | None) -> Any:
        entry = self._entry_of(sock)
        if flags & MSG_WAITALL and _gathers(sock, flags, timeout):
            # The kernel ignores it together with MSG_DONTWAIT, so gather here.
            buffer = bytearray(size_bytes)
            count = self._recv_into_whole(entry, sock, memoryview(buffer), flags)
            return bytes(buffer[:count])
        data = self._try_recv(entry, size_bytes, flags)
        if data is not None:
            return data
        if flags and flags & MSG_DONTWAIT:
            _would_wait()
        self._enlist_at(entry, READ)
        return entry

    def end_recv(self, sock: Any, size_bytes: int, flags: int, waiting: Any, until: float, reason: int) -> Any:
        entry: _entry.SocketEntry = waiting
        self._end_wait(entry, sock, reason)
        data = self._try_recv(entry, size_bytes, flags)
        if data is not None:
            return data
        self._in_vain(entry, sock, READ, until)
        self._enlist_at(entry, READ)
        return entry

    def _try_recv(self, entry: _entry.SocketEntry, size_bytes: int, flags: int) -> bytes | None:
        if flags:
            return entry.try_recv(size_bytes, flags & ~MSG_WAITALL)
        if entry.dry and size_bytes > 0:
            return None
        data = entry.try_recv(size_bytes, 0)
        # Less than asked for: the kernel had no more, and will tell when more comes (see `epoll.py`).
        if data is not None and entry.armed and entry.plain_tcp and 0 < len(data) < size_bytes:
            entry.dry = True
        return data

    def _deadline(self, flags: int, timeout: float | None, deadline: float | None) -> float | None:
        """When an operation that has just failed to go on at once must give up. *deadline*: what it was before."""
        if flags & MSG_DONTWAIT:
            _would_wait()
        if timeout is not None and deadline is None:
            return monotonic() + timeout
        return deadline

    def _recv_into_whole(self, entry: _entry.SocketEntry, sock: Any, view: memoryview, flags: int) -> int:
        """An error after some of it has come is the next call's, as in the kernel.

        So is a kill or a timeout of the task: the call returns what it has, as one does that a signal interrupts.
        """
        flags &= ~MSG_WAITALL
        done = 0
        again = False  # the last try was in vain, too
        while done < len(view):
            reason = IO
            try:
                count = entry.try_recv_into(view[done:], 0, flags)
                if count < 0:
                    reason = self._pause_in_vain(entry, sock, READ, NEVER) if again else IO
                    if reason != KILLED:
                        reason = self._wait_entry(entry, sock, READ, None)
                again = count < 0
            except OSError:
                if done:
                    break
                raise
            except BaseException as interruption:
                if not done:
                    raise
                if not isinstance(interruption, CannotWait):  # that one is a handler's, which gets what there is
                    self.scheduler.current.throw_in(interruption)
                break
            if reason == KILLED:
                if done:
                    break  # and it strikes at the next wait
                self.scheduler.current.raise_pending()
            if not count:
                break
            done += max(0, count)
        return done

    def recv_into(self, sock: Any, buffer: Buffer, size_bytes: int, flags: int, timeout: float | None) -> int:
        count = self.begin_recv_into(sock, buffer, size_bytes, flags, timeout)
        if type(count) is not int:
            until = clock.until_after(timeout)
            with memoryview(buffer):
                while type(count) is not int:
                    reason = self.scheduler.wait(count, until)
                    count = self.end_recv_into(sock, buffer, size_bytes, flags, count, until, reason)
        return count

    def begin_recv_into(self, sock: Any, buffer: Buffer, size_bytes: int, flags: int, timeout: float | None) -> Any:
        entry = self._entry_of(sock)
        if flags & MSG_WAITALL:
            view = memoryview(buffer).cast("B")
            if _gathers(sock, flags, timeout) and 0 <= size_bytes <= len(view):
                return self._recv_into_whole(entry, sock, view[: size_bytes or len(view)], flags)
            flags &= ~MSG_WAITALL
        count = entry.try_recv_into(buffer, size_bytes, flags)
        if count >= 0:
            return count
        if flags and flags & MSG_DONTWAIT:
            _would_wait()
        self._enlist_at(entry, READ)
        return entry

    def end_recv_into(
        self, sock: Any, buffer: Buffer, size_bytes: int, flags: int, waiting: Any, until: float, reason: int
    ) -> Any:
        entry: _entry.SocketEntry = waiting
        self._end_wait(entry, sock, reason)
        count = entry.try_recv_into(buffer, size_bytes, flags & ~MSG_WAITALL)
        if count >= 0:
            return count
        self._in_vain(entry, sock, READ, until)
        self._enlist_at(entry, READ)
        return entry

    def send(self, sock: Any, data: Buffer, flags: int, timeout: float | None) -> int:
        entry = self._entry_of(sock)
        deadline: float | None = None
        again = False
        while True:
            sent = entry.try_send(data, flags)
            if sent >= 0:
                break
            deadline = self._deadline(flags, timeout, deadline)
            self._until_ready(entry, sock, WRITE, deadline, again)
            again = True
        if timeout is None and not flags & MSG_DONTWAIT and sent != self._size(data):
            return self._send_rest(entry, sock, data, flags, sent)
        return sent

    def _size(self, data: Buffer) -> int:
        """In bytes."""
        if type(data) is bytes:
            return len(data)
        with memoryview(data) as view:
            return view.nbytes

    def _send_rest(self, entry: _entry.SocketEntry, sock: Any, data: Buffer, flags: int, sent: int) -> int:
        """A blocking socket's send takes all that it is given, and much naive code relies on it; so does this one.

        An error after some of it was taken is the next call's, as in the kernel. A kill is the task's, and raised.
        """
        again = False  # the last try was in vain, too
        with memoryview(data) as view, view.cast("B") as octets:
            while sent < len(octets):
                reason = IO
                try:
                    with octets[sent:] as rest:
                        count = entry.try_send(rest, flags)
                    if count < 0:
                        reason = self._pause_in_vain(entry, sock, WRITE, NEVER) if again else IO
                        if reason != KILLED:
                            reason = self._wait_entry(entry, sock, WRITE, None)
                    again = count < 0
                except OSError:
                    break
                if reason == KILLED:
                    self.scheduler.current.raise_pending()
                sent += max(0, count)
        return sent

    def _send_some(self, entry: _entry.SocketEntry, sock: Any, data: Buffer, flags: int, deadline: float | None) -> int:
        again = False
        while True:
            sent = entry.try_send(data, flags)
            if sent >= 0:
                return sent
            self._until_ready(entry, sock, WRITE, deadline, again)
            again = True

    def sendall(self, sock: Any, data: Buffer, flags: int, timeout: float | None) -> None:
        entry = self._entry_of(sock)
        sent = max(0, entry.try_send(data, flags))
        with memoryview(data) as view, view.cast("B") as octets:
            if sent == len(octets):
                return
            deadline = clock.deadline_after(timeout)
            while sent < len(octets):
                if deadline is not None and deadline <= monotonic():
                    raise TimeoutError("timed out")
                with octets[sent:] as rest:
                    sent += self._send_some(entry, sock, rest, flags, deadline)

    def accept(self, sock: Any, timeout: float | None) -> tuple[int, Any]:
        entry = self._entry_of(sock)
        # Who sees a listener readable may find that somebody else was faster; only O_NONBLOCK keeps accept from waiting
        # then. Looked at each time, since `settimeout(None)` takes it away again.
        if os.get_blocking(entry.fd):
            os.set_blocking(entry.fd, False)
        accept = entry.view._accept  # type: ignore[attr-defined]
        return self._retry(entry, sock, READ, accept, (), clock.deadline_after(timeout))  # type: ignore[no-any-return]

    def connect(self, sock: Any, address: Any, timeout: float | None) -> None:
        error = self._connect(sock, address, timeout)
        if error == _TIMED_OUT:
            _timed_out()
        if error:
            raise OSError(error, os.strerror(error))

    def connect_ex(self, sock: Any, address: Any, timeout: float | None) -> int:
        error = self._connect(sock, address, timeout)
        return errno.EAGAIN if error == _TIMED_OUT else error

    def _connect(self, sock: Any, address: Any, timeout: float | None) -> int:
        """An errno, 0 for none, or `_TIMED_OUT`."""
        if self.scheduler.budget <= 0:
            self.scheduler.give_way()  # now: what is raised here is no error of the socket's
        until = clock.until_after(timeout)
        try:
            entry = self._entry_of(sock)
            error = self._begin_connect(entry, sock, address, until)
            if error in _CONNECTING:
                error = self._end_connect(entry, sock, address, until)
        except _socket.gaierror:  # of an address of another family; it has no errno
            raise
        except OSError as failure:
            if failure.errno is None:
                raise
            return failure.errno
        if error == _KILLED:
            self.scheduler.current.raise_pending()
        return error

    def _begin_connect(self, entry: _entry.SocketEntry, sock: Any, address: Any, until: float) -> int:
        """What connect(2) says, `_TIMED_OUT` or `_KILLED`. An OSError that is raised is the socket's own."""
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
                return error
            # A Unix listener's backlog is full, and the kernel tells nobody when it has room again.
            pause = min(until, monotonic() + _UNIX_CONNECT_RETRY_SECONDS)
            reason = self._sleep(pause)
            if reason == KILLED:
                return _KILLED
            if reason == TIMEOUT and pause == until:
                return _TIMED_OUT
            self._come_back(entry, sock)

    def _end_connect(self, entry: _entry.SocketEntry, sock: Any, address: Any, until: float) -> int:
        """What has become of it, `_TIMED_OUT` or `_KILLED`. An OSError that is raised is the socket's own."""
        while True:
            reason = self._wait_entry(entry, sock, WRITE, until)
            if reason == KILLED:
                return _KILLED
            if reason == TIMEOUT:
                return _TIMED_OUT
            error = entry.view.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
            if error:
                return error
            try:
                entry.view.getpeername()
            except OSError as not_yet:
                # An event from before the connect, seen late.
                if not_yet.errno != errno.ENOTCONN:
                    raise
            else:
                # To whoever asks first Linux says that it is connected, later that it was.
                error = entry.view.connect_ex(address) if sock.family in _INTERNET else 0
                return 0 if error == errno.EISCONN else error

    def call(self, sock: Any, direction: int, method: str, args: tuple[Any, ...], timeout: float | None) -> Any:
        entry = self._entry_of(sock)
        function = getattr(entry.view, method)
        if timeout == 0:
            return function(*args)
        return self._retry(entry, sock, direction, function, args, clock.deadline_after(timeout))

    def _retry(
        self,
        entry: _entry.SocketEntry,
        sock: Any,
        direction: int,
        function: Any,
        args: tuple[Any, ...],
        deadline: float | None,
    ) -> Any:
        again = False
        while True:
            try:
                return function(*args)
            except BlockingIOError:
                pass
            self._until_ready(entry, sock, direction, deadline, again)
            again = True


def _would_wait() -> NoReturn:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _timed_out() -> NoReturn:
    raise TimeoutError("timed out")


def _has_only_errors(fd: int, direction: int) -> bool:
    """Whether poll(2) has nothing to say of *fd* but POLLERR."""
    if _originals.poll is None:  # Windows, which has no error queues either
        return False
    question = _originals.poll()
    question.register(fd, select.POLLIN if direction == READ else select.POLLOUT)
    answer: list[tuple[int, int]] = question.poll(0)
    return answer == [(fd, select.POLLERR)]


def _both(waiting: Any, task: Any) -> list[Any]:
    """One more task waits for the same thing."""
    return [*waiting, task] if type(waiting) is list else [waiting, task]


def _take_out(entry: _entry.SocketEntry, task: Any) -> None:
    entry.reader = _without(entry.reader, task)
    entry.writer = _without(entry.writer, task)


def _without(waiting: Any, task: Any) -> Any:
    if waiting is task:
        return None
    if type(waiting) is list:
        return [other for other in waiting if other is not task] or None
    return waiting
