"""`Future`: a concurrent.futures.Future that a signal cannot break, with callbacks in a thread of their own.

Why not the standard class as it is. Its lock is a `threading.Condition`, whose `__enter__` is a Python function: a
KeyboardInterrupt can strike after it acquired the lock and before `with` knows of it. The lock then stays held by the
main thread, and the pool's thread that completes the future waits for it for ever. Ctrl-C in a notebook must not do so.

What an interrupt can do to each method, given that CPython handles signals only in the main thread, and there only
after a call, at a backward jump and at the start of a Python function:

- `with self._changed` runs the C methods of `_thread.RLock`. Nothing is checked between "the lock is ours" and "the
  block is entered", nor between the end of the block and the call of `__exit__`. An interrupt inside the block leaves
  it through `__exit__`. So the lock is never left held, and every method below may rely on it.
- `result`, `exception`: the lock is not held while waiting. An interrupted wait leaves at most a stale sleeper in a
  list; waking that does nothing. The waiters of others are not touched.
- `cancel`: the sleepers are woken *before* the one store that cancels, with the lock held. Interrupted between the
  two: they look, see a pending future, and sleep again; nothing was cancelled. Interrupted after the store: the call
  counts as cancelled, only the callbacks have not been posted; `set_running_or_notify_cancel`, which the pool calls
  when it comes to the call, posts them again, and posting twice is harmless.
- `add_done_callback`: the callback is in the list or not; either way the interrupt comes out of this very call.
- `set_result`, `set_exception`, `set_running_or_notify_cancel`: called by the pool's threads, where no signal is
  handled. They alone call into the waiters of `concurrent.futures.wait`, whose own locks are not safe.
- Starting a thread in the main thread: `Thread.start` waits on a `threading.Event`, which has the same weakness: the
  new thread could find the event's lock held for ever. `shielded` does such things where no signal is handled.

Not covered: `concurrent.futures.wait` and `as_completed` called in the main thread acquire the locks of all futures in
a Python loop, and an interrupt inside that loop keeps those acquired so far.
"""

import concurrent.futures
import logging
import threading
import weakref
from _thread import start_new_thread
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any, TypeVar

from rimstone import _originals, clock
from rimstone.hub import Waiter, waiter

__all__ = ["CallbackThread", "Condition", "Future", "shielded"]

T = TypeVar("T")

_log = logging.getLogger("concurrent.futures")


def shielded(fn: Callable[[], object]) -> None:
    """Run *fn* where no signal handler can interrupt it, and return when it has run.

    In the main thread this takes a short-lived thread; an interrupt then ends the wait for it, but not *fn* itself.
    Elsewhere, and when no thread can be started, *fn* runs here.

    Raises:
        BaseException: what *fn* raised.
    """
    if _originals.get_ident() != threading.main_thread().ident:
        fn()
        return
    finished = waiter()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            fn()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asked
            errors.append(error)
        finally:
            finished.unpark()

    try:
        start_new_thread(run, ())
    except RuntimeError:  # no thread to be had: too many, or the interpreter is ending
        fn()
        return
    finished.park(None)
    if errors:
        raise errors.pop()


if TYPE_CHECKING:  # the stubs call the C class final and leave out what threading.Condition uses of it

    class _CLock:
        def __enter__(self) -> bool: ...
        def __exit__(self, kind: object, error: object, tb: object) -> None: ...
        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
        def release(self) -> None: ...
        def _is_owned(self) -> bool: ...
else:
    _CLock = _originals.RLock


class Condition(_CLock):
    """A condition variable whose `with` is C code, and whose waits park a task or block a thread.

    Of a standard condition it has what `concurrent.futures` uses on a future's: the lock and `notify_all`. The one way
    to wait is `wait_until`.
    """

    __slots__ = ("_sleepers",)

    def __init__(self) -> None:
        self._sleepers: list[Waiter] = []

    def wait_until(self, predicate: Callable[[], bool], deadline: float | None = None) -> bool:
        """Wait until *predicate*, called with the lock held, is true. Call it *without* holding the lock.

        Returns:
            The last value of *predicate*: False when the deadline passed first.
        """
        while True:
            mine = waiter()
            with self:
                if predicate():
                    return True
                self._sleepers.append(mine)
            try:
                woken = mine.park(deadline)
            finally:
                mine.cancel()  # for the case that an interrupt struck before the park
                with self:
                    if mine in self._sleepers:
                        self._sleepers.remove(mine)
            if not woken:
                with self:
                    return predicate()

    def notify_all(self) -> None:
        """Wake all that wait. The lock must be held."""
        # They take themselves off the list: so this can be interrupted half-way and done again.
        for sleeper in self._sleepers:
            sleeper.unpark()


