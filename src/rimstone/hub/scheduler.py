"""The hub: runs the tasks of one thread, and waits when none can run. Read `iomodel/base.py` before, `task.py` after.

How a switch happens
--------------------
There is no scheduler coroutine. A task that parks picks the next runnable task itself, on its own stack (`_next`), and
switches straight to it: one switch per wait, and none at all if the poll it does on the way makes it ready again.

Tasks run in *runners*: greenlets of the hub, each of which runs one task after the other. A runner whose task has ended
picks the next task itself; if that one is new, it runs it on the spot, without a switch, else it lies idle until
somebody starts a task. (A greenlet costs several microseconds and pages of memory to make, and giving thousands of them
back in any order leaves more holes in the address space than the kernel allows; so none is given back.) Runners are
made by one greenlet, the *launcher*, since a greenlet inherits the recursion depth of the one that started it: a chain
of tasks, each started by the last, would die of RecursionError. The thread's own root greenlet is an ordinary task,
`root`: switched to only when it is unparked.

A task may park from any greenlet, also one that foreign code (SQLAlchemy, greenback) made: what is remembered is the
greenlet that called `park`, and that one is switched to.

States of a task: CREATED -> READY -> RUNNING <-> PARKED -> DONE. A timer only counts while it says what the task's
`deadline` says (`timers.py`). What wakes a task names what the task must be waiting for: a `Waiter` (`parking.py`), or
an IO model's entry of a socket.

Who may call what: everything here belongs to the hub's own thread, but `run_soon`, `unpark_soon` and the counters.

Signal handlers
---------------
One may strike between any two calls made here, on some task's stack. What it raises while the scheduler works is not
that task's affair: it is handed to `root` (KeyboardInterrupt included), and nothing is lost: a task is taken from the
queue by an assignment, not by a call. A handler may unpark, set events, put into queues, spawn, and kill with
`block=False`; it may not wait: `park` raises CannotWait there.
"""

import atexit
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from greenlet import GreenletExit, getcurrent, greenlet

from rimstone import clock
from rimstone._originals import get_ident, native_local
from rimstone.errors import CannotWait, Deadlock, HubError
from rimstone.hub import _native, guard, watchdog
from rimstone.hub.deadlock import deadlock_of
from rimstone.hub.taskcore import Guest, TaskCore
from rimstone.hub.timers import Timers
from rimstone.iomodel import IOModel, choose
from rimstone.iomodel.base import IO, KILLED, NEVER, UNPARKED, Scheduler

if TYPE_CHECKING:
    from rimstone.hub.parking import TaskWaiter

__all__ = ["Hub", "append_context", "close_hub", "current_hub", "forking_task", "get_hub", "live_tasks", "swap_guest"]

_LONGEST_POLL_SECONDS = 86_400.0  # epoll counts milliseconds in an int; whoever sleeps longer polls more than once
_CLOSING_SECONDS = 1.0
_NEXT_LOOK_SECONDS = 1.0
_STARTS = 256  # new tasks that start in one round, see `start`
_BUDGET = 64  # operations that a task may do one after the other, without having to wait, before the others get a turn


