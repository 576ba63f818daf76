"""`ThreadPoolExecutor`: plain threads behind the common front. Read executor.py first.

`_Crew` is the pool without its front: the queue and the threads. The threads hold the crew and not the executor, so an
executor that nobody holds is collected, and then its threads finish what was submitted and end.

Signals: `submit` may be interrupted at any bytecode in the main thread. Every count here is therefore kept by the
pool's own threads (`idle`, `running`) or read off the queue; the submitter only puts a call on the queue, one C call.
Interrupted before it asked for a thread, it leaves the call to the next one that looks: another submit, a thread of the
pool, or the end of the pool. A signal handler that submits in the midst of a submit leaves the new thread to that one.

Fork: the child has the crew without its threads, and `changed` perhaps held by one of them. There the crew takes no
calls and ends at once, and touches no lock for that.
"""

import atexit
import itertools
import logging
import os
import queue
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from rimstone import _originals, errors, machine
from rimstone.pools.executor import CallOptions, Executor, Statistics, checked_count
from rimstone.pools.future import CallbackThread, Condition, Future, shielded

__all__ = ["ThreadPoolExecutor", "ThreadPoolStatistics"]

T = TypeVar("T")

_log = logging.getLogger("concurrent.futures")


@dataclass(frozen=True, slots=True)
class ThreadPoolStatistics(Statistics):
    """What a thread pool holds at one moment.

    Attributes:
        queued: Calls that no thread has taken yet, cancelled ones included.
        running: Calls that a thread is running.
    """

    queued: int
    running: int


