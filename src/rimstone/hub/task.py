"""Task: one coroutine, a plain function that runs until it waits. Read `scheduler.py` first.

`spawn`, `joinall`, `sleep`, `Task.join`, `get`, `kill`, `ready`, `successful`, `value` and `exception` mean what they
mean in gevent, with one difference: `get` that runs into its timeout raises the built-in TimeoutError.
"""

import contextlib
import contextvars
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, Generic, NoReturn, ParamSpec, Protocol, TypeAlias, TypeVar

from greenlet import getcurrent, greenlet

from rimstone import clock
from rimstone._originals import sleep as native_sleep
from rimstone.errors import HubError, TaskExit
from rimstone.hub.parking import TaskWaiter, Waiter, waiter
from rimstone.hub.scheduler import Hub, current_hub, get_hub
from rimstone.iomodel.base import KILLED, TIMEOUT

__all__ = ["Guest", "Task", "current_task", "joinall", "sleep", "spawn"]

P = ParamSpec("P")
T = TypeVar("T")

_numbers = count(1)


class Guest(Protocol):
    """Per-thread state of somebody else's event loop, taken away while its task is parked (see `aio`)."""

    def suspend(self) -> None:
        """The task parks: clear what siblings must not see."""

    def resume(self) -> None:
        """The task goes on: put it back."""