class Hub(Scheduler):
    """The scheduler of one thread.

    Args:
        model: The IO model, by class or name; None for what `iomodel.choose` says.
    Attributes:
        io: The IO model; its operations are what patched sockets call.
        current: The task that runs now.
        root: The task that stands for the thread itself.
        polling: True while it waits in a poll, that is, while no task can run; also while `on_idle` is asked.
        on_idle: Called when no task can run and no event is there, before the hub waits; returns True if it made one
            runnable. A worker takes its next call here: that is how "only when every call it holds is waiting" is
            kept. It must not wait.
    """

    def __init__(self, model: type[IOModel] | str | None = None) -> None:
        from rimstone.hub.task import Task

        self.thread_id = get_ident()
        self.io: IOModel = choose(model)(self)
        self.root: TaskCore = Task(self, None, (), {}, "root")
        self.root.greenlet = getcurrent()
        self.root.started = True
        self.root.guest = _state.guest
        self.current = self.root
        self._nobody: TaskCore = Task(self, None, (), {}, "nobody")  # who runs between two tasks
        self._nobody.parked = True
        self.budget = _BUDGET
        self.tasks: set[Any] = set()  # started and not done; a parked greenlet must never become garbage
        self.on_idle: Callable[[], bool] | None = None
        self.switches = 0
        self.polls = 0
        self.polling = False  # whoever has news must `wake` it
        self.after_poll: Callable[[], object] | None = None  # see `watchdog.py`
        self._barred = guard.barred  # not empty while a thread may not wait; see `guard.py`
        self.forked = False  # this is a copy in a forked child; see `_after_fork_in_child`
        self.closed = False  # no task of it runs again
        self._ready: list[TaskCore] = []  # for the next round: a poll, and then all that are ready run once
        self._round: list[Any] = []  # of this round: None where a task has had its turn
        self._turn = 0  # the next one in it
        self._new: deque[TaskCore] = deque()  # to be started, beyond what is among the ready ones
        self._new_ready = 0  # ready tasks that have not started
        self._timers = Timers()
        self._unparked: deque[TaskWaiter] = deque()  # by other threads
        self._soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._struck: object = None  # the call in `_soon` that a signal handler's exception may have cut short
        self._scheduling = False
        self._blocked = False  # it looks for the last time whether a task is ready, or waits in a poll already
        self._closing: TaskWaiter | None = None  # of `close`, which wants to hear of new tasks
        self._starting: TaskCore | None = None
        self._idle: list[Any] = []  # runners whose tasks have ended
        self._greenlets = _native.Greenlets()
        self._runner = self._greenlets.outermost(self._run_tasks)  # one for all of them
        self._launcher = greenlet(self._greenlets.outermost(self._launch), getcurrent())
        # Now and not with the first task: whoever parks first may be deep in a recursion, and every task inherits it.
        self._launcher.switch()
        _hubs.add(self)

    @property
    def beats(self) -> int:
        """Goes up whenever a task comes back to the scheduler; a watcher sees by it whether the thread is stuck."""
        return self.switches + self.polls

    @property
    def is_closing(self) -> bool:
        """True while `close` ends the tasks: each was killed, or will be in a moment."""
        return self._closing is not None

    # -- parking -----------------------------------------------------------------------------------------------

    def park(self, deadline: float | None = None) -> int:
        """Suspend the current task until it is made ready; returns why it goes on: UNPARKED, TIMEOUT or IO.

        Args:
            deadline: On `clock.monotonic`; None for ever.
        Raises:
            CannotWait: in a signal handler that has interrupted the scheduler; and see `guard.py`.
            BaseException: what `Task.kill` was given.
        """
        self.check_wait()
        task: TaskCore = self.current
        task.enlisted = True
        reason = self.wait(None, NEVER if deadline is None else deadline)
        if reason == KILLED:
            task.raise_pending()
        return reason

    def reschedule(self) -> None:
        """Let every other ready task run once, then go on: `sleep(0)`."""
        self.check_wait()
        task: TaskCore = self.current
        self.wait(None, NEVER, True)
        if task.pending is not None:
            task.raise_pending()

    def wait(self, waiting: Any, until: float, ready: bool = False) -> int:
        """Run other tasks until the current one has its turn again; *ready*: it could go on, and queues at the end.

        All that happens before and after the switch is done in functions that have returned by then: the C stack from
        here up to the user's function is copied at every switch. Two copies of a parked `recv` are half of what a
        message costs when there are hundreds of connections and the copies no longer fit into the cache.
        """
        task: TaskCore = self.current
        if task.guest is not None:
            return self._wait_as_host(task, waiting, until, ready)
        before = task.reason  # for a signal handler: the task that it has struck may not have looked yet
        reason = self._may_not_wait(task, waiting, until, ready)
        if reason:
            return reason
        following: Any = self._following(task, ready)
        # No call may stand between the line above and the switch.
        if following is not task:
            target = following.greenlet
            if target is None:
                self._starting = following
                following = None  # it must not live as long as this wait
                idle = self._idle
                if idle:
                    target = idle[-1]
                    del idle[-1]
                else:
                    target = self._launcher
            else:
                self.current = following
                following = None
                self.switches += 1
            self._greenlets.switch(target)
            if self.current is not task or self._greenlets.raised is not None:
                self._turn_back(task)
        self.budget = _BUDGET
        task.enlisted = False
        reason = task.reason
        task.reason = before
        # Also if the deadline or an event came before the kill: nothing was given to the task that could be lost.
        if reason != UNPARKED and task.pending is not None:
            return KILLED
        return reason

    def give_way(self) -> None:
        self.budget = _BUDGET
        if self.may_wait():
            self.reschedule()

    def check_wait(self) -> None:
        task: TaskCore = self.current
        if self._scheduling or task.parked or self._barred:
            self._refuse_wait(task)

    def may_wait(self) -> bool:
        task: TaskCore = self.current
        return not (self._scheduling or task.parked or (self._barred and guard.place()))

    def make_ready(self, task: Any, reason: int) -> None:
        """End the present park of *task*, or the one that it is about to begin; else without effect."""
        parked: TaskCore = task
        if parked.parked:
            parked.parked = False
            parked.reason = reason
            parked.deadline = NEVER
            self._ready.append(parked)
        else:
            parked.enlisted = False

    def happened(self, task: Any, waiting: object) -> None:
        """End the present park of *task*, if it is on *waiting*; a wait that was cut short may have left it there."""
        parked: TaskCore = task
        if parked.waiting is waiting or not parked.parked:
            self.make_ready(parked, IO)

    def unpark_soon(self, waiting: "TaskWaiter") -> None:
        """Another thread has granted *waiting*: let its task run."""
        self._unparked.append(waiting)
        if self.polling:
            self.io.wake()

    def run_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Call `function(*args)` in the hub's thread, between two tasks. Any thread, also a signal handler.

        *function* must not wait. If it raises, the error goes to the hub's root task. It may be called twice, if a
        signal handler raises meanwhile. A hub that closes calls what is queued before it is gone, and one that is
        closed calls it at once, in the caller's thread; in a forked child, the parent's calls are the parent's affair.
        """
        self._soon.append((function, args))
        if self.polling:
            self.io.wake()
        if self.closed:  # perhaps only just: whoever looks last finds it
            self._take_last_news()

    # -- starting tasks ----------------------------------------------------------------------------------------

    def start(self, task: TaskCore) -> None:
        """Queue a new task; it runs when the current one parks.

        Of a burst of new tasks some start in each round: those that end soon leave their runners to the next ones, so
        that a hundred thousand short tasks need a few hundred greenlets.
        """
        self.tasks.add(task)
        if self._new_ready < _STARTS:
            self._new_ready += 1
            self._ready.append(task)
        else:
            self._new.append(task)
        self.wake_if_blocked()
        if self._closing is not None:
            self._closing.unpark()

    def forget(self, task: TaskCore) -> None:
        """*task* is done."""
        self.tasks.discard(task)
        if self._closing is not None and not self.tasks:
            self._closing.unpark()

    def throw_later(self, thrown: list[BaseException]) -> None:
        """See `timeout.py`, whose business it is."""
        from rimstone.hub.timeout import throw_later

        throw_later(thrown)

    def add_timer(self, task: TaskCore) -> None:
        """See to it that *task* (an alarm), whose `deadline` is earlier than its `timer`, fires in time."""
        self._timers.add_kept(task)
        self.wake_if_blocked()

    def wake_if_blocked(self) -> None:
        """What a signal handler has just made ready must not wait for the next event. From the hub's thread."""
        if self._blocked:
            self.io.wake()

    def is_running(self, task: TaskCore) -> bool:
        """True if it is code of *task* that asks, and not a signal handler that struck while the scheduler works."""
        return self.current is task and not task.parked and not self._scheduling

    def _launch(self) -> None:
        """The launcher: makes a runner for the task that was left in `_starting`.

        The first time it only goes back to the root, which makes the hub.
        """
        try:
            self.root.greenlet.switch()
        except GreenletExit:  # the hub is garbage
            return
        except BaseException as error:
            if self._starting is None:  # a signal handler struck while the hub was being made: its creator's affair
                raise
            self._give_to_root(error)
        while True:
            try:
                greenlet(self._runner, getcurrent()).switch()
            except GreenletExit:
                return
            except BaseException as error:
                self._settle(error)

    def _run_tasks(self) -> None:
        """A runner: runs the task that was left in `_starting`, then the next one, or lies idle until there is one.

        The C stack of this function and its callees is copied at every switch of the task that runs here, so the user's
        function is called from here, and everything else happens in functions that have returned by then.
        """
        task = self._begin(False)
        while task is not None:
            try:
                task._value = task._function(*task._args)
            except BaseException as error:
                task._error = error
            task = None  # it must not live as long as this runner
            task = self._begin(True)

    def _begin(self, has_run: bool) -> TaskCore | None:
        """End the task that has just run here, and find the next one to run here; None if the hub is garbage."""
        thrown: BaseException | None = None
        ended = self.current if has_run else None
        while True:
            try:
                if thrown is not None:
                    self._give_to_root(thrown)
                    thrown = None
                if ended is not None:
                    ended.end()
                    # What it leaves behind goes now, while no next task has been chosen: finalizers run here, and one
                    # that wants to wait is refused, since "nobody" is parked.
                    self.current = self._nobody
                    ended = None
                    getcurrent().gr_context = None
                return self._find_work()
            except GreenletExit:
                return None
            except BaseException as error:  # no call here: another one may strike
                thrown = error

    def _find_work(self) -> TaskCore:
        me = self._greenlets.current()
        idle = self._idle
        while True:
            task = self._starting
            if task is None:
                if not idle or idle[-1] is not me:
                    idle.append(me)
                task = self._next()
                # From here to the switch no call: a signal handler may raise at each.
                if task.greenlet is not None:
                    self.current = task
                    self.switches += 1
                    self._greenlets.switch(task.greenlet)
                    if self._starting is None or self._greenlets.raised is not None:
                        self._turn_back(None)
                    continue  # whoever woke us has left a task in `_starting`, and has taken us off the list
                del idle[-1]
                self._starting = task
            task.greenlet = me
            self.current = task
            self.switches += 1
            self.budget = _BUDGET
            self._starting = None
            self._new_ready -= 1
            if not task._done:
                task.started = True
                if task.context is not None:
                    me.gr_context = task.context
                return task
            task.greenlet = None  # it was killed before it started

    def _settle(self, error: BaseException) -> None:
        """A runner has died of what a signal handler raised, or the launcher was struck."""
        task = self.current
        if task.greenlet is not None and task.greenlet.dead:
            task.end_with(error)
        else:
            self._give_to_root(error)

    # -- scheduling --------------------------------------------------------------------------------------------

    def _may_not_wait(self, task: TaskCore, waiting: Any, until: float, ready: bool) -> int:
        """KILLED if there is an exception to be raised first; else 0, and all is set for the switch."""
        self.check_wait()
        if task.pending is not None:
            task.enlisted = False
            return KILLED
        task.waiting = waiting
        if not ready:
            task.deadline = until
            if until < task.timer:
                self._timers.add(task)
        task.greenlet = self._greenlets.current()
        task.reason = UNPARKED
        return 0

    def _turn_back(self, task: TaskCore | None) -> None:
        """Whoever has come here was not switched to by the scheduler; returns when it does switch here.

        A greenlet of the user's has ended, whose parent is the runner that made it: it has outlived its task, and the
        runner has gone on to *task*, or lies idle (None). What it returned or raised is nobody's here. The task that
        had switched to it would wait for it for ever, so that one gets an error. (In plain Python, what it raised comes
        up in *task*: only the compiled core can tell it at no cost.)
        """
        greenlets = self._greenlets
        while True:
            error, greenlets.raised = greenlets.raised, None
            if (self._starting is not None) if task is None else (self.current is task):
                break
            stray = HubError(_OUTLIVED)
            stray.__cause__ = error
            try:
                self.current.greenlet.throw(stray)
            except GreenletExit:  # the hub is garbage
                raise
            except BaseException as another:
                greenlets.raised = another
        if error is not None:
            raise error

    def _refuse_wait(self, task: TaskCore) -> None:
        guard.refuse()
        if self._scheduling or task.parked:
            raise CannotWait(_CANNOT_WAIT)

    def _wait_as_host(self, task: TaskCore, waiting: Any, until: float, ready: bool) -> int:
        """Wait, and keep the task's guest away meanwhile."""
        guest = task.guest
        assert guest is not None
        task.waiting = waiting  # now: a signal handler may strike, and close what this is
        guest.suspend()
        task.guest = None
        try:
            return self.wait(waiting, until, ready)
        finally:
            task.guest = guest
            guest.resume()

    def _following(self, task: TaskCore, ready: bool) -> TaskCore:
        """Park *task*, or queue it if *ready*; then what `_next` says, whatever signal handlers raise meanwhile."""
        thrown: BaseException | None = None
        try:
            if not (ready or task.enlisted):  # a signal handler has waited since, and what it was to wait for is past
                task.reason = UNPARKED
                return task
            # No call may stand between the question and this: a signal handler may strike at each.
            task.parked = not ready
            while True:
                try:
                    if thrown is not None:
                        self._give_to_root(thrown)
                        thrown = None
                    if ready:
                        ready = False
                        self._ready.append(task)
                    return self._next()
                except BaseException as error:  # no call here: another one may strike
                    thrown = error
        except BaseException:  # the second of two that came within microseconds: let it be this task's after all
            task.parked = False
            task.deadline = NEVER
            for queued in (self._ready, self._round):  # it runs already
                while task in queued:
                    queued.remove(task)
            raise

    def _next(self) -> TaskCore:
        """The next task to run. Polls once a round, so that neither IO nor timers starve; waits if nothing can run."""
        while self._turn >= len(self._round):
            self._scheduling = True
            try:
                self._poll()
            except BaseException as error:
                self._give_to_root(error)
            finally:
                self._scheduling = False
            # No call from here to the end of the block.
            spent = self._round
            del spent[:]
            self._round = self._ready
            self._ready = spent
            self._turn = 0
        ready = self._round
        turn = self._turn
        task: TaskCore = ready[turn]
        ready[turn] = None
        self._turn = turn + 1
        task.parked = False  # it is not, unless an exception has cut short the park for which it was made ready
        return task

    def _poll(self) -> None:
        """Make tasks ready: what other threads asked for, then IO, then timers; wait for one if there is none."""
        ready = self._ready
        new = self._new
        if not ready:
            self._new_ready = 0
        while new and self._new_ready < _STARTS:
            task = new[0]
            del new[0]
            self._new_ready += 1
            ready.append(task)
        self._take_news()
        asks = self.on_idle
        if ready or asks is not None:
            self._look(0.0)
            if ready or asks is None:
                return
        # Every task waits. From here on news must come with a `wake`; what came before is in `_soon` or `_unparked`.
        self.polling = True
        try:
            if asks is not None and asks():
                return
            self._blocked = True
            if self._soon or self._unparked or ready:
                self._look(0.0)
            else:
                deadline = self._timers.next_look()
                if asks is None and not self._timers.is_first_live() and not self.io.waits():
                    deadline = self._timers.next_deadline()  # exactly, since a timer that is void wakes nobody
                    if deadline == NEVER:
                        self._refuse_deadlock()
                        deadline = clock.monotonic() + _NEXT_LOOK_SECONDS  # a thread that ends may make it certain
                self._look(
                    None if deadline == NEVER else min(max(0.0, deadline - clock.monotonic()), _LONGEST_POLL_SECONDS)
                )
        finally:
            self.polling = self._blocked = False
            if self.after_poll is not None:
                self.after_poll()

    def is_stuck(self) -> bool:
        """True if only somebody else could make a task of this hub run again. From any thread."""
        return (
            self.polling
            and self.on_idle is None
            and not (self._ready or self._new or self._soon or self._unparked)
            and not self._timers  # not even one that has become void: its owner may be at it
            and not self.io.waits()
        )

    def all(self) -> "list[Hub]":
        """The hubs of all threads that run tasks."""
        return [hub for hub in tuple(_hubs) if not hub.closed]

    def _refuse_deadlock(self) -> None:
        found = deadlock_of(self)
        if found is not None:
            raise Deadlock(found)

    def _take_news(self) -> None:
        unparked = self._unparked
        while unparked:
            unparked[0].wake_task()  # may be done twice, if a signal handler raises here
            del unparked[0]
        soon = self._soon
        count = len(soon)  # what these calls queue comes after the next look for events, which they must not starve
        while count > 0 and soon:
            count -= 1
            function, args = call = soon[0]
            try:
                function(*args)
            except BaseException as error:
                # A Ctrl-C may have struck before it was done, so it is called again; its own failure is final.
                if isinstance(error, Exception) or self._struck is call:
                    del soon[0]
                self._struck = call
                raise
            del soon[0]

    def _look(self, timeout: float | None) -> None:
        self.polls += 1
        self.io.poll(timeout)
        timers = self._timers
        if timers:
            now = clock.monotonic()
            while (task := timers.due(now)) is not None:
                task.fire()

    def _give_to_root(self, error: BaseException) -> None:
        """Something was raised that belongs to no task: a signal handler's exception, or a failed `run_soon`."""
        root = self.root
        other = root.pending
        if other is not None and other is not error:  # there is room for one, but neither must vanish
            if isinstance(error, Exception) and not isinstance(other, Exception):
                append_context(other, error)
                error = other
            else:
                append_context(error, other)
        root.throw_in(error)

    # -- errors ------------------------------------------------------------------------------------------------

    def report(self, task: TaskCore, error: BaseException) -> None:
        """Print the traceback of a task that failed while nobody waits for its result. Never raises."""
        try:
            print(f"{task!r} failed, and nobody waits for its result:", file=sys.stderr)
            traceback.print_exception(error, file=sys.stderr)
            sys.stderr.flush()
        except Exception:  # noqa: S110 - stderr is closed or gone: there is nowhere left to say so
            pass

    # -- life --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Kill every task, wait up to a second for their `finally` blocks, then give back the descriptors.

        What others have queued with `run_soon` is called before it ends.

        Raises:
            HubError: called by a task other than the root.
            BaseException: what such a call raised, as it would have been raised in the root.
        """
        if self.current is not self.root:
            raise HubError(f"{self.current!r} cannot close its own hub; call close_hub() in the thread's main program")
        deadline = clock.monotonic() + _CLOSING_SECONDS
        try:
            self._end_tasks(deadline)
            while self._soon and clock.monotonic() < deadline:
                self.reschedule()  # the poll calls them, and they may start tasks
                self._end_tasks(deadline)
            if not self.tasks:
                self._end_runners()
            self.root.raise_pending()  # what came last, a Ctrl-C of the last task perhaps: there is no next park
        finally:
            self._closing = None
            self.release()

    def _end_runners(self) -> None:
        """Let the hub's own greenlets end, each back into this one; else they and the hub keep each other alive."""
        me = getcurrent()
        for runner in (*self._idle, self._launcher):
            if not runner.dead:
                runner.parent = me
                runner.throw(GreenletExit)
        self._idle.clear()

    def _end_tasks(self, deadline: float) -> None:
        """Kill each task once, those too that others spawn while they end; a task may catch the kill and go on."""
        from rimstone.hub.parking import TaskWaiter

        killed: set[Any] = set()
        while self.tasks:
            waiting = self._closing = TaskWaiter(self)  # for the end of the last task, or a new one
            for task in self.tasks - killed:
                killed.add(task)
                task.kill(block=False)
            if self.tasks and (not waiting.park(deadline) or clock.monotonic() > deadline):
                return

    def release(self) -> None:
        """Give back the descriptors; no task of this hub runs again, and whoever waits for one is told."""
        if self.closed:
            return
        self.closed = True
        self.on_idle = None
        try:
            for task in tuple(self.tasks):
                if task is not self.current:
                    task.abandon()
        finally:
            self.io.close()
            self._take_last_news()

    def _take_last_news(self) -> None:
        """Call what others have queued with `run_soon`, now that the hub is closed; raise the first error."""
        thrown: BaseException | None = None
        while self._soon and not self.forked:
            try:
                function, args = self._soon.popleft()
            except IndexError:  # another thread was faster
                break
            try:
                function(*args)
            except BaseException as error:
                if thrown is not None:
                    append_context(thrown, error)
                else:
                    thrown = error
        if thrown is not None:
            raise thrown

    def __repr__(self) -> str:
        ready = len(self._ready) + len(self._round) - self._turn
        return (
            f"<Hub of thread {self.thread_id}: {len(self.tasks)} tasks, {ready} ready, "
            f"{len(self._timers)} timers, {self.io!r}>"
        )