class _Call:
    """One submitted call on its way through the queue."""

    __slots__ = ("args", "fn", "future", "kwargs")

    def __init__(
        self, future: Future[Any], fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.future = future
        self.fn = fn
        self.args = args
        self.kwargs = kwargs

    def run(self) -> None:
        future = self.future
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = self.fn(*self.args, **self.kwargs)
        except BaseException as error:  # noqa: BLE001 - also SystemExit: it fails its future, not the thread
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            del self, future  # exception -> traceback -> this frame -> future -> exception

    def cancel(self) -> None:
        self.future.cancel()
        self.future.set_running_or_notify_cancel()

    def fail(self, error: BaseException) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class _Crew:
    """The threads of one pool and what they share.

    An end is a None on the queue, behind all calls; each thread that takes it puts it back for the next one and ends.
    When the executor is collected instead, its dead reference comes to stand there, and the thread that takes it stops
    the crew: no code of ours runs in the finalizer, where an interrupt would be lost and the threads with it.
    """

    def __init__(
        self,
        name: str,
        max_threads: int,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        callbacks: CallbackThread,
    ) -> None:
        self.name = name
        self.max_threads = max_threads
        self.callbacks = callbacks
        self._pid = os.getpid()
        self.calls: _originals.SimpleQueue[_Call | weakref.ref[Any] | None] = _originals.SimpleQueue()
        # Guards what follows. Never held while a call runs. Re-entrant, because a finalizer may run anywhere.
        self.changed = Condition()
        self.threads: set[threading.Thread] = set()
        self.idle = 0  # threads that wait for a call, or were started for one and have not taken it
        self.running = 0
        self.stopping = False  # nothing more is accepted, a None is on the queue
        self.cancelling = False  # calls taken off the queue are cancelled, not run
        self.broken: BaseException | None = None
        self._owner: weakref.ref[Any] | None = None
        self._ended: list[threading.Thread] = []
        self._numbers = itertools.count(1)
        self._initializer = initializer
        self._initargs = initargs

    def ends_with(self, owner: object) -> None:
        self._owner = weakref.ref(owner, self.calls.put)

    def submit(self, call: _Call) -> None:
        if self._is_forked():
            raise errors.PoolClosed(
                f"this pool belongs to process {self._pid}, and this is a fork of it; create a pool here"
            )
        with self.changed:
            if self.broken is not None:
                raise self._initializer_failed()
            if self.stopping:
                raise errors.PoolClosed(
                    f"pool {self.name!r} was shut down, or the interpreter is ending; create a new pool"
                )
            self.calls.put(call)
        # Ours already: this is a signal handler inside the block above, and the helper thread would wait for this one.
        if self._needs_thread() and not self.changed._is_owned():
            shielded(self._grow)

    @property
    def queued(self) -> int:
        return max(0, self.calls.qsize() - self.stopping)

    def stop(self) -> None:
        """Accept nothing more; the threads end when the queue is empty. From any thread; may be repeated."""
        if self._is_forked():
            return
        with self.changed:
            first, self.stopping = not self.stopping, True
            if first:
                self.calls.put(None)  # not to be separated from the line above: no signal is handled in between
        self._owner = None  # last: interrupted before this, the executor's end still ends the threads
        self.callbacks.close()

    def cancel_queued(self) -> None:
        """Cancel all calls that no thread has taken. Not to be interrupted: a call taken off the queue must be told."""
        self.cancelling = True
        for call in self._drained():
            call.cancel()

    def wait(self) -> None:
        """Return when, after `stop`, all calls have ended and all threads are gone.

        Raises:
            RuntimeError: called by one of these threads, which would wait for itself.
        """
        if self._is_forked():
            return
        if threading.current_thread() in self.threads:
            raise RuntimeError(
                f"a call running in pool {self.name!r} waits for the end of that pool, and so for itself; "
                "use shutdown(wait=False) there"
            )
        while True:
            if self._needs_thread():
                shielded(self._grow)  # a submit may have been interrupted before it asked for a thread
            self.changed.wait_until(lambda: not self.threads)
            if not self.queued:
                break
        for thread in list(self._ended):
            thread.join()  # it has nothing more to do: microseconds

    def end_with_interpreter(self) -> None:
        """At the interpreter's exit, finish what was submitted, as `concurrent.futures` does."""
        if self._is_forked():
            return
        self.stop()
        self.wait()
        self.callbacks.wait()

    def leave_behind(self) -> None:
        """Do not wait for the running calls at the interpreter's exit either."""
        atexit.unregister(self.end_with_interpreter)

    def _is_forked(self) -> bool:
        return os.getpid() != self._pid

    def _needs_thread(self) -> bool:
        return len(self.threads) < self.max_threads and self.idle < self.queued

    def _grow(self) -> None:
        """Start the threads that the queued calls need. In a thread that no signal reaches."""
        with self.changed:
            while self._needs_thread():
                thread = _originals.Thread(
                    target=self._work, name=f"rimstone-{self.name}-{next(self._numbers)}", daemon=True
                )
                if not self.threads:
                    atexit.unregister(self.end_with_interpreter)
                    atexit.register(self.end_with_interpreter)
                self.threads.add(thread)
                self.idle += 1
                try:
                    thread.start()
                except RuntimeError as error:
                    self.threads.discard(thread)
                    self.idle -= 1
                    if not self.threads:  # nobody else will come to the queued calls
                        for call in self._drained():
                            call.fail(error)
                        self.changed.notify_all()
                    return

    def _work(self) -> None:
        try:
            if self._initialized():
                self._serve()
        finally:
            with self.changed:
                self.idle -= 1
                thread = threading.current_thread()
                self.threads.discard(thread)
                self._ended.append(thread)
                if not self.threads:
                    atexit.unregister(self.end_with_interpreter)
                self.changed.notify_all()

    def _initialized(self) -> bool:
        if self._initializer is None:
            return True
        try:
            self._initializer(*self._initargs)
        except BaseException as error:  # noqa: BLE001 - logged, and the cause of InitializerFailed
            _log.critical("Exception in initializer:", exc_info=True)
            with self.changed:
                self.broken = error
            self.stop()
            for call in self._drained():
                call.fail(self._initializer_failed())
            return False
        return True

    def _serve(self) -> None:
        while True:
            call = self.calls.get()
            if not isinstance(call, _Call):
                self.stop()
                if call is None:
                    self.calls.put(None)
                    return
                continue
            with self.changed:
                self.idle -= 1
                self.running += 1
            try:
                # More calls may have come while this thread still counted as idle.
                if self._needs_thread():
                    self._grow()
                if self.cancelling:
                    call.cancel()
                elif self.broken is not None:
                    call.fail(self._initializer_failed())
                else:
                    call.run()
            except BaseException:  # noqa: BLE001 - logged; the thread serves on
                _log.critical("Exception in worker", exc_info=True)
            del call
            with self.changed:
                self.running -= 1
                self.idle += 1

    def _drained(self) -> list[_Call]:
        """Take all calls off the queue; the None stays."""
        taken: list[_Call] = []
        end_seen = False
        while True:
            try:
                call = self.calls.get_nowait()
            except queue.Empty:
                break
            if isinstance(call, _Call):
                taken.append(call)
            elif call is None:
                end_seen = True
        if end_seen:
            self.calls.put(None)
        with self.changed:
            self.changed.notify_all()  # somebody may wait for an empty queue
        return taken

    def _initializer_failed(self) -> errors.InitializerFailed:
        failure = errors.InitializerFailed(
            f"the initializer of pool {self.name!r} raised {self.broken!r}; no call can run. Create a new pool."
        )
        failure.__cause__ = self.broken
        return failure


class ThreadPoolExecutor(Executor):
    """A pool of threads in this process, for calls that block. Drop-in for `concurrent.futures.ThreadPoolExecutor`.

    A thread is started when a call is queued and no thread is idle, up to *max_workers*, and reused until the pool
    ends. Calls run in this process and see its memory; computing calls share its one interpreter lock. `submit` queues
    without a bound and never blocks; `map` reads its input no further than its look-ahead.

    Without `shutdown` the submitted calls are finished when the pool is collected or the interpreter ends.

    Args:
        max_workers: Most threads; None means five for each CPU this process may use.
        thread_name_prefix: Threads are named `rimstone-<prefix>-<n>`; "" means ThreadPoolExecutor.
        initializer: Called once in each thread before its first call. When it raises, the pool is broken: calls queued
            and submitted later fail with `InitializerFailed`.
        initargs: Its arguments.
    Raises:
        ValueError: *max_workers* is below 1.
        TypeError: *max_workers* is no integer, or *initializer* cannot be called.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        max_threads = checked_count("max_workers", max_workers, _default_threads())
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer={initializer!r} must be callable, or None")
        super().__init__(thread_name_prefix or "ThreadPoolExecutor")
        self._crew = _Crew(self._name, max_threads, initializer, tuple(initargs), self._callbacks)
        self._crew.ends_with(self)

    def statistics(self) -> ThreadPoolStatistics:
        """What the pool holds now."""
        crew = self._crew
        queued, running = crew.queued, crew.running
        return ThreadPoolStatistics(
            in_flight=queued + running, workers=len(crew.threads), queued=queued, running=running
        )

    def _submit(
        self, options: CallOptions, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[T]:
        self._check_options(options)
        future: Future[T] = Future(self._callbacks)
        self._crew.submit(_Call(future, fn, args, kwargs))
        return future

    def _capacity(self) -> int:
        return self._crew.max_threads

    def _check_options(self, options: CallOptions) -> None:
        if options.level in ("process", "coroutine"):
            other = {"process": "ProcessPoolExecutor", "coroutine": "Pool"}[options.level]
            raise ValueError(
                f"level={options.level!r} was given to a ThreadPoolExecutor, which has only threads; use 'thread' or "
                f"None, or rimstone.{other}, which has that level"
            )

    def _shutdown(self, *, wait: bool, cancel_futures: bool, abandon: bool) -> None:
        crew = self._crew
        crew.stop()
        if cancel_futures:
            shielded(crew.cancel_queued)
        if abandon:
            crew.leave_behind()
        elif wait:
            crew.wait()


def _default_threads() -> int:
    return 5 * (machine.cpus().value or os.cpu_count() or 1)
