"""Operations completed by a thread: asynchronous IO without a kernel's help. Read `base.py` and `_readiness.py` first.

The readable twin of `uring.py`, with a thread where that has the kernel. A task hands over *what is to be done* (take
ten bytes from here), not the question whether it could be done. The thread waits until the descriptor is ready, does
it, and posts what came of it: a value, or -errno. Plain Python over poll(2): it runs wherever there are threads.

What follows
------------
* One thread for a hub, not one for an operation: a thousand idle connections would be a thousand stacks. It polls for
  all of them and acts without blocking, so no operation keeps another one waiting. Several could hardly act at the same
  time anyhow, under one interpreter lock.
* An operation is tried first where it is asked for, as in every model; only one that would block is handed over. Those
  of a whole turn of the hub go together, in its next `poll`: one write to the thread's eventfd, however many they are.
  What is done comes back together, too: the thread performs all that is ready before it wakes the hub.
* The hub waits for a lock, not for a descriptor; the thread releases it, and so does `wake`. A `poll` that is not to
  wait must bring what is there all the same (a worker takes its next call when nothing is): it lets the thread look
  once, and waits for that.
* An operation that was performed has taken its data or connection, whether or not its task still wants them. So it is
  performed under a lock under which it is also withdrawn: after `cancel` it was either done or never will be. If it was
  done, that is what the call returns, and the kill strikes at the task's next wait. Nothing is kept for a later call:
  it would be hidden from select, MSG_PEEK and other processes.
* The system call that polls holds the *files*, not the numbers: who closes one leaves it open, and its peer waiting. So
  `forget` comes back only when the thread has left its call and knows the number no more. (A plain thread that closes
  it behind our back does leave it open, until the thread next looks.) Before it acts on a socket it looks whether the
  socket still has the number, so nothing is read that came for the number's next owner.
* Where poll(2) says "ready" and the operation says "it would block" (a datagram to somebody whose queue is full), the
  thread pauses for a millisecond: asked again, poll would say the same at once.
* The thread begins with the first operation that has to wait, and ends with the model. It blocks all signals, which are
  for the main thread. When the interpreter takes itself apart nobody waits for it. A forked child does not have it, and
  its hub makes a model of its own; but from Python 3.12 on, os.fork warns that there was a second thread.

What it costs
-------------
Two threads take turns where one did all. On two shared CPUs, CPython 3.11, compiled core (pure): a byte to another task
and back, both waiting, takes 56 us (68), with epoll 10 (25); a turn of the hub that must not wait, while somebody waits
for a descriptor, takes 15 us (33) more. Where other threads compute, each change of turns waits for the interpreter
lock, up to its switch interval of 5 ms.
"""

import _socket
import errno
import os
import select
import signal
import sys
from _thread import start_new_thread
from collections import deque
from typing import Any

from rimstone import _originals, clock
from rimstone.iomodel import _entry
from rimstone.iomodel._pause import Pause
from rimstone.iomodel._readiness import ReadinessModel, _gathers
from rimstone.iomodel._wakeup import Wakeup
from rimstone.iomodel.base import CLOSED, IO, KILLED, NEVER, READ, TIMEOUT, UNPARKED, WRITE, Buffer, Scheduler

__all__ = ["CompletionThreadsModel"]

# States of an operation. Only its task's hub goes from CREATED to SUBMITTED; what comes then is decided under the lock.
CREATED = "created"
SUBMITTED = "submitted"
COMPLETED = "completed"
CANCELLED = "cancelled"

MSG_DONTWAIT = getattr(_socket, "MSG_DONTWAIT", 0)
MSG_WAITALL = getattr(_socket, "MSG_WAITALL", 0)
_VAIN_SECONDS = 0.001
_READABLE = _WRITABLE = _ENDED = 0
if hasattr(select, "poll"):  # this file must import everywhere
    _READABLE, _WRITABLE = select.POLLIN, select.POLLOUT
    _ENDED = select.POLLHUP | select.POLLERR | select.POLLNVAL  # asked for or not, the kernel reports them

_sockets = _entry.Sockets()


