"""Task: one coroutine, a plain function that runs until it waits. Read `scheduler.py` first.

`spawn`, `joinall`, `sleep`, `Task.join`, `get`, `kill`, `ready`, `successful`, `value` and `exception` mean what they
mean in gevent, with one difference: `get` that runs into its timeout raises the built-in TimeoutError. So do `link` and
`unlink`.
"""

import sys
import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeAlias, TypeVar
from weakref import ref

from greenlet import getcurrent

from rimstone import clock
from rimstone._originals import get_ident
from rimstone._originals import sleep as native_sleep
from rimstone.errors import HubError, TaskExit
from rimstone.hub.parking import waiter
from rimstone.hub.scheduler import current_hub, get_hub
from rimstone.hub.taskcore import TaskCore
from rimstone.iomodel.base import TIMEOUT

if TYPE_CHECKING:
    from rimstone.hub.timeout import Interrupts

__all__ = ["Task", "current_task", "joinall", "sleep", "spawn"]

P = ParamSpec("P")
T = TypeVar("T")


class Task(TaskCore, Generic[T]):
    """One coroutine. Made by `spawn`; starts when the spawning task next waits.

    Attributes:
        name: For messages; `<function>-<number>` until you set another.
        state: One of created, ready, running, parked, done.
    """

    # All but the first are unset until they are needed, and read with a default: `spawn` pays for none of them twice.
    __slots__ = ("__weakref__", "_interrupts", "_killer", "_parent")
    _interrupts: "Interrupts"  # see `timeout.py`
    _killer: BaseException  # what it was killed with last: `TaskGroup` lets that pass
    _parent: "ref[AnyTask]"  # weak: else a chain of tasks, each spawned by the last, would never be freed

    # -- for users ---------------------------------------------------------------------------------------------

    @property
    def parent(self) -> "AnyTask | None":
        """The task that spawned it, while that one is still there; None for a thread's root task."""
        parent = getattr(self, "_parent", None)
        return None if parent is None else parent()

    def stack(self) -> traceback.StackSummary:
        """Where it is, outermost call first; empty before it has started and after it has ended.

        The frames of the scheduler are left out. Call from: any thread; another thread's task may go on meanwhile.
        """
        from rimstone.hub.dump import stack_of

        return stack_of(self)

    def successful(self) -> bool:
        """True when the task returned, or was killed with TaskExit."""
        return self._done and self._error is None

    @property
    def value(self) -> T | None:
        """What the function returned; None while it runs or if it failed; the TaskExit object if it was killed."""
        return self._value  # type: ignore[no-any-return]

    @property
    def exception(self) -> BaseException | None:
        """What the function raised; None while it runs or if it returned."""
        return self._error

    def join(self, timeout: float | None = None) -> None:
        """Wait until the task is done, at most *timeout* seconds. Raises nothing of the task's own.

        Call from: any task of any thread, or a plain thread.
        """
        self._await(clock.deadline_after(timeout))

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Wait for the task, and return what it returned or raise what it raised.

        Raises:
            TimeoutError: it is not done after *timeout* seconds, or at once with `block=False`.
        """
        if not self._done:
            self._getters += 1
            try:
                if not block or not self._await(clock.deadline_after(timeout)):
                    raise TimeoutError(f"{self!r} is not done" + (f" after {timeout} s" if block else ""))
            finally:
                self._getters -= 1
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[no-any-return]

    def kill(
        self,
        exception: BaseException | type[BaseException] = TaskExit,
        block: bool = True,
        timeout: float | None = None,
    ) -> None:
        """Raise *exception* in the task where it waits; a task that has not started never will.

        Args:
            exception: Class or instance; TaskExit counts as success.
            block: Wait until the task is done (it may catch the exception and go on).
            timeout: At most so many seconds; running into it raises nothing.
        Call from: any task of any thread, or a plain thread. A task that kills itself gets the exception at once.
        """
        error = exception() if isinstance(exception, type) else exception
        hub = current_hub()
        if hub is self.hub:
            if hub.is_running(self):
                self._killer = error
                raise error
            self._kill_here(error)
        else:
            self.hub.run_soon(self._kill_here, error)
        if block:
            self.join(timeout)

    def _kill_here(self, error: BaseException) -> None:
        if self._done:
            return
        if self.started:
            displaced = self.pending
            self._killer = error
            self.throw_in(error)
            if displaced is not None:
                interrupts: Interrupts | None = getattr(self, "_interrupts", None)
                if interrupts is not None and displaced in interrupts:
                    interrupts.throw(displaced)  # a timeout comes all the same: its block may catch the kill
            return
        if isinstance(error, TaskExit):
            self._value = error
        else:
            self._error = error
        self._done = self.started = True
        self._finish()

    def link(self, callback: "Callable[[Task[T]], object]") -> None:
        """Call `callback(task)` once, soon after the task has ended; soon if it has ended already.

        It runs in the thread of the task's hub, between two tasks, and must not wait: let it set an event or spawn a
        task. What it raises is printed to stderr. Call from: any thread.
        """
        link = _Link(self, callback)
        self.add_waiter(link)
        if self._done:  # perhaps only just, in another thread: it is called once all the same
            if self.hub.closed:
                link()  # no other thread can do it any more
            else:
                link.unpark()

    def unlink(self, callback: "Callable[[Task[T]], object]") -> None:
        """Undo one `link` of *callback*, if it has not been called yet."""
        for waiting in tuple(self._waiters or ()):
            if isinstance(waiting, _Link) and waiting.callback == callback:
                waiting.called = True
                self.remove_waiter(waiting)
                return

    def _await(self, deadline: float | None) -> bool:
        """Wait until done; False if *deadline* came first."""
        hub = current_hub()
        if hub is not None and hub.current is self and not self._done:
            raise HubError(f"{self!r} cannot wait for itself")
        while not self._done:
            waiting = waiter()
            self.add_waiter(waiting)
            try:
                # It may have ended in another thread just now.
                if not self._done and not waiting.park(deadline):
                    return self._done
            finally:
                self.remove_waiter(waiting)
        # What was thrown into us together with the end of the task: nothing is lost by raising it now.
        if hub is not None:
            hub.current.raise_pending()
        return True


AnyTask: TypeAlias = Task[Any]


class _Link:
    """A callback of `Task.link`, in the shape of a `Waiter`: the end of the task unparks it."""

    __slots__ = ("_task", "callback", "called")

    def __init__(self, task: AnyTask, callback: Callable[[Any], object]) -> None:
        self._task = task
        self.callback = callback
        self.called = False

    def park(self, deadline: float | None = None) -> bool:
        raise NotImplementedError  # nobody waits with it

    def cancel(self) -> None:
        self.called = True

    def unpark(self) -> bool:
        hub = self._task.hub
        if not hub.closed:
            hub.run_soon(self)
        elif not hub.forked and hub.thread_id == get_ident():
            self()  # its thread ends: there is no later; a forked child leaves it to the parent, where the task lives
        return True

    def __call__(self) -> None:
        self._task.remove_waiter(self)
        if self.called:
            return
        self.called = True  # first: if a Ctrl-C strikes in the callback, `run_soon` calls us again
        try:
            self.callback(self._task)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            _report_link(self._task, self.callback, error)


def _report_link(task: AnyTask, callback: object, error: BaseException) -> None:
    try:
        sys.stderr.write(f"{callback!r}, linked to {task!r}, failed:\n")
        traceback.print_exception(error, file=sys.stderr)
        sys.stderr.flush()
    except Exception:  # noqa: S110 - stderr is closed or gone: there is nowhere left to say so
        pass


def current_task() -> Any:
    """The task that runs now; None in a thread without a hub."""
    hub = current_hub()
    return None if hub is None else hub.current


def spawn(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]:
    """Run `function(*args, **kwargs)` as a new task of this thread; it starts when the current one next waits.

    The task inherits a copy of the caller's `contextvars`.

    Returns:
        The task: `join` it, `get` its value, or let it run. If it fails and nobody is in `get`, its traceback goes to
        stderr; the other tasks go on.
    """
    if not callable(function):
        raise TypeError(
            f"spawn() takes a function and its arguments, not {function!r}; write spawn(f, x), not spawn(f(x))"
        )
    hub = get_hub()
    task: Task[T] = Task(hub, function, args, kwargs)
    context = getcurrent().gr_context
    if context:  # an empty one for each task would be memory, and work for the collector
        task.context = context.copy()
    task._parent = ref(hub.current)
    hub.start(task)
    return task


def joinall(tasks: "Iterable[Task[Any]]", timeout: float | None = None, raise_error: bool = False) -> "list[Task[Any]]":
    """Wait until all *tasks* are done, at most *timeout* seconds altogether.

    Args:
        tasks: Of any thread's hub.
        timeout: In seconds; running into it raises nothing.
        raise_error: Raise what a task raised as soon as one has failed; the others go on.
    Returns:
        The tasks that are done, in the order given.
    """
    waited = list(tasks)
    deadline = clock.deadline_after(timeout)
    if raise_error:
        _join_until_error(waited, deadline)
    else:
        for task in waited:
            if not task._await(deadline):
                break
    return [task for task in waited if task.ready()]


def _join_until_error(tasks: "list[Task[Any]]", deadline: float | None) -> None:
    for task in tasks:
        task._getters += 1
    try:
        left = tasks
        while left:
            for task in left:
                if task.exception is not None:
                    raise task.exception
            left = [task for task in left if not task.ready()]
            if left and not _await_any(left, deadline):
                return
    finally:
        for task in tasks:
            task._getters -= 1


def _await_any(tasks: "list[Task[Any]]", deadline: float | None) -> bool:
    waiting = waiter()
    try:
        for task in tasks:
            task.add_waiter(waiting)
        return any(task.ready() for task in tasks) or waiting.park(deadline)
    finally:
        for task in tasks:
            task.remove_waiter(waiting)


def sleep(seconds: float = 0) -> None:
    """Let other tasks run for at least *seconds*; 0 lets every ready one run once.

    In a thread that runs no tasks it is the standard `time.sleep`.
    """
    hub = current_hub()
    if hub is None:
        native_sleep(seconds)
        return
    if not seconds >= 0:  # so that NaN is refused as well: it would upset the order of the timers
        raise ValueError(f"sleep length must be non-negative, not {seconds!r}")
    if seconds == 0:
        hub.reschedule()
        return
    deadline = clock.monotonic() + seconds
    while hub.park(deadline) != TIMEOUT and clock.monotonic() < deadline:
        pass  # woken by something that was not meant for this sleep
