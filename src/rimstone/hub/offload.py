"""Runs a function that blocks in C on a real thread while its task waits. For DNS; not for users' calls (see `pools`).

Threads are started as needed, at most `MOST_THREADS` at once in a process, take the next job when they finish one, and
end when there is none: nothing idles, nothing has to be shut down.
"""

import os
from collections import deque
from collections.abc import Callable
from typing import Any

from rimstone._originals import Thread, allocate_lock
from rimstone.hub.parking import waiter

__all__ = ["MOST_THREADS", "offload"]

MOST_THREADS = 32


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


class _Threads:
    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._jobs: deque[_Job] = deque()
        self._running = 0

    def at_fork_reinit(self) -> None:
        """In a forked child: the threads are the parent's, and so are those who wait for them."""
        self._lock = allocate_lock()
        self._jobs.clear()
        self._running = 0

    def submit(self, job: _Job) -> None:
        with self._lock:
            self._jobs.append(job)
            if self._running >= MOST_THREADS:
                return
            self._running += 1
        try:
            Thread(target=self._work, name="rimstone-offload", daemon=True).start()
        except RuntimeError:  # the system has no thread for us
            with self._lock:
                self._running -= 1
                if self._running or job not in self._jobs:
                    return  # another one takes it, or has taken it
                self._jobs.remove(job)
            raise

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._running -= 1
                    return
                job = self._jobs.popleft()
            job.run()


_threads = _Threads()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.at_fork_reinit)


def offload(function: Callable[..., Any], *args: Any) -> Any:
    """Return `function(*args)`, computed on another thread while this task waits; raises what it raises.

    A kill ends the wait, not the function.
    """
    job = _Job(function, args)
    _threads.submit(job)
    job.waiting.park()
    if job.error is not None:
        raise job.error
    return job.value
