"""What the scheduler sees of a task, and its life from start to end. The user's side is `task.py`. Read `scheduler.py`.

A class of its own so that the compiled core can make a C type of it (`taskcore.pxd`), which a generic class cannot be.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from rimstone.errors import HubError, TaskExit
from rimstone.iomodel.base import KILLED, NEVER, TIMEOUT, Waiting

if TYPE_CHECKING:
    import contextvars

    from rimstone.hub.parking import Waiter
    from rimstone.hub.scheduler import Hub

__all__ = ["Guest", "TaskCore"]

_numbers = count(1)
_GIVEN = "_rimstone_root"  # in an exception: the process and thread in whose root it has been raised


class Guest(Protocol):
    """Per-thread state of somebody else's event loop, taken away while its task is parked (see `aio`)."""

    def suspend(self) -> None:
        """The task parks: clear what siblings must not see."""

    def resume(self) -> None:
        """The task goes on: put it back."""


class TaskCore(Waiting):
    """One coroutine, as the scheduler sees it.

    Attributes:
        hub: The hub that runs it.
        greenlet: Where it goes on; None before it has started and after it has ended.
        started: True once it runs or has run, or can never run.
        parked: True while it waits.
        reason: Why its last park ended.
        pending: An exception to be raised where it next parks, or is parked now.
        deadline, timer: When its park ends at the latest, and when the heap looks at it next; see `timers.py`.
        context: Its `contextvars`.
        guest: See `Guest`.
        locals: See `local.py`.
    """

    __slots__ = (
        *("_args", "_done", "_error", "_function", "_getters", "_name", "_value", "_waiters"),
        *("context", "deadline", "greenlet", "guest", "hub", "locals", "number", "parked", "pending", "reason"),
        *("started", "timer"),
    )

    def __init__(
        self,
        hub: "Hub",
        function: Callable[..., Any] | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
    ) -> None:
        self.waiting: Any = None  # these two are the base class's
        self.enlisted = False
        self.hub = hub
        self.number = next(_numbers)
        self._name = name
        # Bound with the keywords: a field and a dictionary for each task would be memory, and work for the collector.
        self._function: Any = partial(function, **kwargs) if kwargs and function else function  # after the end its name
        self._args = args
        self.greenlet: Any = None
        self.started = False
        self.parked = False
        self.reason = 0
        self.pending: BaseException | None = None
        self.deadline = NEVER
        self.timer = NEVER
        self.context: contextvars.Context | None = None
        self.guest: Guest | None = None
        self.locals: Any = None
        self._done = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._waiters: list[Waiter] | None = None
        self._getters = 0  # how many of the waiters are going to see the exception

    # -- called by the hub -------------------------------------------------------------------------------------

    def end(self) -> None:
        """The function has returned, or raised: tell everybody."""
        if isinstance(self._error, TaskExit):
            self._value, self._error = self._error, None  # as gevent does: a killed task is a success
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
        """A signal handler raised *error* while the task began or ended: it is done, and everybody must be told."""
        if not self._done:
            self._error = error
            self._done = True
        self._finish()

    def abandon(self) -> None:
        """The hub has ended before the task did. It is done, as far as others can see; its greenlet is left alone."""
        if not self._done:
            self._error = HubError(f"{self!r} was still waiting when its thread or hub ended")
            self._done = True
        self._tell_waiters()

    def _finish(self) -> None:
        """Tell everybody that the task is done. May be done twice."""
        hub = self.hub
        if self in hub.tasks:
            hub.forget(self)
            self._args = ()
            self._function = self._qualname()  # what it refers to may go
            self.locals = self.context = self.waiting = self.pending = None
            error = self._error
            if error is not None:
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    # They end the program, not a task: also raised in the thread's root, as if it had been computing.
                    # Once, however many tasks it passes through (`get`, a group) until it comes there.
                    here = (os.getpid(), hub.thread_id)  # it may go on to another thread, or be sent to another process
                    if error.__dict__.get(_GIVEN) != here:
                        hub._give_to_root(error)
                        error.__dict__[_GIVEN] = here
                elif not self._getters:
                    hub.report(self, error)
        self._tell_waiters()
        self.greenlet = None  # last: until then, the runner knows that this was cut short

    def _tell_waiters(self) -> None:
        waiters = self._waiters
        if waiters:
            for waiting in tuple(waiters):  # they take themselves out
                waiting.unpark()

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
            if self.parked:
                self.hub.io.cancel(self)
            self.hub.make_ready(self, KILLED)
            self.hub.wake_if_blocked()

    def fire(self) -> None:
        """Its deadline has come."""
        if self.parked:
            self.hub.make_ready(self, TIMEOUT)
        else:
            self.deadline = NEVER  # an exception has cut short the park that it was meant for

    # -- waiting for its end -----------------------------------------------------------------------------------

    def ready(self) -> bool:
        """True when the task is done, in whatever way."""
        return bool(self._done)

    def add_waiter(self, waiting: "Waiter") -> None:
        """Unpark *waiting* when the task ends, unless it has ended already. From any thread."""
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiting)

    def remove_waiter(self, waiting: "Waiter") -> None:
        """Nobody waits with *waiting* any more."""
        if self._waiters is not None and waiting in self._waiters:
            self._waiters.remove(waiting)

    # -- for people --------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """For messages; `<function>-<number>` unless it was given."""
        if self._name is None:
            return f"{(self._qualname() or 'Task').rpartition('.')[2]}-{self.number}"
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = name

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
        if self._error is not None:
            return f"<Task {self.name} failed with {type(self._error).__name__}>"
        function = self._qualname() or self._function
        of = f" of {function}" if function is not None else ""
        return f"<Task {self.name}{of} {self.state}>"

    def _qualname(self) -> str | None:
        function = self._function
        if isinstance(function, partial):
            function = function.func
        return function if isinstance(function, str) else getattr(function, "__qualname__", None)
