"""io_uring(7): operations are handed to the kernel and come back done. Linux 6.1, compiled core. Read `_readiness.py`.

What the kernel does, and what follows
--------------------------------------
* A request is written into a ring in memory; one `io_uring_enter` a turn of the hub submits what all tasks have asked
  for, and brings what is done. With five hundred connections that is a few system calls for hundreds of messages,
  where epoll needs two for each. It pays by the crowd: the fewer tasks were made ready in the last turn, the less there
  is to share, and a task that is (nearly) alone makes its own system call at once, as under epoll.
* A receive is submitted when the last one left nothing behind; the kernel is told to wait first then, instead of
  trying in vain. That is only a hint: it looks again before it waits, so no data is overlooked if the hint is wrong.
  Data comes in a buffer that the kernel picks when there is some. Where it has none left (ENOBUFS), the task receives
  by itself.
* Only streams are received so: the buffers are too small for some datagrams. What else waits (datagrams, sendmsg,
  MSG_PEEK, connect, a raw descriptor) tries first and then waits by IORING_OP_POLL_ADD, which looks at once whether the
  descriptor is ready: level-triggered, one shot, one request for each task that waits.
* A request holds the *file*, not the number: closing a socket while a receive is pending would leave it open, and its
  peer waiting. So `forget` comes back only when all that waits for the descriptor has been cancelled. (A plain thread
  that closes it behind our back does leave it open, until somebody here uses the number again.)
* A receive that succeeds takes the data from the socket, whether or not its task still wants them. The kernel does it
  only within our own `io_uring_enter` (IORING_SETUP_DEFER_TASKRUN; hence Linux 6.1), so it is enough to submit the
  cancellation first: of a task that is killed, `cancel` is told at once; one whose time is up runs before the next
  call. When the answer was there before, it is what the operation returns, and the kill strikes at the next park.
* The data of a send stay where they are until it is done, killed or not: the task leaves only after the kernel has.
* What there is of a file in the page cache is copied within the call that submits the request, or within a later one
  of ours when it has come from the disk. Good for a little; of more than 128 KB (up to 1 MB, then the next piece) a
  thread of the kernel does all (IOSQE_ASYNC). One CPU, ext4, 8 KB: 12 us so, 20 us by such a thread; 1 MB: a sibling's
  timer is 0.5 ms late, 0.1 ms by a thread. Submitted at once, since a sibling may close the descriptor.
* A request on a file is not cancelled: its task waits on, whatever is thrown into it. The position of the descriptor is
  not used: a request neither locks it nor moves it before it is done, and two tasks would read the same part.
* Multishot requests would go on taking data (or connections) that nobody asked for: invisible to select, MSG_PEEK,
  another process. None is used; docs/adr/0010 has the figures, also for timeouts that the kernel keeps.
"""

import _socket
import errno
import os
from typing import Any

from rimstone.clock import monotonic, until_after
from rimstone.iomodel import _entry
from rimstone.iomodel._identity import is_still
from rimstone.iomodel._readiness import ReadinessModel, _both, _gathers
from rimstone.iomodel._wakeup import Wakeup
from rimstone.iomodel.base import CLOSED, IO, KILLED, NEVER, READ, TIMEOUT, UNPARKED, WRITE, Buffer, Scheduler, Waiting

try:
    from rimstone.iomodel import _ring
except ImportError:  # the pure core: there is no twin of it in Python
    _ring = None  # type: ignore[assignment]

__all__ = ["UringModel"]

MSG_DONTWAIT = getattr(_socket, "MSG_DONTWAIT", 0)
MSG_WAITALL = getattr(_socket, "MSG_WAITALL", 0)
_PIECE_BYTES = 1024 * 1024  # of a file
_ONE_CALL_BYTES = 0x7FFFF000  # what one system call takes at most
_BUDGET_BYTES = 1024  # copying so many costs one of the budget, where it takes no wait
_CROWD = 4  # so many operations done in one turn make it worth while to share the next system call
_AGAIN = frozenset({-errno.ECANCELED, -errno.ENOBUFS, -errno.EINTR})
_FAMILIES = frozenset({_socket.AF_INET, _socket.AF_INET6, getattr(_socket, "AF_UNIX", None)})  # whose addresses we read