_CANNOT_WAIT = (
    "cannot wait here: this code interrupted the scheduler (it is a signal handler, or a finalizer). "
    "Set an Event or unpark a task instead, and let that task do the waiting"
)


_OUTLIVED = (
    "the greenlet that this task has switched to was made by a task that has ended, and its own end leads to where "
    "that one ran, which is another task's place by now. Let a greenlet end before its task does, or set its parent"
)


def append_context(error: BaseException, other: BaseException) -> None:
    """Let the traceback of *error* show *other* too, as what had happened before."""
    seen = {id(other)}
    while error.__context__ is not None and id(error) not in seen:
        seen.add(id(error))
        error = error.__context__
    if id(error) not in seen:
        error.__context__ = other


class _ThreadState(native_local):
    """What a thread keeps besides its hub, if it has one. Dies with the thread, and the hub's descriptors with it."""

    guard: "_Guard | None" = None
    guest: "Guest | None" = None  # of the root task; it may come before the hub
    forking_task: "TaskCore | None" = None


class _Guard:
    """Closes a hub's descriptors when its thread ends: the hub itself sits in a cycle with its launcher."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._pid = os.getpid()

    def __del__(self) -> None:
        hub = self._hub
        if _here.get() is hub:  # it may be another thread that drops it
            _here.set(None)
        if os.getpid() != self._pid:  # a forked child drops its parent's other threads before any hook is called
            hub.forked = True
        hub.release()


_state = _ThreadState()
_here = _native.PerThread()  # the thread's hub; kept alive by the guard
here = _here  # for other files: the compiled core makes a C variable of `_here`


def current_hub() -> Hub | None:
    """The calling thread's hub, or None if it runs no tasks: then waiting means blocking the thread."""
    return _here.get()  # type: ignore[no-any-return]


