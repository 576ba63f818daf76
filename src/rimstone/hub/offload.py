"""Runs a function that blocks in C on a real thread while its task waits: name look-ups, and work on regular files.

Not for users' calls (see `pools`). Two sets of threads, so that a disk need not wait for a name server. Threads are
started as needed, at most so many at once in a process, take the next job when they finish one, and end when there has
been none for a moment: nothing idles for long, nothing has to be shut down. The moment is there because a file is read
in many pieces, and starting a thread costs more than most of them.
"""

import errno
import os
from _thread import start_new_thread
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from rimstone._originals import RLock, Thread, allocate_lock
from rimstone.errors import CannotWait
from rimstone.hub.parking import waiter
from rimstone.hub.timeout import throw_later
from rimstone.iomodel._identity import is_still

__all__ = ["MOST_FILE_THREADS", "MOST_THREADS", "forget_jobs", "offload", "offload_shielded"]

MOST_THREADS = 32
MOST_FILE_THREADS = 16  # a disk has work enough to choose from; more would only wait for the interpreter
_LINGER_SECONDS = 0.05


class _Job:
    __slots__ = ("args", "error", "function", "value", "waiting")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.function = function
        self.args = args
        self.waiting = waiter()
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.value = self.function(*self.args)
        except BaseException as error:
            self.error = error
        self.waiting.unpark()

    def result(self) -> Any:
        error, self.error = self.error, None  # else its traceback and this frame keep each other alive
        if error is not None:
            raise error
        return self.value


class _FileJob(_Job):
    """Works on descriptors, which a task may close before a thread comes to it: their numbers are handed out again."""

    __slots__ = ("_before", "is_gone")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], fds: Iterable[int]) -> None:
        super().__init__(function, args)
        self._before = {fd: os.fstat(fd) for fd in fds}
        self.is_gone = False
        if self._before:
            _late.add(self)

    def forget(self, fd: int) -> None:
        """*fd* is going to be closed. The next file with its number may have the same inode, too."""
        if fd in self._before:
            self.is_gone = True

    def run(self) -> None:
        _late.discard(self)
        if not self.is_gone and all(is_still(fd, before) for fd, before in self._before.items()):
            super().run()
        else:
            self.error = OSError(errno.EBADF, os.strerror(errno.EBADF))
            self.waiting.unpark()


_late: set[_FileJob] = set()  # those that no thread has come to yet


def forget_jobs(fd: int) -> None:
    """*fd* is going to be closed: what has not begun to work on it fails with EBADF. Any thread."""
    for job in tuple(_late):
        job.forget(fd)


class _Threads:
    """Each thread is at work, or idle: then a lock that it waits on is in `_idle`. Whoever takes that out wakes it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.at_fork_reinit()

    def at_fork_reinit(self) -> None:
        """In a forked child: the threads are the parent's, and so are those who wait for them."""
        self._lock = RLock()  # a signal handler may interrupt `submit` and call it
        self._jobs: deque[_Job] = deque()
        self._idle: list[Any] = []
        self._running = 0
        _late.clear()

    def submit(self, job: _Job) -> None:
        with self._lock:
            self._jobs.append(job)
            try:
                bell = self._idle.pop()  # the last to have become idle, so that the others come to their end
            except IndexError:
                pass
            else:
                bell.release()
                return
            if self._running >= self._most:
                return
            self._running += 1
        try:
            self._start()
        except RuntimeError:  # the system has no thread for us, or the interpreter is ending
            with self._lock:
                self._running -= 1
                if self._running or job not in self._jobs:
                    return  # another one takes it, or has taken it
                self._jobs.remove(job)
            raise

    def _start(self) -> None:
        # What runs there may ask for `threading.current_thread()`, as `Thread.join` does.
        Thread(target=self._work, name="rimstone-offload", daemon=True).start()

    def _work(self) -> None:
        bell = allocate_lock()
        bell.acquire()
        while True:
            with self._lock:
                job = self._jobs.popleft() if self._jobs else None
                if job is None:
                    self._idle.append(bell)
            if job is not None:
                job.run()
                del job  # what it refers to may go
            elif not bell.acquire(timeout=_LINGER_SECONDS) and self._has_left(bell):
                return

    def _has_left(self, bell: Any) -> bool:
        """End the calling thread's service, unless *bell* has been rung a moment ago."""
        with self._lock:
            if bell in self._idle:
                self._idle.remove(bell)
                self._running -= 1
                return True
        bell.acquire()  # take the ring, or the next idle time would end at once
        return False


class _FileThreads(_Threads):
    def _start(self) -> None:
        # `Thread.start` waits until the thread runs, and in a patched process a task that waits can be killed. Here the
        # job is in the queue by then, and the thread would work on the buffer of a task that has gone on.
        start_new_thread(self._work, ())


_lookups = _Threads(MOST_THREADS)
_files = _FileThreads(MOST_FILE_THREADS)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lookups.at_fork_reinit)
    os.register_at_fork(after_in_child=_files.at_fork_reinit)


def offload(function: Callable[..., Any], *args: Any) -> Any:
    """Return `function(*args)`, computed on another thread while this task waits; raises what it raises.

    A kill ends the wait, not the function.
    """
    job = _Job(function, args)
    _lookups.submit(job)
    job.waiting.park()
    return job.result()


def offload_shielded(function: Callable[..., Any], *args: Any, fds: Iterable[int] = ()) -> Any:
    """As `offload`, for work on files, and what is thrown into this task meanwhile waits until the function is done.

    For *function* reads into the task's buffer and uses its descriptor; neither may be used for anything else before it
    has ended, and what it has read must not be lost. So this returns or raises what the function does, and a kill is
    raised at the task's next park. Where no thread can be started, the function runs in this one.

    Args:
        function: What to call.
        *args: What with.
        fds: The descriptors that it knows by number only. When a thread begins, they must still lead to the same files.
    Raises:
        OSError: EBADF; one of *fds* was closed before.
    """
    job = _FileJob(function, args, fds)
    try:
        _files.submit(job)
    except RuntimeError:
        _late.discard(job)
        return function(*args)
    thrown: list[BaseException] = []
    while True:
        try:
            job.waiting.park()
            break
        except CannotWait:
            raise  # trying again would be in vain
        except BaseException as error:
            thrown.append(error)
    if thrown:
        throw_later(thrown)
    return job.result()
