"""Reports tasks that keep a hub busy for too long: RIMSTONE_STALL_MS, or `watch_stalls`. Read `scheduler.py` first.

One thread of the process looks at the hubs of all others. What it looks at is there anyhow (`Hub.beats`), so a switch
costs nothing more. A hub is *stalled* when it has tasks, does not poll, and its beats have stood still for longer than
the threshold: the running task computes, or blocks in C. That is reported once, with the task's stack, and once more
when it is over. Nothing is done about it.

When it sleeps
--------------
While some hub runs tasks, it looks four times in every threshold. Once all of them poll, it leaves each hub a function
to call when it comes out of its poll (`Hub.after_poll`), and blocks on a lock. First the functions, then another look,
then the lock: a hub first stops polling and then looks for the function, so one of the two sees the other. After it was
woken it stays up for at least a quarter of the threshold, so that a hub that waits often wakes it seldom.

What its figures mean
---------------------
Time is counted from the first look that finds the beats where they stay, on the wall clock: what is reported has lasted
at least that long, and at most a quarter of the threshold longer. (A process that was stopped by a signal and goes on
has a stall behind it.) C code that does not let go of the interpreter lock holds the watchdog up as well; the stall is
reported as soon as it does, if the task does not come back to its hub in the very same moment.

The main program of a thread is a task like others, but one that keeps nobody waiting, as long as no other has been
started, is not reported. In the worker processes of a pool, which inherit the variable, every call is a task: one that
computes for longer than the threshold is reported, although a worker is made for that. Who asks for stalls gets them.
"""

import atexit
import math
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import dropwhile
from typing import TYPE_CHECKING
from weakref import ref

from rimstone import clock
from rimstone._originals import RLock, Thread, allocate_lock, get_ident

if TYPE_CHECKING:
    from rimstone.hub.scheduler import Hub

__all__ = ["Stall", "harmless_threads", "hub_made", "print_stall", "read_environment", "stop_watching", "watch_stalls"]

_LOOKS_PER_THRESHOLD = 4
_SHORTEST_SECONDS = 0.001  # the variable counts milliseconds; a shorter threshold would report every switch of threads
_LONGEST_SECONDS = 86_400.0
_STOPPING_SECONDS = 1.0  # if it is in the middle of a report that does not get through
_OWN_FOLDER = os.path.dirname(__file__)


@dataclass(frozen=True, slots=True)
class Stall:
    """A task that does not come back to its hub.

    Attributes:
        thread: Name of the hub's thread.
        task: Name of the task.
        waiting: How many other tasks the hub has.
        seconds: For how long it has lasted until now.
        stack: Where the task was when this was noticed, as `traceback.format_list` gives it, the innermost call last.
        ended: False in the first report; True in the second, when it is over.
    """

    thread: str
    task: str
    waiting: int
    seconds: float
    stack: str
    ended: bool = False

    def __str__(self) -> str:
        who = f"rimstone: task {self.task} in thread {self.thread} of process {os.getpid()}"
        if self.ended:
            return f"{who} let its hub go on, after {self.seconds:.3f} s"
        others = {0: "no other task waits", 1: "1 other task waits"}.get(self.waiting, f"{self.waiting} others wait")
        return f"{who} has not come back to its hub for {self.seconds:.3f} s; {others}:\n{self.stack}".rstrip("\n")


Report = Callable[[Stall], object]


def print_stall(stall: Stall) -> None:
    """Print a report on stderr. Never raises."""
    with suppress(Exception):  # stderr is closed or gone: there is nowhere left to say so
        sys.stderr.write(f"{stall}\n")
        sys.stderr.flush()


class _Look:
    """What the last look at a hub has found."""

    __slots__ = ("beats", "since", "stall")

    def __init__(self) -> None:
        self.beats = -1
        self.since = 0.0
        self.stall: Stall | None = None  # as it was reported