class _Operation:
    """What one task wants to have done with one descriptor.

    Attributes:
        fd, events: The descriptor, and READ, WRITE or both: when it is worth while to try.
        entry, sock: Whose number it must still be when the operation is performed; None for a bare descriptor.
        function, args: The operation itself; it does not block.
        task: Who waits for it.
        state: CREATED -> SUBMITTED -> COMPLETED, or CANCELLED from either of the first two.
        result: When it is completed, what *function* returned, or -errno. Until then, and for ever if it is cancelled,
            -EAGAIN.
        error: What it raised that has no errno, for its task to raise; else None.
    """

    __slots__ = ("args", "entry", "error", "events", "fd", "function", "result", "sock", "state", "task")

    def __init__(
        self, entry: "_entry.SocketEntry | None", sock: Any, fd: int, events: int, function: Any, args: tuple[Any, ...]
    ) -> None:
        self.entry = entry
        self.sock = sock
        self.fd = fd
        self.events = events
        self.function = function
        self.args = args
        self.task: Any = None
        self.state = CREATED
        self.result: Any = -errno.EAGAIN
        self.error: Exception | None = None

    def attempt(self) -> Any:
        """Do it now: what the function returns, or -errno; -EAGAIN where it would block."""
        if self.entry is not None and (self.entry.closed or _sockets.fd(self.sock) != self.fd):
            return -errno.EBADF
        try:
            return self.function(*self.args)
        except BlockingIOError:
            return -errno.EAGAIN
        except OSError as error:
            if error.errno is None:
                raise
            return -error.errno

    def perform(self) -> bool:
        """Do it now, in the thread and with the lock; True if that has completed it."""
        try:
            result = self.attempt()
            if _would_block(result):
                return False
            self.result = result
        except Exception as error:  # such as a buffer that has shrunk meanwhile; its task's affair
            self.error = error
        self.state = COMPLETED
        return True

    def anew(self) -> "_Operation":
        """The same once more."""
        return type(self)(self.entry, self.sock, self.fd, self.events, self.function, self.args)

    def drop(self) -> None:
        """It is completed, and nobody will ever take the result."""

    def __repr__(self) -> str:
        return f"<{self.state} operation on descriptor {self.fd}>"


class _Wait(_Operation):
    """Does nothing: it is done when its descriptor is ready, and stays done if somebody else is faster then."""

    __slots__ = ()

    def __init__(self, entry: "_entry.SocketEntry | None", sock: Any, fd: int, events: int) -> None:
        super().__init__(entry, sock, fd, events, _ask, (fd, events))

    def perform(self) -> bool:
        self.result = 0
        self.state = COMPLETED
        return True


class _Accept(_Operation):
    __slots__ = ()

    def drop(self) -> None:
        if type(self.result) is tuple:
            os.close(self.result[0])