def get_hub(model: type[IOModel] | None = None) -> Hub:
    """The calling thread's hub, created on first use; in a forked child the parent's is replaced by a new one.

    Args:
        model: The IO model of a hub that is created now; one that exists keeps its own.
    """
    hub: Hub | None = _here.get()
    if hub is None:
        watchdog.read_environment()
        guard.install()
        hub = Hub(model)
        _state.guard = _Guard(hub)
        _here.set(hub)
        _close_with_thread()
        watchdog.hub_made()
    return hub


def _close_with_thread() -> None:
    """See to it that the tasks of this thread are killed when it ends: none of them could run after that."""
    # Not `current_thread`, which makes an object for a thread that `threading` has not started.
    thread: Any = threading._active.get(get_ident())  # type: ignore[attr-defined]
    if thread is threading.main_thread():
        _close_with_program()
        return
    if thread is None or not hasattr(thread, "_delete"):
        return
    delete = thread._delete  # the last thing that `threading` calls in a thread

    def close_and_delete() -> None:
        del thread._delete
        try:
            close_hub()
        finally:
            delete()

    thread._delete = close_and_delete


def _close_with_program() -> None:
    """The same for the main thread.

    Before the other threads are joined, since one of them may wait for a task of this hub. Once a process, and so not
    for a hub that is made while the program ends; a forked child has inherited it.
    """
    if _at_exit:
        return
    _at_exit.append(_close_main_hub)
    # `threading` calls these when the main program has returned; what `atexit` has comes after the threads.
    register = getattr(threading, "_register_atexit", atexit.register)
    try:
        register(_close_main_hub)
    except RuntimeError:
        pass  # it ends already