class Task(Generic[T]):
    """One coroutine. Made by `spawn`; starts when the spawning task next waits.

    Attributes:
        name: For messages; `Task-<n>` unless given.
    """

    __slots__ = (
        "__weakref__",
        "_args",
        "_done",
        "_error",
        "_function",
        "_getters",
        "_kwargs",
        "_value",
        "_waiters",
        "context",
        "greenlet",
        "guest",
        "hub",
        "locals",
        "name",
        "parked",
        "pending",
        "reason",
        "started",
        "ticket",
        "waiting",
    )

    def __init__(
        self, hub: Hub, function: Callable[..., T] | None, args: tuple[Any, ...], kwargs: dict[str, Any], name: str
    ) -> None:
        self.hub = hub
        self.name = name
        self._function = function
        self._args = args
        self._kwargs = kwargs
        # Kept by the scheduler. `ticket` numbers the task's parks, for timers; `waiting` is what its last park waited
        # for; `pending` is an exception to be raised at the next chance; `greenlet` is where to go on.
        self.ticket = 0
        self.parked = False
        self.waiting: TaskWaiter | None = None
        self.reason = 0
        self.pending: BaseException | None = None
        self.greenlet: greenlet | None = None
        self.context: contextvars.Context | None = None
        self.guest: Guest | None = None
        self.locals: Any = None  # see `local.py`
        self.started = False
        self._done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._waiters: list[Waiter] = []
        self._getters = 0  # how many waiters are going to see the exception

    @classmethod
    def for_root(cls, hub: Hub) -> "Task[None]":
        """The task that stands for the thread itself; it is running, and ends with the thread."""
        root: Task[None] = Task(hub, None, (), {}, "root")
        root.greenlet = getcurrent()
        root.started = True
        return root

    # -- life (called by the hub) ------------------------------------------------------------------------------

    def run(self) -> None:
        """Body of the task's greenlet."""
        if self._done:  # killed before it started
            return
        function, args, kwargs = self._function, self._args, self._kwargs
        assert function is not None
        self._function, self._args, self._kwargs = None, (), {}
        self.started = True
        try:
            self._value = function(*args, **kwargs)
        except TaskExit as leaving:
            self._value = leaving  # as gevent does: a killed task is a success
        except BaseException as error:
            self._error = error
        del function, args, kwargs  # the traceback of an error keeps this frame
        if self.hub.forked:
            self._leave_child()
        self._done = True
        while True:
            try:
                self._finish()
                break
            except BaseException as error:  # a signal handler raised; whoever joins must be told all the same
                self.hub.root.throw_in(error)

    def end_with(self, error: BaseException) -> None:
        """The greenlet is dead, by *error*, without having told anybody that the task is done."""
        if not self._done:
            self._error = error
            self._done = True
        self._finish()

    def abandon(self) -> None:
        """The hub has ended before the task did. It is done, as far as others can see; its greenlet is left alone."""
        if not self._done:
            self._error = HubError(f"{self!r} was still waiting when its thread or hub ended")
            self._done = True
        for waiting in tuple(self._waiters):
            waiting.unpark()

    def _finish(self) -> None:
        """Tell everybody that the task is done. May be done twice."""
        hub = self.hub
        if self in hub.tasks:
            hub.forget(self)
            self._function, self._args, self._kwargs = None, (), {}
            self.locals = self.context = self.waiting = self.pending = None
            error = self._error
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                # They end the program, not a task: also raised in the thread's root, as if it had been computing.
                hub.root.throw_in(error)
            elif error is not None and not self._getters:
                hub.report(self, error)
        for waiting in tuple(self._waiters):  # they take themselves out
            waiting.unpark()
        self.greenlet = None  # last: until then, a dead greenlet tells the launcher that this was cut short

    def _leave_child(self) -> NoReturn:
        """The task forked and has come to its end in the child, where it was the main program: exit as that does."""
        error = self._error
        code = 0
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            if error.code is not None and not isinstance(error.code, int):
                print(error.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
        elif error is not None:
            traceback.print_exception(error)
            code = 1
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)

    def raise_pending(self) -> None:
        """Raise, in this task, what was thrown into it."""
        error, self.pending = self.pending, None
        if error is not None:
            raise error

    def throw_in(self, error: BaseException) -> None:
        """Raise *error* where this task waits, or where it next waits. From the hub's thread.

        A park that has been granted already returns normally, so that what was granted (a lock, an item) is not lost.
        """
        if not self._done:
            self.pending = error
            self.hub.make_ready(self, KILLED)
            self.hub.wake_if_blocked()

    # -- for users ---------------------------------------------------------------------------------------------

    def ready(self) -> bool:
        """True when the task is done, in whatever way."""
        return self._done

    def successful(self) -> bool:
        """True when the task returned, or was killed with TaskExit."""
        return self._done and self._error is None

    @property
    def value(self) -> T | None:
        """What the function returned; None while it runs or if it failed; the TaskExit object if it was killed."""
        return self._value

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
        return self._value  # type: ignore[return-value]

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
            self._waiters.append(waiting)
            try:
                # It may have ended in another thread just now.
                if not self._done and not waiting.park(deadline):
                    return self._done
            finally:
                if waiting in self._waiters:
                    self._waiters.remove(waiting)
        # What was thrown into us together with the end of the task: nothing is lost by raising it now.
        if hub is not None:
            hub.current.raise_pending()
        return True

    @property
    def state(self) -> str:
        """One of created, ready, running, parked, done."""
        if self._done:
            return "done"
        if self.parked:  # first, since a parked task stays the hub's current one while it polls on its own stack
            return "parked"
        if self.hub.current is self:
            return "running"
        return "ready" if self.started else "created"

    def __repr__(self) -> str:
        function = self._function
        of = f" of {getattr(function, '__qualname__', function)}" if function is not None else ""
        if self._error is not None:
            return f"<Task {self.name} failed with {type(self._error).__name__}>"
        return f"<Task {self.name}{of} {self.state}>"


AnyTask: TypeAlias = Task[Any]


def current_task() -> "Task[Any] | None":
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
    task = Task(hub, function, args, kwargs, f"{getattr(function, '__name__', 'Task')}-{next(_numbers)}")
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
            task._waiters.append(waiting)
        return any(task.ready() for task in tasks) or waiting.park(deadline)
    finally:
        for task in tasks:
            if waiting in task._waiters:
                task._waiters.remove(waiting)


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