class CallbackThread:
    """The thread in which a pool's futures run their done-callbacks, one after another.

    Not the thread that completes a future: that one serves the whole pool, and a slow callback would stall it. It
    starts at the first completed future with a callback. After `close` it ends when nothing is left to run; a future
    completed later (shutdown did not wait for it) starts it once more.

    It knows nothing of its pool, so that a pool that nobody uses can be collected.
    """

    def __init__(self, pool_name: str) -> None:
        self._name = f"rimstone-{pool_name}-callbacks"
        # Futures; anything else is there to wake the thread: None, or the dead reference of `ends_with`.
        self._posted: _originals.SimpleQueue[Future[Any] | weakref.ref[Any] | None] = _originals.SimpleQueue()
        self._owner: weakref.ref[Any] | None = None
        self._changed = Condition()
        self._thread: threading.Thread | None = None
        self._ended: threading.Thread | None = None
        self._closing = False

    def ends_with(self, owner: object) -> None:
        """Close when *owner* is collected."""
        # The callback is C code: an interrupt in a finalizer written in Python would be lost, and the thread with it.
        self._owner = weakref.ref(owner, self._posted.put)

    def post(self, future: "Future[Any]") -> None:
        """Let *future* run its callbacks there soon. Never blocks on a callback; may be repeated."""
        self._posted.put(future)
        if self._thread is not None:
            return
        if not self._changed._is_owned():
            shielded(self._start_when_needed)
            return
        # This is a signal handler inside `wait`, and `wait` goes to sleep without another look at what is posted. The
        # helper needs the lock: it is not waited for.
        try:
            start_new_thread(self._start_when_needed, ())
        except RuntimeError:  # as in `shielded`
            self._start_when_needed()

    def close(self) -> None:
        """End the thread once everything posted has run. Returns at once; may be repeated."""
        self._closing = True
        if self._thread is not None:
            self._posted.put(None)
        self._owner = None  # last: interrupted before this, the owner's end still ends the thread

    def wait(self) -> None:
        """Return when all that was posted has run and, after `close`, the thread has ended.

        Called from a callback it returns at once, for it would wait for itself.
        """
        thread = self._thread
        if threading.current_thread() is thread:
            return
        if thread is not None and thread.ident is not None and not thread.is_alive():
            return  # this is a fork of the process that has the thread
        if not self._posted.empty():
            shielded(self._start_when_needed)  # an interrupt may have struck between put and start in `post`
        self._changed.wait_until(lambda: self._thread is None and self._posted.empty())
        ended = self._ended
        if ended is not None:
            ended.join()  # it has nothing more to do: microseconds

    def _start_when_needed(self) -> None:
        with self._changed:
            if self._thread is not None or self._posted.empty():
                return
            self._thread = _originals.Thread(target=self._serve, name=self._name, daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # no thread to be had: late is worse than here
                self._thread = None
                while not self._posted.empty():
                    future = self._posted.get()
                    if isinstance(future, Future):
                        future._run_callbacks()

    def _serve(self) -> None:
        while True:
            future = self._posted.get()
            if isinstance(future, Future):
                future._run_callbacks()
            elif future is not None:
                self._closing = True
            del future
            if self._closing and self._posted.empty():
                with self._changed:
                    self._ended, self._thread = self._thread, None
                    self._changed.notify_all()
                # Posted after the look at the queue, by someone who still saw a thread:
                self._start_when_needed()
                return


class Future(concurrent.futures.Future[T]):
    """The result of one submitted call, now or later.

    It is a `concurrent.futures.Future` in every respect: `asyncio.wrap_future`, `concurrent.futures.wait` and
    `as_completed` take it. Waiting in a task parks the task; elsewhere it blocks the thread.

    **Callbacks** of a pool's future run one after another in one thread of that pool (`rimstone-<pool>-callbacks`),
    never in the thread that completes futures: a slow callback delays later callbacks and nothing else. A callback
    added to a future that is done runs at once, in the thread that adds it. An exception in a callback is logged to
    the logger `concurrent.futures`. `shutdown(wait=True)` returns after all callbacks have run.

    **Waiters** are woken at once when the result arrives, before callbacks are looked at.

    Args:
        callback_thread: Where callbacks run; None runs them in the thread that completes the future.
        on_cancel: Told when a call that has not started is cancelled, so that the pool can take it off its queue. It
            runs in any thread, also from a finalizer, and may be told twice: it must not block.
    """

    def __init__(
        self,
        callback_thread: CallbackThread | None = None,
        on_cancel: "Callable[[Future[T]], None] | None" = None,
    ) -> None:
        # Not super().__init__(): it would build a threading.Condition first. concurrent.futures knows these by name.
        self._changed = Condition()
        self._condition = self._changed  # type: ignore[assignment]  # no threading.Condition, but used as one
        self._state = PENDING
        self._result = None
        self._exception = None
        self._waiters = []
        self._done_callbacks: list[Callable[[concurrent.futures.Future[T]], object]] = []
        self._callback_thread = callback_thread
        self._on_cancel = on_cancel

    def cancel(self) -> bool:
        """Cancel the call if it has not started.

        Returns:
            True when the call is cancelled (now or before), False when it runs or has finished.
        """
        with self._changed:
            if self._state in (RUNNING, FINISHED):
                return False
            told_before = self._state == CANCELLED_AND_NOTIFIED
            if not told_before:
                self._changed.notify_all()  # before the store, see the head of this file
                # With nobody in `concurrent.futures.wait`, who might come later need not wait until the pool comes to
                # this call. A future without a pool leaves the second state to `set_running_or_notify_cancel`.
                alone = not self._waiters and self._callback_thread is not None
                self._state = CANCELLED_AND_NOTIFIED if alone else CANCELLED
        if self._on_cancel is not None and not told_before:
            self._on_cancel(self)
        self._invoke_callbacks()
        return True

    def result(self, timeout: float | None = None) -> T:
        """Wait for the call and return its result.

        Args:
            timeout: Seconds from now; None waits for ever.
        Raises:
            CancelledError: the call was cancelled.
            TimeoutError: it has not finished in time; it goes on.
            BaseException: what the call raised.
        """
        try:
            self._wait_done(timeout)
            if self._exception is not None:
                raise self._exception
            return self._result  # type: ignore[return-value]  # FINISHED without an exception: a T
        finally:
            del self  # exception -> traceback -> this frame -> future -> exception

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the call and return what it raised, or None.

        Args:
            timeout: Seconds from now; None waits for ever.
        Raises:
            CancelledError: the call was cancelled.
            TimeoutError: it has not finished in time; it goes on.
        """
        self._wait_done(timeout)
        return self._exception

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[T]], object]) -> None:
        """Call `fn(future)` when the call has finished or is cancelled; at once, here, when it already has.

        Otherwise it runs in the pool's callback thread, after the callbacks added before it.
        """
        with self._changed:
            if self._state not in (CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED):
                self._done_callbacks.append(fn)
                return
        self._call_back(fn)

    # For executors and tests only, as in the base class.

    def set_running_or_notify_cancel(self) -> bool:
        """Claim the call before running it; False means that it was cancelled and must not run. See the base class."""
        with self._changed:
            claimed = self._state != CANCELLED_AND_NOTIFIED and super().set_running_or_notify_cancel()
        if not claimed:
            self._invoke_callbacks()  # `cancel` may have been interrupted before it did
        return claimed

    def attach(self, listener: Any) -> None:
        """Tell *listener* at once when the future is done, in the thread that completes it, before any callback.

        Args:
            listener: Has `add_result`, `add_exception` and `add_cancelled`, each taking the future (the protocol of
                `concurrent.futures.wait`). They must neither block nor raise: the pool's thread waits for them.
        """
        with self._changed:
            if self._state not in (CANCELLED_AND_NOTIFIED, FINISHED):
                self._waiters.append(listener)
                cancelled = self._state == CANCELLED
            else:
                cancelled = False
                listener.add_result(self)
        if cancelled:
            self._invoke_callbacks()

    def _wait_done(self, timeout: float | None) -> None:
        # A state once final stays so, and the result is stored before it: no lock for the common case.
        if self._state != FINISHED:
            self._changed.wait_until(self.done, clock.deadline_after(timeout))
            if self._state in (CANCELLED, CANCELLED_AND_NOTIFIED):
                raise CancelledError
            if self._state != FINISHED:
                raise TimeoutError

    def _invoke_callbacks(self) -> None:
        # The base class calls this from set_result and set_exception, after it released the lock.
        if not self._done_callbacks and not (self._waiters and self._state == CANCELLED):
            return
        if self._callback_thread is None:
            self._run_callbacks()
        else:
            self._callback_thread.post(self)

    def _run_callbacks(self) -> None:
        # Waiters of concurrent.futures.wait are told here of a cancellation, not in `cancel`: their locks do not stand
        # an interrupt, and `cancel` may run in the main thread.
        if self._state == CANCELLED and self._callback_thread is not None:
            with self._changed:
                if self._state == CANCELLED:
                    super().set_running_or_notify_cancel()
        while True:
            with self._changed:
                if not self._done_callbacks:
                    return
                callback = self._done_callbacks.pop(0)
            try:
                self._call_back(callback)
            except BaseException:  # SystemExit, say: in the pool's thread it would end that thread
                if self._callback_thread is None:
                    raise
                _log.exception("exception calling callback for %r", self)

    def _call_back(self, callback: Callable[[concurrent.futures.Future[T]], object]) -> None:
        try:
            callback(self)
        except Exception:  # noqa: BLE001 - logged
            _log.exception("exception calling callback for %r", self)