class UringModel(ReadinessModel):
    """Fewer system calls for many connections."""

    name = "uring"
    completes_files = True
    compiled_only = True

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(scheduler)
        self._ring: _ring.Ring = _ring.Ring(scheduler)
        self._wakeup = Wakeup()
        self._ring.watch_wakeup(self._wakeup.fd)

    @classmethod
    def why_unavailable(cls) -> str | None:
        return "it needs the compiled core; see 'rimstone doctor'" if _ring is None else _ring.why_unavailable()

    # -- waiting -----------------------------------------------------------------------------------------------

    def _begin(self, operation: "_ring.Operation", entry: _entry.SocketEntry, direction: int) -> None:
        """The current task is about to `wait` for *operation*, and hands what that returns to `_ended`."""
        self._prepare(operation)
        operation.entry = entry
        task = self.scheduler.current
        if self._is_displaced(entry):
            self._enlist(entry.fd, direction, task)
        elif direction == READ:
            entry.reader = task if entry.reader is None else _both(entry.reader, task)
        else:
            entry.writer = task if entry.writer is None else _both(entry.writer, task)

    def _prepare(self, operation: "_ring.Operation") -> None:
        if not self.scheduler.may_wait():
            self._ring.withdraw(operation)
            self.scheduler.check_wait()
        task: Waiting = self.scheduler.current
        task.enlisted = True

    def _left(self, operation: "_ring.Operation", reason: int) -> int:
        """The wait after `_begin` has ended, for *reason*; returns what is to be made of it.

        KILLED: raise what was thrown into the task; not if the operation is done and has taken something, which must
        not be lost: it strikes at the next wait then. TIMEOUT: the time was up. IO: there is a `_result`.
        """
        entry: _entry.SocketEntry = operation.entry
        task = self.scheduler.current
        if entry.reader is task:
            entry.reader = None
        elif entry.writer is task:
            entry.writer = None
        else:
            self._leave(entry, task)
        if not operation.done:
            self._ring.withdraw(operation)
        operation.release()
        if reason == KILLED and not operation.has_taken():
            return KILLED
        if reason == TIMEOUT and operation.result == -errno.ECANCELED:
            return TIMEOUT
        return IO

    def _result(self, operation: "_ring.Operation", sock: Any, direction: int) -> int:
        """What the operation brought, or one of `_AGAIN`.

        Raises:
            OSError: it failed, or the socket was closed meanwhile. Never what was thrown into the task, which may be an
                OSError as well.
        """
        entry: _entry.SocketEntry = operation.entry
        if direction == WRITE and operation.result >= 0:
            return operation.result
        if entry.closed or self._sockets.fd(sock) != entry.fd or self._is_displaced(entry):
            self._come_back(entry, sock)
        if operation.result < 0 and operation.result not in _AGAIN:
            raise OSError(-operation.result, os.strerror(-operation.result))
        return operation.result

    def _ended(self, operation: "_ring.Operation", sock: Any, direction: int, reason: int) -> int:
        """Both, for the operations that have nothing to lose.

        Raises:
            TimeoutError: its time was up.
            OSError: as `_result`.
            BaseException: what was thrown into the task.
        """
        reason = self._left(operation, reason)
        if reason == KILLED:
            self.scheduler.current.raise_pending()
        if reason == TIMEOUT:
            raise TimeoutError("timed out")
        return self._result(operation, sock, direction)

    def _await(
        self, operation: "_ring.Operation", entry: _entry.SocketEntry, sock: Any, direction: int, until: float
    ) -> int:
        """`_begin`, the wait and `_ended`, for the operations that need not be shallow."""
        if operation.done:
            operation.entry = entry
            return self._ended(operation, sock, direction, IO)
        self._begin(operation, entry, direction)
        return self._ended(operation, sock, direction, self.scheduler.wait(operation, until))

    def _wait_entry(self, entry: _entry.SocketEntry, sock: Any, direction: int, deadline: float | None) -> int:
        operation = self._ring.poll_add(self.scheduler.current, sock, entry.fd, direction)
        self._begin(operation, entry, direction)
        reason = self._left(operation, self.scheduler.wait(operation, NEVER if deadline is None else deadline))
        if reason == IO:
            self._result(operation, sock, direction)
        return reason

    def _wait_both(self, entry: _entry.SocketEntry, sock: Any, deadline: float | None) -> bool:
        if not self.wait(entry.fd, READ | WRITE, deadline):
            return False
        self._come_back(entry, sock)
        return True

    def wait(self, fd: int, events: int, deadline: float | None = None) -> bool:
        task = self.scheduler.current
        reason = UNPARKED
        while reason == UNPARKED:  # for no reason: it might not be ready
            operation = self._ring.poll_add(task, None, fd, events)
            try:
                self._prepare(operation)
                self._enlist(fd, events, task)
                reason = self.scheduler.wait(operation, NEVER if deadline is None else deadline)
            finally:
                self._delist(fd, task)
                self._ring.withdraw(operation)
            if operation.result >= 0:
                break
        if reason == KILLED:
            task.raise_pending()
        if reason == CLOSED:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if operation.result < 0 and operation.result not in _AGAIN:
            raise OSError(-operation.result, os.strerror(-operation.result))
        return reason != TIMEOUT or operation.result >= 0

    def _disarm(self, entry: _entry.SocketEntry) -> None:
        pass  # each wait is a request of its own

    def _wake(self, entry: _entry.SocketEntry, waiting: Any) -> None:
        for task in waiting if type(waiting) is list else [waiting]:
            self._withdraw(task, entry.fd)

    def _wake_by_number(self, waiting: dict[int, list[Any]], fd: int) -> None:
        for task in waiting.pop(fd, ()):
            self._withdraw(task, fd)

    def _unwatch(self, fd: int, entry: "_entry.SocketEntry | None") -> None:
        self._ring.settle()

    def cancel(self, task: Any) -> None:
        self._withdraw(task, -1)

    def _withdraw(self, task: Any, fd: int) -> None:
        """Before anything else is done for *task*; if it waits for *fd*, unless that is -1."""
        waits: Waiting = task
        if type(waits.waiting) is _ring.Operation and fd in {-1, waits.waiting.fd} and not waits.waiting.shielded:
            self._ring.withdraw_soon(waits.waiting)

    def waits(self) -> bool:
        return self._ring.waiting > 0

    # -- called by the scheduler -------------------------------------------------------------------------------

    def poll(self, timeout: float | None) -> None:
        ring = self._ring
        if ring.woken:  # a signal handler cut short the last poll
            timeout = 0
        ring.poll(timeout)
        if ring.woken:
            self._wakeup.clear()
            ring.watch_wakeup(self._wakeup.fd)

    def wake(self) -> None:
        self._wakeup.set()

    def close(self) -> None:
        super().close()
        self._ring.close()
        self._wakeup.close()

    def __repr__(self) -> str:
        return f"<UringModel, {self._state()}>"

    # -- operations --------------------------------------------------------------------------------------------

    def _shares(self) -> bool:
        """Whether it is worth while to wait for a system call that is shared with others; and allowed."""
        return self._ring.crowd >= _CROWD and self.scheduler.may_wait()

    def begin_recv(self, sock: Any, size_bytes: int, flags: int, timeout: float | None) -> Any:
        entry = self._entry_of(sock)
        if flags & MSG_WAITALL and _gathers(sock, flags, timeout):
            return ReadinessModel.begin_recv(self, sock, size_bytes, flags, timeout)
        return self._next_recv(entry, sock, size_bytes, flags & ~MSG_WAITALL, NEVER, self._shares(), False)

    def end_recv(self, sock: Any, size_bytes: int, flags: int, waiting: Any, until: float, reason: int) -> Any:
        operation: _ring.Operation = waiting
        entry: _entry.SocketEntry = operation.entry
        if self._ended(operation, sock, READ, reason) >= 0 and operation.is_recv():
            entry.dry = not operation.more
            return operation.data()
        return self._next_recv(entry, sock, size_bytes, flags & ~MSG_WAITALL, until, False, True)

    def _next_recv(
        self,
        entry: _entry.SocketEntry,
        sock: Any,
        size_bytes: int,
        flags: int,
        until: float,
        shares: bool,
        again: bool,
    ) -> Any:
        """Try, unless it would be in vain or *shares*; then begin to wait. *again*: it has waited before, *until*."""
        by_ring = not flags and size_bytes > 0 and entry.stream
        if not (by_ring and (entry.dry or shares)) or not self.scheduler.may_wait():
            data = entry.try_recv(size_bytes, flags)
            if data is not None:
                entry.dry = by_ring and len(data) < size_bytes
                return data
            if flags & MSG_DONTWAIT:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            entry.dry = True
        return self._begin_waiting(entry, sock, size_bytes if by_ring else 0, until, again)

    def _begin_waiting(
        self, entry: _entry.SocketEntry, sock: Any, size_bytes: int, until: float, again: bool
    ) -> "_ring.Operation":
        """For so much data, which the kernel then brings; 0: only until there is some, and the task takes it itself."""
        if size_bytes:
            operation = self._ring.recv(self.scheduler.current, sock, entry.fd, size_bytes, entry.dry)
        else:
            if again:
                self._in_vain(entry, sock, READ, until)
            operation = self._ring.poll_add(self.scheduler.current, sock, entry.fd, READ)
        entry.dry = False
        self._begin(operation, entry, READ)
        return operation

    def begin_recv_into(self, sock: Any, buffer: Buffer, size_bytes: int, flags: int, timeout: float | None) -> Any:
        entry = self._entry_of(sock)
        if flags & MSG_WAITALL and _gathers(sock, flags, timeout):
            return ReadinessModel.begin_recv_into(self, sock, buffer, size_bytes, flags, timeout)
        flags &= ~MSG_WAITALL
        return self._next_recv_into(entry, sock, buffer, size_bytes, flags, NEVER, self._shares(), False)

    def end_recv_into(
        self, sock: Any, buffer: Buffer, size_bytes: int, flags: int, waiting: Any, until: float, reason: int
    ) -> Any:
        operation: _ring.Operation = waiting
        entry: _entry.SocketEntry = operation.entry
        count = self._ended(operation, sock, READ, reason)
        if count >= 0 and operation.is_recv():
            entry.dry = not operation.more
            with memoryview(buffer) as view, view.cast("B") as octets:
                octets[:count] = operation.data()
            return count
        flags &= ~MSG_WAITALL
        return self._next_recv_into(entry, sock, buffer, size_bytes, flags, until, False, True)

    def _next_recv_into(
        self,
        entry: _entry.SocketEntry,
        sock: Any,
        buffer: Buffer,
        size_bytes: int,
        flags: int,
        until: float,
        shares: bool,
        again: bool,
    ) -> Any:
        """As `_next_recv`; an int where that returns bytes."""
        room = _room(buffer, size_bytes)
        by_ring = not flags and room > 0 and entry.stream
        if not (by_ring and (entry.dry or shares)) or not self.scheduler.may_wait():
            count = entry.try_recv_into(buffer, size_bytes, flags)
            if count >= 0:
                entry.dry = by_ring and count < room
                return count
            if flags & MSG_DONTWAIT:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            entry.dry = True
        return self._begin_waiting(entry, sock, room if by_ring else 0, until, again)

    def send(self, sock: Any, data: Buffer, flags: int, timeout: float | None) -> int:
        sent = self.begin_send(sock, data, flags, timeout)
        if type(sent) is not int:
            until = until_after(timeout)
            while type(sent) is not int:
                sent = self.end_send(sock, data, flags, sent, until, self.scheduler.wait(sent, until))
        return sent

    def begin_send(self, sock: Any, data: Buffer, flags: int, timeout: float | None) -> Any:
        entry = self._entry_of(sock)
        if flags & MSG_DONTWAIT or not entry.stream:
            return ReadinessModel.send(self, sock, data, flags, timeout)
        sent = -1 if self._shares() else entry.try_send(data, flags)
        if sent >= 0 and (timeout is not None or sent >= self._size(data)):
            return sent
        return self._next_send(entry, sock, data, max(0, sent), flags, timeout is None)

    def end_send(self, sock: Any, data: Buffer, flags: int, waiting: Any, until: float, reason: int) -> Any:
        """A blocking socket takes everything. An error after some of it was taken is the next call's, as in C."""
        operation: _ring.Operation = waiting
        sent = operation.start
        reason = self._left(operation, reason)
        if reason == KILLED:
            self.scheduler.current.raise_pending()
        try:
            if reason == TIMEOUT:
                raise TimeoutError("timed out")
            sent += max(0, self._result(operation, sock, WRITE))
        except OSError:
            if sent:
                return sent
            raise
        if operation.result >= 0 and (sent >= self._size(data) or not operation.whole):
            return sent
        return self._next_send(operation.entry, sock, data, sent, flags, operation.whole)

    def _next_send(
        self, entry: _entry.SocketEntry, sock: Any, data: Buffer, start: int, flags: int, whole: bool
    ) -> "_ring.Operation":
        operation = self._ring.send(self.scheduler.current, sock, entry.fd, data, start, flags, whole)
        self._begin(operation, entry, WRITE)
        return operation

    def sendall(self, sock: Any, data: Buffer, flags: int, timeout: float | None) -> None:
        entry = self._entry_of(sock)
        if not entry.stream:
            ReadinessModel.sendall(self, sock, data, flags, timeout)
            return
        flags &= ~MSG_DONTWAIT
        sent = -1 if self._shares() else entry.try_send(data, flags)
        size = self._size(data)
        if sent == size:
            return
        sent = max(0, sent)
        until = until_after(timeout)
        while True:
            operation = self._ring.send(self.scheduler.current, sock, entry.fd, data, sent, flags, True)
            sent += max(0, self._await(operation, entry, sock, WRITE, until))
            if operation.result >= 0 and sent >= size:
                return
            if until <= monotonic():
                raise TimeoutError("timed out")

    def accept(self, sock: Any, timeout: float | None) -> tuple[int, Any]:
        entry = self._entry_of(sock)
        if sock.family not in _FAMILIES:
            return ReadinessModel.accept(self, sock, timeout)
        until = until_after(timeout)
        while True:
            operation = self._ring.accept(self.scheduler.current, sock, entry.fd)
            if not self._shares():
                self._ring.submit()
            if self._await(operation, entry, sock, READ, until) >= 0:
                return operation.connection()

    def read_file(self, fd: int, buffer: Buffer, offset: int) -> int:
        return self._use_file(fd, buffer, offset, False)

    def read_bytes(self, fd: int, size: int, offset: int) -> bytes:
        data = _ring.blank(size)
        count = self._use_file(fd, data, offset, False)
        return data if count == size else data[:count]

    def write_file(self, fd: int, data: Buffer, offset: int) -> int:
        return self._use_file(fd, data, offset, True)

    def sync_file(self, fd: int, data_only: bool) -> None:
        operation = self._ring.sync_file(self.scheduler.current, fd, data_only)
        self._ring.submit()
        result = self._finish_file(operation)
        if result < 0:
            raise OSError(-result, os.strerror(-result))

    def _use_file(self, fd: int, buffer: Buffer, offset: int, writes: bool) -> int:
        size = self._size(buffer)
        most = _ONE_CALL_BYTES if writes and offset < 0 else _PIECE_BYTES  # what is appended must not be torn
        done = 0
        before = os.fstat(fd)
        while done < size:
            if done and not is_still(fd, before):  # closed after the last piece; the number may be another file's
                break
            operation = self._ring.use_file(
                self.scheduler.current,
                fd,
                buffer,
                done,
                min(size - done, most),
                -1 if offset < 0 else offset + done,
                writes,
            )
            self._ring.submit()
            result = self._finish_file(operation)
            if result in {-errno.EINTR, -errno.EAGAIN}:
                self._give_way_shielded()  # nobody says how often that is
                continue
            if result < 0 and not done:
                raise OSError(-result, os.strerror(-result))
            if result <= 0:  # the next call meets the error again
                break
            done += result
        return done

    def _give_way_shielded(self) -> None:
        try:
            self.scheduler.give_way()
        except BaseException as thrown:  # into the task, which is not done
            self.scheduler.throw_later([thrown])

    def _finish_file(self, operation: "_ring.Operation") -> int:
        """Wait until it is done, whatever is thrown into the task meanwhile; returns the result, or -errno."""
        scheduler = self.scheduler
        task = scheduler.current
        thrown: list[BaseException] = []
        if operation.done and operation.result > 0:
            scheduler.budget -= operation.result // _BUDGET_BYTES
        try:
            while not operation.done:
                self._prepare(operation)
                if scheduler.wait(operation, NEVER) == KILLED and task.pending is not None:
                    thrown.append(task.pending)
                    task.pending = None
        finally:
            self._ring.withdraw(operation)  # it is done, unless the wait was refused, or has failed
            operation.release()
            if thrown:
                scheduler.throw_later(thrown)
        return operation.result


def _room(buffer: Buffer, size_bytes: int) -> int:
    """How much to receive into *buffer*; 0 where the arguments do not fit, which a try will say."""
    with memoryview(buffer) as view:
        size = 0 if view.readonly or not view.c_contiguous else view.nbytes
    return (size_bytes or size) if 0 <= size_bytes <= size else 0