class _Completer:
    """The thread, and what the hub and it tell each other.

    Attributes:
        completed: Performed operations, for the hub to take.
        posted: Set when something was added to them.
        threads: 1 while it runs.
    """

    def __init__(self, posted: Pause) -> None:
        self.completed: deque[_Operation] = deque()
        self.posted = posted
        self.threads = 0
        self._wakeup = Wakeup()
        self._pid = os.getpid()
        # Held while an operation is performed. Reentrant: a signal handler may kill a task, and so cancel.
        self._lock = _originals.RLock()
        self._news: deque[_Operation] = deque()  # submitted, or cancelled after that
        self._rounds: deque[Any] = deque()  # locks, each released at the end of a round that began after it came
        self._waiting: dict[int, list[_Operation]] = {}  # by descriptor: what the thread polls for
        self._ended: Any = None  # a lock that the thread releases at its end; None before its beginning
        self._starting = False  # who strikes now and waited for the thread would wait for himself
        self._thread_id = 0
        self._closed = False

    # -- called by the hub -------------------------------------------------------------------------------------

    def start(self) -> None:
        """See to it that the thread runs. RuntimeError if the system has none for us."""
        before = self._ended
        if before is not None and before.locked():
            return
        if self._closed:
            raise OSError(errno.EBADF, "this hub has been closed; nothing can wait in it any more")
        ended = _originals.allocate_lock()
        ended.acquire()
        # A signal handler, or a finalizer, may have struck at each call above, and have started one. No call from here
        # to where it is known that this one starts.
        if self._ended is not before:
            return
        self._ended = ended
        self._starting = True
        try:
            start_new_thread(self._run, (ended,))  # `threading` would wait for its beginning, and let other tasks run
        except RuntimeError:
            self._ended = None
            raise
        finally:
            self._starting = False

    def submit(self, operation: _Operation) -> None:
        """Hand it over, if it has not been cancelled; again does nothing. The thread hears of it by `announce`."""
        with self._lock:
            if operation.state is CREATED:
                self._news.append(operation)
                operation.state = SUBMITTED

    def announce(self) -> None:
        """Wake the thread, if there are news that it has not read."""
        if self._news:
            self.start()  # it runs, as a rule; see `_fail`
            self._wakeup.set()

    def cancel(self, operation: _Operation) -> bool:
        """Withdraw it: from now on nothing is done for it. False if it is completed."""
        with self._lock:
            state = operation.state
            if state is CREATED or state is SUBMITTED:
                if state is SUBMITTED:
                    self._news.append(operation)
                operation.state = CANCELLED
        if state is SUBMITTED:  # now: its owner may close the descriptor, which must not stay open in the thread's call
            self._wakeup.set()
        return state is not COMPLETED

    def round(self) -> None:
        """Let the thread look once, perform what is ready now, and forget what was cancelled; wait until it has."""
        done = _originals.allocate_lock()
        done.acquire()
        with self._lock:
            if not self._runs() or self._starting or self._is_alone():
                return
            self._rounds.append(done)
        self._wakeup.set()
        done.acquire()

    def let_go(self, fd: int) -> None:
        """*fd*, for which nobody waits any more, is going to be closed: wait until the thread polls without it."""
        if fd in self._waiting:
            self.round()

    def close(self) -> None:
        """End the thread, and wait for it. Idempotent."""
        self._closed = True
        if self._ended is not None and not self._is_alone():
            self._wakeup.set()
            self._ended.acquire()
            self._ended.release()
        self._wakeup.close()

    def _runs(self) -> bool:
        return self._ended is not None and self._ended.locked()

    def _is_alone(self) -> bool:
        """True where the thread never gets anywhere any more: in a forked child, and when the interpreter ends.

        Also in itself, should the collector ever close a forgotten hub there.
        """
        return os.getpid() != self._pid or sys.is_finalizing() or _originals.get_ident() == self._thread_id

    # -- the thread --------------------------------------------------------------------------------------------

    def _run(self, ended: Any) -> None:
        try:
            self._thread_id = _originals.get_ident()
            self.threads = 1
            faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - faults)
            self._work()
        except Exception as error:
            self._fail(error)
        finally:
            self.threads = 0
            with self._lock:  # who wants a round sees that there is none, or has asked before this
                while self._rounds:
                    self._rounds.popleft().release()
                ended.release()

    def _fail(self, error: Exception) -> None:
        """Poll itself has failed: so does whatever waits for it. What is submitted after that is another thread's."""
        with self._lock:
            for operations in (self._news, *self._waiting.values()):
                for operation in operations:
                    if operation.state is SUBMITTED:
                        operation.error = error
                        operation.state = COMPLETED
                        self.completed.append(operation)
            self._news.clear()
            self._waiting.clear()
        self.posted.set()

    def _work(self) -> None:
        assert _originals.poll is not None
        poll = _originals.poll()
        poll.register(self._wakeup.fd, _READABLE)
        while self._turn(poll):
            pass

    def _turn(self, poll: Any) -> bool:
        """Wait, and perform what is ready; False at the end. What it refers to must be gone before the next wait."""
        rounds = len(self._rounds)  # before poll: whoever asks later may know of something that poll did not see
        ready = dict(poll.poll(0 if rounds else None))
        if ready.pop(self._wakeup.fd, None) is not None:
            self._wakeup.clear()
        self._read_news(poll)  # after poll: whoever began to wait before the data came must hear of them
        if self._closed:
            return False
        tried = 0
        done: list[_Operation] = []
        for fd, mask in ready.items():
            events = (READ if mask & (_READABLE | _ENDED) else 0) | (WRITE if mask & (_WRITABLE | _ENDED) else 0)
            for operation in self._waiting.get(fd, ()):
                with self._lock:
                    if operation.events & events and operation.state is SUBMITTED:
                        tried += 1
                        if operation.perform():
                            done.append(operation)
            self._watch(poll, fd)
        if done:
            self.completed.extend(done)
            self.posted.set()
        elif tried and not rounds:
            _originals.sleep(_VAIN_SECONDS)
        for _ in range(rounds):
            self._rounds.popleft().release()
        return True

    def _read_news(self, poll: Any) -> None:
        changed = set()
        while self._news:
            with self._lock:  # who submits is not interrupted between the two lines of it
                operation = self._news.popleft()
                submitted = operation.state is SUBMITTED
            # Without the lock: to make an object may let the collector run, and so any finalizer, and that may wait for
            # a thread which wants the lock. If it is cancelled by now, that is the next piece of news.
            if submitted:
                self._waiting.setdefault(operation.fd, []).append(operation)
            changed.add(operation.fd)
        for fd in changed:
            self._watch(poll, fd)

    def _watch(self, poll: Any, fd: int) -> None:
        """Poll for what is still to be done with *fd*, and no longer if that is nothing."""
        left = [operation for operation in self._waiting.get(fd, ()) if operation.state is SUBMITTED]
        if left:
            self._waiting[fd] = left
            events = 0
            for operation in left:
                events |= operation.events
            poll.register(fd, _mask(events))  # replaces the mask that it has
        elif self._waiting.pop(fd, None) is not None:
            try:
                poll.unregister(fd)
            except KeyError:
                pass  # cancelled before it was ever polled for