class _Watchdog:
    """The thread, from its start to its end."""

    def __init__(self, threshold_seconds: float, report: Report) -> None:
        self._threshold = threshold_seconds
        self._report = report
        self._looks: dict[ref[Hub], _Look] = {}
        self._bell = allocate_lock()  # free: come and look
        self._bell.acquire()
        self._ended = allocate_lock()
        self._ended.acquire()
        self._stopping = False
        self._thread_id: int | None = None
        self.is_harmless = False  # it runs, and nothing that it does can wake a task
        self._ring = self.ring  # one object, to be known again in a hub

    def start(self) -> None:
        """Raises RuntimeError if no thread can be started."""
        Thread(target=self._run, name="rimstone-watchdog", daemon=True).start()

    def stop(self) -> None:
        """End it, and wait until it has ended. Any thread, its own included (from a report)."""
        self.stop_soon()
        if get_ident() != self._thread_id:
            self._ended.acquire(timeout=_STOPPING_SECONDS)

    def stop_soon(self) -> None:
        """End it, if it has been started at all. Any thread."""
        self._stopping = True
        self.ring()

    def ring(self) -> None:
        """There is something to look at. Any thread, also a signal handler."""
        try:
            self._bell.release()
        except RuntimeError:
            pass  # it rings already

    def _run(self) -> None:
        self._thread_id = get_ident()
        self.is_harmless = self._report is print_stall
        try:
            while not self._stopping:
                self._bell.acquire(timeout=self._threshold / _LOOKS_PER_THRESHOLD)
                if not self._stopping and not self._look_at_all():
                    self._sleep()
        finally:
            self.is_harmless = False
            self._ended.release()

    def _sleep(self) -> None:
        """Until a hub leaves its poll, or there is a new one."""
        self._leave_bell(True)
        if not self._any_runs() and not self._stopping:
            self._bell.acquire()
        self._leave_bell(False)

    # In functions of their own: no local variable must keep a hub alive while the watchdog sleeps.

    def _leave_bell(self, leave: bool) -> None:
        for hub in living_hubs():
            if leave:
                hub.after_poll = self._ring
            elif hub.after_poll is self._ring:
                hub.after_poll = None

    def _any_runs(self) -> bool:
        return any(_runs(hub) for hub in living_hubs())

    def _look_at_all(self) -> bool:
        """Report what there is to report; False if every hub waits for events."""
        now = clock.monotonic()
        looks = self._looks
        some = False
        for hub in living_hubs():
            look = looks.setdefault(ref(hub), _Look())
            runs = _runs(hub)
            some = some or runs
            beats = hub.beats if runs else -1
            if beats < 0 or beats != look.beats:
                self._end(look, now)
                look.beats = beats
                look.since = now
            elif look.stall is None and now - look.since >= self._threshold and hub.tasks:
                self._begin(hub, look, now)
        for gone in [known for known in looks if known() is None]:
            self._end(looks.pop(gone), now)
        return some

    def _begin(self, hub: "Hub", look: _Look, now: float) -> None:
        stack = _stack_of(hub.thread_id)
        task = hub.current
        if not _runs(hub) or hub.beats != look.beats:
            return  # it has just come back: this may be anybody's stack
        others = len(hub.tasks) - (task in hub.tasks)
        look.stall = Stall(_thread_name(hub.thread_id), task.name, others, now - look.since, stack)
        self._tell(look.stall)

    def _end(self, look: _Look, now: float) -> None:
        stall, look.stall = look.stall, None
        if stall is not None:
            self._tell(replace(stall, seconds=now - look.since, ended=True))

    def _tell(self, stall: Stall) -> None:
        try:
            self._report(stall)
        except Exception:
            with suppress(Exception):
                traceback.print_exc()  # the user's own report has failed: they are told, and the watch goes on


def living_hubs() -> "tuple[Hub, ...]":
    """The hubs of all threads. From any thread."""
    from rimstone.hub.scheduler import _hubs

    while True:
        try:
            return tuple(_hubs)
        except RuntimeError:
            pass  # a thread has made one meanwhile


def _runs(hub: "Hub") -> bool:
    return not (hub.polling or hub.closed)


def _stack_of(thread_id: int) -> str:
    frame = sys._current_frames().get(thread_id)
    if frame is None:
        return ""
    # The pure core has frames of its own below the task's.
    calls = dropwhile(lambda call: call.filename.startswith(_OWN_FOLDER), traceback.extract_stack(frame))
    return "".join(traceback.format_list(list(calls)))


def _thread_name(thread_id: int) -> str:
    return next((thread.name for thread in threading.enumerate() if thread.ident == thread_id), str(thread_id))


