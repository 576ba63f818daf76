"""Task: one coroutine, a plain function that runs until it waits. Read `scheduler.py` first.

`spawn`, `joinall`, `sleep`, `Task.join`, `get`, `kill`, `ready`, `successful`, `value` and `exception` mean what they
mean in gevent, with one difference: `get` that runs into its timeout raises the built-in TimeoutError.
"""

import contextvars
from collections.abc import Callable, Iterable
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar

from rimstone import clock
from rimstone._originals import sleep as native_sleep
from rimstone.errors import HubError, TaskExit
from rimstone.hub.parking import waiter
from rimstone.hub.scheduler import current_hub, get_hub
from rimstone.hub.taskcore import TaskCore
from rimstone.iomodel.base import TIMEOUT

__all__ = ["Task", "current_task", "joinall", "sleep", "spawn"]

P = ParamSpec("P")
T = TypeVar("T")


class Task(TaskCore, Generic[T]):
    """One coroutine. Made by `spawn`; starts when the spawning task next waits.

    Attributes:
        name: For messages; `<function>-<number>` unless given.
    """

    __slots__ = ("__weakref__",)

    # -- for users ---------------------------------------------------------------------------------------------

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
            self.throw_in(error)
            return
        if isinstance(error, TaskExit):
            self._value = error
        else:
            self._error = error
        self._done = self.started = True
        self._finish()

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
    task.context = contextvars.copy_context()
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