class CompletionThreadsModel(ReadinessModel):
    """Where there is no io_uring, the one of its kind. All wait for numbers here; no entry has a reader or writer."""

    name = "completion_threads"

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(scheduler)
        self._pause = Pause()
        self._completer = _Completer(self._pause)
        # To be handed over in `poll`, for then the wait has begun; it may be refused, and must have taken nothing then.
        self._asked: deque[_Operation] = deque()

    @classmethod
    def why_unavailable(cls) -> str | None:
        return None if hasattr(select, "poll") else "this system has no poll, by which the thread could wait"

    # -- waiting -----------------------------------------------------------------------------------------------

    def _complete(self, operation: _Operation, deadline: float | None) -> Any:
        """Wait until the thread has performed *operation*, and raise what was thrown into the task before that.

        Returns:
            Its result; -EAGAIN if it must be tried anew; None if *deadline* passed first.
        """
        reason = self._wait_for(operation, deadline)
        if reason == KILLED:
            self.scheduler.current.raise_pending()
        return None if reason == TIMEOUT else operation.result

    def _wait_for(self, operation: _Operation, deadline: float | None) -> int:
        """Wait until the thread has performed *operation*, or something else ends the wait. Returns the reason.

        Raises what the operation did that has no errno; not what was thrown into the task, as `_wait_entry`.
        """
        scheduler = self.scheduler
        scheduler.check_wait()  # before anything is noted: the current task may be parked, and a handler has struck it
        task = operation.task = scheduler.current
        task.enlisted = True
        self._completer.start()
        try:
            task.waiting = operation  # now: a signal handler may strike before the wait, and close the descriptor
            self._enlist(operation.fd, operation.events, task)
            if type(operation) is _Wait:
                self._completer.submit(operation)
            else:
                self._asked.append(operation)
            reason = scheduler.wait(operation, NEVER if deadline is None else deadline)
        except BaseException as error:
            self._delist(operation.fd, task)
            if self._completer.cancel(operation):
                raise
            task.throw_in(error)
            reason = IO
        else:
            self._delist(operation.fd, task)
        if task.waiting is operation:
            task.waiting = None  # it refers to a socket that the task may be about to drop
        is_withdrawn = self._completer.cancel(operation)
        if reason == CLOSED and operation.entry is None:  # the number may be somebody else's by now
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if is_withdrawn:
            return reason
        if operation.error is not None:
            raise operation.error
        return IO

    def _wait_entry(self, entry: _entry.SocketEntry, sock: Any, direction: int, deadline: float | None) -> int:
        reason = self._wait_for(_Wait(entry, sock, entry.fd, direction), deadline)
        if reason not in {TIMEOUT, KILLED} and (entry.closed or _sockets.fd(sock) != entry.fd):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return reason

    def _wait_both(self, entry: _entry.SocketEntry, sock: Any, deadline: float | None) -> bool:
        reason = self._wait_entry(entry, sock, READ | WRITE, deadline)
        if reason == KILLED:
            self.scheduler.current.raise_pending()
        return reason != TIMEOUT

    def wait(self, fd: int, events: int, deadline: float | None = None) -> bool:
        scheduler = self.scheduler
        scheduler.budget -= 1
        if scheduler.budget < 0:
            scheduler.give_way()
        while True:
            os.fstat(fd)  # a closed descriptor fails here
            operation = _Wait(None, None, fd, events)
            if not _would_block(operation.attempt()):
                return True
            reason = self._wait_for(operation, deadline)
            if reason == KILLED:
                scheduler.current.raise_pending()
            if reason != UNPARKED:  # for no reason: it might not be ready
                return reason != TIMEOUT

    def cancel(self, task: Any) -> None:
        if isinstance(task.waiting, _Operation):
            self._completer.cancel(task.waiting)

    def forget(self, fd: int, detached: Any = None) -> None:
        if detached is not None and self._other_owner(fd, detached) is not None:
            return
        for task in (*self._readers.get(fd, ()), *self._writers.get(fd, ())):
            self.cancel(task)  # and try anew: only one that has lost its number finds a bad descriptor
        self._completer.let_go(fd)
        super().forget(fd, detached)

    # -- called by the scheduler -------------------------------------------------------------------------------

    def poll(self, timeout: float | None) -> None:
        # What follows may be done twice, if a signal handler raises in the middle, but not left out.
        while self._asked:
            self._completer.submit(self._asked[0])
            del self._asked[0]
        self._completer.announce()
        completed = self._completer.completed
        if timeout == 0 and not completed and self.waits():
            self._completer.round()
        self._pause.is_cut_short(0 if completed else timeout)
        while completed:
            self.scheduler.happened(completed[0].task, completed[0])
            del completed[0]

    def wake(self) -> None:
        self._pause.set()

    def threads(self) -> int:
        return self._completer.threads

    def close(self) -> None:
        self._completer.close()
        for waiting in (self._readers, self._writers):
            for tasks in waiting.values():
                for task in tasks:
                    if type(task.waiting) is _Accept and task.waiting.state is COMPLETED:
                        task.waiting.drop()
        super().close()

    def __repr__(self) -> str:
        return f"<CompletionThreadsModel, {self._state()}>"

    # -- operations --------------------------------------------------------------------------------------------

    def _retry(
        self,
        entry: _entry.SocketEntry,
        sock: Any,
        direction: int,
        function: Any,
        args: tuple[Any, ...],
        deadline: float | None,
    ) -> Any:
        return self._until_done(_Operation, entry, sock, direction, function, args, deadline)

    def _until_done(
        self,
        kind: type[_Operation],
        entry: _entry.SocketEntry,
        sock: Any,
        direction: int,
        function: Any,
        args: tuple[Any, ...],
        deadline: float | None,
    ) -> Any:
        result = self._outcome(kind(entry, sock, entry.fd, direction, function, args), deadline)
        if type(result) is int and result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    def _outcome(self, operation: _Operation, deadline: float | None) -> Any:
        """What *operation* returns when it does not block, or -errno. What is raised is not the system call's."""
        while True:
            result = operation.attempt()
            if not _would_block(result):
                return result
            result = self._complete(operation, deadline)
            if result is None:
                raise TimeoutError("timed out")
            if not _would_block(result):
                return result
            operation = operation.anew()

    def begin_recv(self, sock: Any, size_bytes: int, flags: int, timeout: float | None) -> Any:
        """All of it: no second half. A small stack would be worth nothing beside two threads that take turns."""
        if flags & MSG_WAITALL and _gathers(sock, flags, timeout):
            return super().begin_recv(sock, size_bytes, flags, timeout)
        entry = self._entry_of(sock)
        receive: Any = entry.view.recv
        if flags & MSG_DONTWAIT:
            return receive(size_bytes, flags)
        args = (size_bytes, (flags & ~MSG_WAITALL) | MSG_DONTWAIT)
        return self._retry(entry, sock, READ, receive, args, clock.deadline_after(timeout))

    def begin_recv_into(self, sock: Any, buffer: Buffer, size_bytes: int, flags: int, timeout: float | None) -> Any:
        if flags & MSG_WAITALL and _gathers(sock, flags, timeout):
            return super().begin_recv_into(sock, buffer, size_bytes, flags, timeout)
        entry = self._entry_of(sock)
        receive: Any = entry.view.recv_into
        if flags & MSG_DONTWAIT:
            return receive(buffer, size_bytes, flags)
        with memoryview(buffer) as view:
            args = (view, size_bytes, (flags & ~MSG_WAITALL) | MSG_DONTWAIT)
            return self._retry(entry, sock, READ, receive, args, clock.deadline_after(timeout))

    def send(self, sock: Any, data: Buffer, flags: int, timeout: float | None) -> int:
        entry = self._entry_of(sock)
        if flags & MSG_DONTWAIT:
            return entry.view.send(data, flags)
        sent = self._send_once(entry, sock, data, flags, clock.deadline_after(timeout))
        is_all = timeout is not None or sent == self._size(data)
        return sent if is_all else self._send_rest(entry, sock, data, flags, sent)

    def _send_rest(self, entry: _entry.SocketEntry, sock: Any, data: Buffer, flags: int, sent: int) -> int:
        send: Any = entry.view.send
        with memoryview(data) as view, view.cast("B") as octets:
            while sent < len(octets):
                with octets[sent:] as rest:
                    args = (rest, flags | MSG_DONTWAIT)
                    count = self._outcome(_Operation(entry, sock, entry.fd, WRITE, send, args), None)
                if count < 0:
                    break  # the next call's
                sent += count
        return sent

    def _send_once(self, entry: _entry.SocketEntry, sock: Any, data: Buffer, flags: int, deadline: float | None) -> int:
        sent: int = self._retry(entry, sock, WRITE, entry.view.send, (data, flags | MSG_DONTWAIT), deadline)
        return sent

    def sendall(self, sock: Any, data: Buffer, flags: int, timeout: float | None) -> None:
        entry = self._entry_of(sock)
        deadline = clock.deadline_after(timeout)
        with memoryview(data) as view, view.cast("B") as octets:
            sent = self._send_once(entry, sock, octets, flags, deadline)
            while sent < len(octets):
                if deadline is not None and deadline <= clock.monotonic():
                    raise TimeoutError("timed out")
                with octets[sent:] as rest:
                    sent += self._send_once(entry, sock, rest, flags, deadline)

    def accept(self, sock: Any, timeout: float | None) -> tuple[int, Any]:
        entry = self._entry_of(sock)
        deadline = clock.deadline_after(timeout)
        return self._until_done(_Accept, entry, sock, READ, _accept, (entry,), deadline)  # type: ignore[no-any-return]


def _accept(entry: _entry.SocketEntry) -> Any:
    # See `ReadinessModel.accept`; here `settimeout(None)` may come at any time before the thread accepts.
    if os.get_blocking(entry.fd):
        os.set_blocking(entry.fd, False)
    return entry.view._accept()  # type: ignore[attr-defined]


def _ask(fd: int, events: int) -> int:
    """0 if *fd* is ready, in the sense of `IOModel.wait`; else -EAGAIN."""
    assert _originals.poll is not None
    question = _originals.poll()
    question.register(fd, _mask(events))
    return 0 if question.poll(0) else -errno.EAGAIN


def _mask(events: int) -> int:
    return (_READABLE if events & READ else 0) | (_WRITABLE if events & WRITE else 0)


def _would_block(result: Any) -> bool:
    return type(result) is int and result == -errno.EAGAIN
