"""TaskGroup: a block that its tasks do not outlive. Read `task.py` before, and the head of `timeout.py`.

How a group ends
----------------
States: CREATED -> OPEN -> ENDING -> CLOSED. OPEN: tasks may be spawned, by the block and by other tasks of the thread.
It stays open after the body has ended for as long as a task of it runs. ENDING: something has failed, or the parent
is to go; every task has been killed, once (a second kill would end its clean-up), and what is spawned now is killed
before it starts. CLOSED: all tasks are done, and the block is left.

What leaves the block, in that order:

1. KeyboardInterrupt or SystemExit of the body or of a task: as it is.
2. What came from outside and came first: a kill of the parent, a Timeout that struck it, a Deadlock. As it is, so that
   whoever sent it knows it again. If tasks fail on top of that, nobody is going to see it: it is printed.
3. Failures of tasks and of the body: one ExceptionGroup (a BaseExceptionGroup if one of them is no Exception), also
   for the body alone, so that one `except*` is enough; in the order in which they happened. `asyncio` does the same.

While the block waits for its tasks nothing ends that wait but a certain deadlock: a killed task that refuses to end. A
further kill or timeout is kept, and raised where the parent next waits; a timeout whose block is left before that is
taken back.
"""

from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from greenlet import GreenletExit

from rimstone._originals import get_ident
from rimstone.errors import CannotWait, Deadlock, HubError, TaskExit
from rimstone.hub.parking import Waiter, waiter
from rimstone.hub.scheduler import Hub, current_hub, get_hub
from rimstone.hub.task import AnyTask, Task, spawn
from rimstone.hub.timeout import Timeout, interrupts_of

__all__ = ["TaskGroup"]

P = ParamSpec("P")
T = TypeVar("T")

_CREATED, _OPEN, _ENDING, _CLOSED = "not entered yet", "open", "ending", "closed"
_PROGRAM_ENDS = (KeyboardInterrupt, SystemExit)
_FROM_OUTSIDE = (*_PROGRAM_ENDS, GreenletExit, GeneratorExit, Timeout, Deadlock)