def _close_main_hub() -> None:
    hub: Hub | None = _here.get()
    if hub is None or hub.current is not hub.root:
        return
    try:
        close_hub()
    except BaseException:
        # Raised here, it would keep `threading` from joining the other threads.
        traceback.print_exc()


_at_exit: list[Callable[[], None]] = []  # what is to be called when the program ends; empty until it is


def close_hub() -> None:
    """End the calling thread's hub, if it has one: its tasks are killed, its descriptors closed.

    Raises:
        HubError: called by a task; only the thread's main program may.
    """
    hub: Hub | None = _here.get()
    if hub is not None:
        try:
            hub.close()
        finally:
            if hub.closed:
                _here.set(None)
                _state.guard = None


def swap_guest(guest: "Guest | None") -> "Guest | None":
    """Make *guest* what the running task hosts, and return what it hosted before. See `Guest` and `aio`."""
    hub: Hub | None = _here.get()
    before: Guest | None
    if hub is not None and hub.current is not hub.root:
        before, hub.current.guest = hub.current.guest, guest
        return before
    before, _state.guest = _state.guest, guest
    if hub is not None:
        hub.root.guest = guest
    return before


def _after_fork_in_child() -> None:
    """The forking task goes on as the child's main program; the parent's other tasks are never entered again."""
    hub: Hub | None = _here.get()
    for other in tuple(_hubs):
        if other is not hub:
            other.forked = True
            other.release()  # its thread is not here: wakes must go to others
    if hub is not None:
        hub.forked = True
        hub.release()
        _orphans.append(hub)
        if hub.current is not hub.root:
            _state.forking_task = hub.current
            _state.guest = hub.current.guest
        _here.set(None)
        _state.guard = None


def forking_task() -> "TaskCore | None":
    """In a forked child: the task that forked, whose place this thread's main program takes; else None."""
    return _state.forking_task


_hubs: "WeakSet[Hub]" = WeakSet()  # of all threads, for a forked child to disown
_orphans: list[Hub] = []  # hubs of the parent, kept so that their parked greenlets are never collected (and entered)


def live_tasks() -> "list[TaskCore]":
    """The tasks of the calling thread's hub that have been started and are not done."""
    hub: Hub | None = _here.get()
    return list(hub.tasks) if hub is not None else []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