class _Watch:
    """Whether there is to be a watchdog, and the one there is."""

    def __init__(self) -> None:
        self._asked = False  # the environment has been read, or somebody has called: that is how it is from now on
        self._wish: tuple[float, Report] | None = None
        self._ends_at_exit = False
        self._exiting = False
        self.at_fork_reinit()

    def at_fork_reinit(self) -> None:
        """The thread is not in the forked child; the first hub that is made there starts another."""
        self._lock = RLock()  # reentrant: a signal handler may make a hub
        self._dog: _Watchdog | None = None

    def read_environment(self) -> None:
        if not self._asked:
            self._wish = _wish_of(os.environ.get("RIMSTONE_STALL_MS", ""))
            self._asked = True

    def set(self, wish: tuple[float, Report] | None) -> None:
        """Begin to watch as wished, or end it; raises RuntimeError if no thread can be started."""
        self._asked = True
        with self._lock:
            self._wish = wish
            dog, self._dog = self._dog, None
        if dog is not None:
            dog.stop()
        self.start()

    def start(self) -> None:
        with self._lock:
            if self._wish is None or self._exiting:
                return
            if self._dog is not None:
                self._dog.ring()
                return
            dog = self._dog = _Watchdog(*self._wish)
            if not self._ends_at_exit:
                self._ends_at_exit = True
                atexit.register(self._exit)
        # Without the lock: where threading is patched, starting a thread lets other tasks run.
        try:
            dog.start()
        except BaseException:
            dog.stop_soon()  # it may run all the same: a signal handler raised, or the wait for it was refused
            with self._lock:
                if self._dog is dog:
                    self._dog = None
            raise

    def harmless_threads(self) -> int:
        dog = self._dog
        return int(dog is not None and dog.is_harmless)

    def _exit(self) -> None:
        """A thread that wrote to stderr while the interpreter takes itself apart would bring it down."""
        self._exiting = True
        with self._lock:
            dog, self._dog = self._dog, None
        if dog is not None:
            dog.stop()


_watch = _Watch()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_watch.at_fork_reinit)


def _wish_of(text: str) -> tuple[float, Report] | None:
    """What RIMSTONE_STALL_MS says; None if there is to be no watchdog."""
    try:
        milliseconds = float(text or 0)
    except ValueError:
        milliseconds = math.nan
    if milliseconds == 0:
        return None
    seconds = milliseconds / 1000
    if not _SHORTEST_SECONDS <= seconds <= _LONGEST_SECONDS:
        raise ValueError(
            f"RIMSTONE_STALL_MS={text!r} is not a number of milliseconds from 1 to {_LONGEST_SECONDS * 1000:.0f}; "
            "say for how long a task may keep its hub busy before it is reported (RIMSTONE_STALL_MS=100), "
            "or unset it, to have no reports"
        )
    return seconds, print_stall


def watch_stalls(threshold_seconds: float, report: Report | None = None) -> None:
    """Report, from now on, every task of this process that keeps its hub busy for longer than *threshold_seconds*.

    It takes the place of what the environment or an earlier call asked for, and also holds in forked children.

    Args:
        threshold_seconds: From 0.001 to 86,400. Four looks in that time are what it costs, while some hub is busy.
        report: Called with a `Stall`, in the watchdog's thread, when one is noticed and when it has ended; default:
            `print_stall`.
    Raises:
        ValueError: the threshold is out of range.
        RuntimeError: no thread can be started.
    """
    if not _SHORTEST_SECONDS <= threshold_seconds <= _LONGEST_SECONDS:
        raise ValueError(
            f"threshold_seconds={threshold_seconds!r} is not between {_SHORTEST_SECONDS} and {_LONGEST_SECONDS:.0f}"
        )
    _watch.set((threshold_seconds, report or print_stall))


def stop_watching() -> None:
    """Report no more stalls, whatever asked for them; returns when the watchdog's thread has ended. Idempotent."""
    _watch.set(None)


def read_environment() -> None:
    """Called before a hub is made. Looks only once.

    Raises:
        ValueError: RIMSTONE_STALL_MS is not a number of milliseconds.
    """
    _watch.read_environment()


def hub_made() -> None:
    """Called when there is a new hub: start the watchdog if it is wanted, wake it if it sleeps. Never raises."""
    try:
        _watch.start()
    except RuntimeError as error:  # there is no thread to be had, or the interpreter is ending
        with suppress(Exception):
            sys.stderr.write(f"rimstone: stalls are not watched (RIMSTONE_STALL_MS): {error}\n")


def harmless_threads() -> int:
    """How many threads are the watchdog's and can wake no task, for whoever wants to know whether anybody still can."""
    return _watch.harmless_threads()