class TaskGroup:
    """Runs tasks that end before its block does.

        with TaskGroup() as group:
            first = group.spawn(fetch, "a")
            second = group.spawn(fetch, "b")
        print(first.value, second.value)

    The first task that fails kills the others (with TaskExit) and interrupts the block where it waits; so does an
    exception in the block. When all tasks are done, an ExceptionGroup of the failures is raised, the block's own
    included. A task that is killed has not failed: the others go on.

    If the task that runs the block is killed, or a Timeout strikes it, the tasks are killed and waited for, and that
    exception goes on as it is. See the head of `rimstone/hub/group.py` for what happens when several come together.

    A group is used once. Groups may be nested.
    """

    __slots__ = (
        *("_children", "_failures", "_hub", "_in_body", "_interruption", "_kept", "_killed", "_leaving", "_parent"),
        *("_state", "_waiting"),
    )

    def __init__(self) -> None:
        self._state = _CREATED
        self._hub: Hub | None = None
        self._parent: AnyTask | None = None
        self._in_body = False
        self._children: set[AnyTask] = set()
        self._killed: set[AnyTask] = set()  # of the children
        self._failures: dict[AnyTask | None, BaseException] = {}  # None: the body
        self._leaving: BaseException | None = None  # came from outside, before any failure
        self._kept: list[BaseException] = []  # came from outside later; raised where the parent waits next
        self._interruption: BaseException | None = None  # raised in the body when a child has failed
        self._waiting: Waiter | None = None  # of the block's end

    # -- for users ---------------------------------------------------------------------------------------------

    def spawn(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]:
        """Run `function(*args, **kwargs)` as a new task of the group; see `rimstone.spawn`.

        What it raises is the group's affair and not printed. In a group that is ending, the task is killed before it
        starts.

        Raises:
            HubError: the block has not been entered or has ended, or this is another thread.
        Call from: the block, the group's tasks, and any other task of the thread.
        """
        hub = self._hub
        if hub is None:
            raise HubError("this TaskGroup has not been entered; write `with TaskGroup() as group: group.spawn(f, x)`")
        if self._state is _CLOSED or hub.closed:
            raise HubError("the block of this TaskGroup has ended, and tasks do not outlive it; use a new TaskGroup")
        if current_hub() is not hub:
            raise HubError(
                f"this TaskGroup belongs to thread {hub.thread_id}, and thread {get_ident()} cannot start tasks in it; "
                f"use a TaskGroup in each thread"
            )
        task = spawn(function, *args, **kwargs)
        task._getters += 1
        task.add_waiter(_End(self, task))
        self._children.add(task)
        if self._state is _ENDING:
            self._kill_children()
        return task

    def __enter__(self) -> Self:
        if self._state is not _CREATED:
            raise HubError(f"this TaskGroup is {self._state}, and each is used for one block only; make a new one")
        hub = get_hub()
        if not hub.is_running(hub.current):
            raise CannotWait(
                "a TaskGroup waits for its tasks, and this code (a signal handler, a finalizer) cannot wait; spawn a "
                "task, and let that one have the group"
            )
        self._hub = hub
        self._parent = hub.current
        self._in_body = True
        self._state = _OPEN
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        hub, parent = self._hub, self._parent
        assert hub is not None
        assert parent is not None
        self._in_body = False
        if self._interruption is not None:
            interrupts_of(parent).take_back(self._interruption)
        if value is not None and value is not self._interruption:
            if _is_from_outside(parent, value):
                self._take(value)
            else:
                self._failures[None] = value
        self._wait_for_children(ending=value is not None)
        self._state = _CLOSED
        try:
            self._leave(hub, parent, value)
        finally:
            # Else the exception, through its traceback, keeps us, and we keep the exception.
            self._parent = self._waiting = self._interruption = self._leaving = None
            self._failures, self._kept = {}, []

    def __repr__(self) -> str:
        return f"<TaskGroup {self._state}, {len(self._children)} tasks>"

    # -- the end -----------------------------------------------------------------------------------------------

    def _take(self, error: BaseException) -> None:
        """*error* came from outside: it ends the group, unless something else did so before."""
        if self._failures or self._leaving is not None:
            self._kept.append(error)
        else:
            self._leaving = error

    def _wait_for_children(self, ending: bool) -> None:
        """Wait for them, whatever is raised here meanwhile; if *ending*, or if something is raised, kill them first."""
        thrown: BaseException | None = None
        while True:
            try:
                if thrown is not None:
                    if self._state is _ENDING and isinstance(thrown, HubError):
                        # No wait is possible here, or a killed task refuses to end and all is stuck (Deadlock).
                        self._kept += [] if self._leaving is None else [self._leaving]
                        self._leaving = thrown
                        return
                    self._take(thrown)
                    thrown = None
                    ending = True
                if ending:
                    self._kill_children()
                if not self._children:
                    return
                self._waiting = waiter()
                if self._children:
                    self._waiting.park()
            except BaseException as error:  # no call here: a signal handler may raise again
                thrown = error

    def _leave(self, hub: Hub, parent: AnyTask, value: BaseException | None) -> None:
        """Raise what leaves the block, unless it is *value*; keep what is to be raised later, print what is lost."""
        leaving = self._leaving
        for error in (leaving, *self._kept, *self._failures.values()):
            if isinstance(error, _PROGRAM_ENDS):
                leaving = error
                break
        for error in (self._leaving, *self._kept):
            if error is not None and error is not leaving:
                interrupts_of(parent).throw(error)
        if leaving is not None:
            if parent.pending is leaving:  # a child's Ctrl-C, which is raised in the root task as well
                parent.pending = None
            for task, error in self._failures.items():
                if task is not None and error is not leaving:
                    hub.report(task, error)
            if leaving is not value:
                raise leaving
        elif self._failures:
            raise BaseExceptionGroup("unhandled errors in a TaskGroup", list(self._failures.values())) from None

    def _kill_children(self) -> None:
        """Kill all, each once."""
        self._state = _ENDING
        for task in tuple(self._children):
            if task in self._killed:
                continue
            self._killed.add(task)
            error = TaskExit("the TaskGroup is ending")
            if task.pending is None or task.pending is not getattr(task, "_killer", None):
                task._kill_here(error)
            elif not isinstance(task.pending, TaskExit):
                # Killed by somebody else a moment ago: with something that it may catch, so it gets ours as well.
                interrupts_of(task).throw(error)

    def _child_has_ended(self, task: AnyTask) -> None:
        """Called in the hub's thread, between two steps of any task; may be called twice."""
        if task not in self._children:
            return
        hub, parent = self._hub, self._parent
        assert hub is not None
        error = task.exception
        # A closed hub has abandoned its tasks: its thread ends, or this is a forked child and they live in the parent.
        if error is not None and self._state is _CLOSED:  # it had refused to end
            hub.report(task, error)
        elif error is not None and not hub.closed:
            self._failures[task] = error
            self._kill_children()
            if self._in_body and self._interruption is None and parent is not None:
                self._interruption = TaskExit("a task of the TaskGroup has failed")
                interrupts_of(parent).throw(self._interruption)
        self._children.discard(task)
        self._killed.discard(task)
        if not self._children and self._waiting is not None:
            self._waiting.unpark()


def _is_from_outside(task: AnyTask, error: BaseException) -> bool:
    """True if the body did not raise *error*: it was thrown in, or it is of a kind that ends more than a block."""
    return isinstance(error, _FROM_OUTSIDE) or error is getattr(task, "_killer", None) or error in interrupts_of(task)


class _End:
    """Tells the group of the end of one task, in the shape of a `Waiter`."""

    __slots__ = ("_group", "_task")

    def __init__(self, group: TaskGroup, task: AnyTask) -> None:
        self._group = group
        self._task = task

    def park(self, deadline: float | None = None) -> bool:
        raise NotImplementedError  # nobody waits with it

    def cancel(self) -> None:
        pass

    def unpark(self) -> bool:
        self._group._child_has_ended(self._task)
        self._task.remove_waiter(self)
        return True
