"""The hub: runs the tasks of one thread, and waits when none can run. Read `iomodel/base.py` before, `task.py` after.

How a switch happens
--------------------
There is no scheduler coroutine. A task that parks picks the next runnable task itself, on its own stack (`_next`), and
switches straight to it: one switch per wait, and none at all if the poll it does on the way makes it ready again.

Only one greenlet belongs to the hub: the *launcher*. New tasks are started from it and end into it, since a greenlet
inherits the recursion depth of the one that started it (a chain of tasks, each started by the last, would die of
RecursionError). The thread's own root greenlet is an ordinary task, `root`: switched to only when it is unparked.

A task may park from any greenlet, also one that foreign code (SQLAlchemy, greenback) made: what is remembered is the
greenlet that called `park`, and that one is switched to.

States of a task: CREATED -> READY -> RUNNING <-> PARKED -> DONE. A park is identified by the task's *ticket*, a number
that goes up when a park ends; a timer or an unpark that comes late carries an old ticket and does nothing.

Who may call what: everything here belongs to the hub's own thread, but `run_soon` and `unpark`.

What may strike while the scheduler polls, on some task's stack: a signal handler. Whatever it raises is not that
task's affair; it is handed to `root` (KeyboardInterrupt included). A handler may unpark, set events, put into queues;
it may not wait: `park` raises HubError there.
"""

import os
import sys
import traceback
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

from rimstone import clock
from rimstone._originals import get_ident, native_local
from rimstone.errors import HubError
from rimstone.hub.timers import Timers
from rimstone.iomodel import IOModel, choose
from rimstone.iomodel.base import KILLED, TIMEOUT, UNPARKED

if TYPE_CHECKING:
    from rimstone.hub.task import Task

__all__ = ["Hub", "close_hub", "current_hub", "get_hub", "live_tasks"]


class Hub:
    """The scheduler of one thread.

    Attributes:
        io: The IO model; its operations are what patched sockets call.
        current: The task that runs now.
        root: The task that stands for the thread itself.
        on_idle: Called when no task can run, before the hub waits; returns True if it made one runnable. A worker
            takes its next call here: that is how "only when every call it holds is waiting" is kept.
    """

    def __init__(self, model: type[IOModel] | None = None) -> None:
        from rimstone.hub.task import Task

        self.thread_id = get_ident()
        self.io: IOModel = (model or choose())(self)
        self.root: Task = Task.for_root(self)
        self.current: Task = self.root
        self.tasks: set[Task] = set()  # started and not done; a parked greenlet must never become garbage
        self.on_idle: Callable[[], bool] | None = None
        self.switches = 0
        self.forked = False  # this is a copy in a forked child; see `_after_fork_in_child`
        self._ready: deque[Task] = deque()
        self._round = 0  # how many more ready tasks may run before the next poll
        self._timers = Timers()
        self._soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._polling = False  # in a poll that may wait: whoever has news must `wake` it
        self._scheduling = False
        self._starting: Task | None = None
        self._launcher = greenlet(self._launch, getcurrent())

    # -- parking -----------------------------------------------------------------------------------------------

    def park(self, deadline: float | None = None) -> int:
        """Suspend the current task until it is unparked; returns why it goes on (UNPARKED, TIMEOUT or IO).

        Raises:
            HubError: the scheduler itself was interrupted (a signal handler that wants to wait).
            BaseException: what `Task.kill` was given.
        """
        task = self.current
        if self._scheduling:
            raise HubError(
                "cannot wait here: this code interrupted the scheduler (a signal handler, or a finalizer). "
                "Set an Event or unpark a task instead, and let that task do the waiting"
            )
        if task.pending is not None:
            task.raise_pending()
        if task.permit:  # unparked before it parked
            task.permit = False
            task.ticket += 1
            return UNPARKED
        if deadline is not None:
            self._timers.add(deadline, task)
        guest = task.guest
        if guest is not None:
            guest.suspend()
        task.parked = True
        self._switch_away(task)
        if guest is not None:
            guest.resume()
        if task.reason == KILLED:
            task.raise_pending()
        return task.reason

    def reschedule(self) -> None:
        """Let every other ready task run once, then go on: `sleep(0)`."""
        task = self.current
        if self._scheduling:
            raise HubError("cannot yield here: this code interrupted the scheduler (a signal handler, or a finalizer)")
        if task.pending is not None:
            task.raise_pending()
        guest = task.guest
        if guest is not None:
            guest.suspend()
        task.parked = True
        self.make_ready(task, UNPARKED)
        self._switch_away(task)
        if guest is not None:
            guest.resume()
        if task.pending is not None:
            task.raise_pending()

    def make_ready(self, task: "Task", reason: int) -> None:
        """End the present park of *task*; without effect if it is not parked."""
        if task.parked:
            task.parked = False
            task.reason = reason
            task.ticket += 1
            self._ready.append(task)

    def unpark(self, task: "Task", ticket: int) -> None:
        """End the park that *ticket* stands for, or grant it in advance. Any thread, any signal handler; late is fine."""
        if get_ident() != self.thread_id:
            self.run_soon(self._unpark_here, task, ticket)
            return
        self._unpark_here(task, ticket)
        if self._polling:  # a signal handler, while this thread waits in poll: the system call is going to be retried
            self.io.wake()

    def _unpark_here(self, task: "Task", ticket: int) -> None:
        if task.ticket == ticket:
            if task.parked:
                self.make_ready(task, UNPARKED)
            else:
                task.permit = True

    def run_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Call `function(*args)` in the hub's thread, between two tasks. Any thread, also a signal handler.

        *function* must not wait. If it raises, the error goes to the hub's root task.
        """
        self._soon.append((function, args))
        if self._polling:
            self.io.wake()

    # -- starting tasks ----------------------------------------------------------------------------------------

    def start(self, task: "Task") -> None:
        """Queue a new task; it runs when the current one parks."""
        self.tasks.add(task)
        self._ready.append(task)

    def _launch(self) -> None:
        """The launcher: starts the task that was left in `_starting`, and goes on scheduling when one ends."""
        while True:
            task, self._starting = self._starting, None
            if task is None:  # a task has just ended into us
                task = self._next()
            if task.greenlet is None:
                task.greenlet = greenlet(task.run, getcurrent())
                context = task.context
                if context is not None:
                    task.greenlet.gr_context = context
            self.current = task
            self.switches += 1
            task.greenlet.switch()

    # -- scheduling --------------------------------------------------------------------------------------------

    def _switch_away(self, task: "Task") -> None:
        task.greenlet = getcurrent()
        following = self._next()
        if following is task:
            return
        if following.greenlet is None:
            self._starting = following
            self._launcher.switch()
        else:
            self.current = following
            self.switches += 1
            following.greenlet.switch()

    def _next(self) -> "Task":
        """The next task to run. Polls once a round, so that neither IO nor timers starve; waits if nothing can run."""
        ready = self._ready
        while self._round <= 0 or not ready:
            self._scheduling = True
            try:
                self._poll()
            except BaseException as error:
                self._give_to_root(error)
            finally:
                self._scheduling = False
            self._round = len(ready)
        self._round -= 1
        return ready.popleft()

    def _poll(self) -> None:
        ready = self._ready
        soon = self._soon
        while soon:
            function, args = soon.popleft()
            function(*args)
        deadline = self._timers.next_deadline()
        timeout: float | None = 0.0
        if not ready:
            if self.on_idle is not None and self.on_idle():
                return
            timeout = None if deadline is None else max(0.0, deadline - clock.monotonic())
            if timeout != 0.0:
                # From here on, news must come with a `wake`; what came before is in `soon` or `ready`.
                self._polling = True
                if soon or ready:
                    timeout = 0.0
        try:
            self.io.poll(timeout)
        finally:
            self._polling = False
        if deadline is not None:
            for task in self._timers.pop_due(clock.monotonic()):
                self.make_ready(task, TIMEOUT)

    def _give_to_root(self, error: BaseException) -> None:
        """Something was raised that belongs to no task: a signal handler's exception, or a failed `run_soon`."""
        self.root.throw_in(error)

    # -- errors ------------------------------------------------------------------------------------------------

    def report(self, task: "Task", error: BaseException) -> None:
        """Print the traceback of a task that failed while nobody waits for its result. Never raises."""
        try:
            print(f"{task!r} failed, and nobody waits for its result:", file=sys.stderr)
            traceback.print_exception(error, file=sys.stderr)
            sys.stderr.flush()
        except Exception:  # stderr is closed or gone: there is nowhere left to say so
            pass

    # -- life --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Kill every task, then give back the descriptors. Only the root task may call it."""
        for _ in range(100):  # a task may spawn another while it is dying; one that always does is left behind
            if not self.tasks:
                break
            for task in tuple(self.tasks):
                task.kill(block=False)
            self.reschedule()
        self._tear_down()

    def _tear_down(self) -> None:
        self.on_idle = None
        if not self.forked:
            self.io.close()

    def __repr__(self) -> str:
        return (
            f"<Hub of thread {self.thread_id}: {len(self.tasks)} tasks, {len(self._ready)} ready, "
            f"{len(self._timers)} timers, {self.io!r}>"
        )


class _ThreadState(native_local):
    """What a thread keeps: its hub, if it has one. Dies with the thread, and the hub's descriptors with it."""

    hub: Hub | None = None
    guard: "_Guard | None" = None


class _Guard:
    """Closes a hub's descriptors when its thread ends: the hub itself sits in a cycle with its launcher."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def __del__(self) -> None:
        self._hub._tear_down()


_state = _ThreadState()


def current_hub() -> Hub | None:
    """The calling thread's hub, or None if it runs no tasks: then waiting means blocking the thread."""
    return _state.hub


def get_hub() -> Hub:
    """The calling thread's hub, created on first use; in a forked child the parent's is replaced by a new one."""
    hub = _state.hub
    if hub is None:
        hub = Hub()
        _state.hub = hub
        _state.guard = _Guard(hub)
    return hub


def close_hub() -> None:
    """End the calling thread's hub, if it has one: its tasks are killed, its descriptors closed."""
    hub = _state.hub
    if hub is not None:
        hub.close()
        _state.hub = None
        _state.guard = None


def _after_fork_in_child() -> None:
    """The forking task goes on as the child's main program; the parent's other tasks are never entered again."""
    hub = _state.hub
    if hub is not None:
        hub.forked = True
        _orphans.append(hub)
        _state.hub = None
        _state.guard = None


_orphans: list[Hub] = []  # hubs of the parent, kept so that their parked greenlets are never collected (and entered)


def live_tasks() -> "list[Task]":
    """The tasks of the calling thread's hub that have been started and are not done."""
    hub = _state.hub
    return list(hub.tasks) if hub is not None else []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
