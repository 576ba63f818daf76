"""tasks and dump: which tasks there are, in all threads, what they wait for, and where they are.

A server has thousands of tasks and a handful of places where they wait. So tasks that are at the same place are put
together: `dump` prints their stack once.

All of it only looks, takes no lock, and may be called by a signal handler at any moment. Other threads run on while it
looks; what ends meanwhile is left out.
"""

import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, Protocol

from rimstone import clock
from rimstone._originals import get_ident, os_write
from rimstone.hub import scheduler
from rimstone.hub.scheduler import Hub
from rimstone.hub.task import AnyTask, Task
from rimstone.hub.taskcore import TaskCore
from rimstone.hub.timers import NEVER

__all__ = ["Waits", "dump", "dump_on_signal", "place_of", "stack_of", "tasks", "together", "waits_for"]

_TRIES = 10
_STACKS = 100  # different ones that `dump` prints of each thread
_SAME_STACK = 10  # tasks that it names of each
# Frames that say nothing about a task: every one that waits has some (the pure core shows them, the compiled does not).
_INNER = {
    f"rimstone.hub.{name}" for name in ("_native", "deadlock", "dump", "parking", "scheduler", "taskcore", "timers")
}
# Modules whose frames are part of a wait: the object that the outermost of them belongs to is what is waited for.
_WAITING = ("rimstone.", "threading", "queue", "socket", "ssl", "selectors", "concurrent.futures")


class _Writable(Protocol):
    def write(self, text: str, /) -> object: ...


# -- tasks ---------------------------------------------------------------------------------------------------------


def tasks() -> "list[AnyTask]":
    """All tasks of all threads of this process that have been spawned and are not done, in the order they were spawned.

    The main programs of the threads are not among them. Call from: any thread, any signal handler.
    """
    found: list[Any] = [task for hub in _hubs() for task in hub.tasks.copy()]
    return sorted(found, key=lambda task: task.number)


def _hubs() -> list[Hub]:
    """The hubs that run tasks. Not those of a forked child's parent: what they have runs there and not here."""
    for _ in range(_TRIES):
        try:
            return [hub for hub in scheduler._hubs if not hub.closed]
        except RuntimeError:  # another thread has begun or ended meanwhile
            continue
    return []


# -- stacks --------------------------------------------------------------------------------------------------------


def stack_of(task: "AnyTask") -> traceback.StackSummary:
    """Where *task* is, outermost call first, without the frames of the scheduler; see `Task.stack`."""
    return _summary(_frames(task))


def _frames(task: Any) -> list[tuple[FrameType, int]]:
    """Frame and line, innermost first."""
    place = task.greenlet
    if place is None:
        return []
    frame = place.gr_frame
    if frame is None and task.hub.current is task:  # it runs, or polls on its own stack
        frame = sys._current_frames().get(task.hub.thread_id)
    return _walk(frame)


def _walk(frame: FrameType | None) -> list[tuple[FrameType, int]]:
    # All of it before anything is formatted: it may run on.
    found = []
    while frame is not None:
        if frame.f_globals.get("__name__") not in _INNER:
            found.append((frame, frame.f_lineno or 0))
        frame = frame.f_back
    return found


def place_of(task: TaskCore) -> str:
    """File and line where *task* is; "" before it has started and after it has ended."""
    frames = _frames(task)
    return f"{frames[0][0].f_code.co_filename}:{frames[0][1]}" if frames else ""


def _stack_key(task: Any) -> object:
    """Equal for tasks that are at the same place, by the same way."""
    try:
        return task.parked, tuple((frame.f_code, line) for frame, line in _frames(task))
    except Exception:  # it goes on in another thread while we look
        return id(task)


def together(tasks: "Iterable[Any]", key: "Callable[[Any], object]") -> "list[list[Any]]":
    """The tasks for which *key* says the same, each group where its first one stands."""
    groups: dict[object, list[Any]] = {}
    for task in tasks:
        groups.setdefault(key(task), []).append(task)
    return list(groups.values())


def _summary(frames: list[tuple[FrameType, int]]) -> traceback.StackSummary:
    summary = traceback.StackSummary.extract(iter(frames))
    summary.reverse()
    return summary


# -- what it waits for ---------------------------------------------------------------------------------------------


class Waits:
    """What the tasks wait for, collected once for many questions."""

    def __init__(self) -> None:
        self._ends: dict[int, list[AnyTask]] = {}  # waiter -> the tasks whose end it waits for
        self._descriptors: dict[int, str] = {}  # task -> what it waits to do with which descriptor
        for task in tasks():
            for waiting in tuple(task._waiters or ()):
                self._ends.setdefault(id(waiting), []).append(task)
        for hub in _hubs():
            for task, what in _io_waits(hub.io):
                self._descriptors[id(task)] = what

    def of(self, task: Any) -> str:
        """In words; "" if it is not parked."""
        if not task.parked:
            return ""
        ends = self._ends.get(id(task.waiting), []) if task.waiting is not None else []
        if ends:
            more = f" and {len(ends) - 3} more" if len(ends) > 3 else ""
            what = "waits for the end of " + ", ".join(one.name for one in ends[:3]) + more
        elif id(task) in self._descriptors:
            what = f"waits to {self._descriptors[id(task)]}"
        elif (awaited := _awaited(task)) is not None:
            what = f"waits for {awaited!r}"
        elif task.waiting is None and task.deadline != NEVER:
            what = "sleeps"
        else:
            what = "waits to be unparked"
        if task.deadline != NEVER:
            what += f", at most {max(0.0, task.deadline - clock.monotonic()):.3g} s more"
        return what


def waits_for(task: "AnyTask") -> str:
    """What *task* waits for, in words, as far as that is known; "" if it is not parked. Never raises."""
    try:
        return Waits().of(task)
    except Exception:
        return ""


def _io_waits(model: Any) -> Iterator[tuple[Any, str]]:
    """Each waiting task and what it wants of which descriptor, as the readiness models know it."""
    for verb, table in (("read", getattr(model, "_readers", {})), ("write", getattr(model, "_writers", {}))):
        for fd, waiting in table.copy().items():
            for task in tuple(waiting):
                yield task, f"{verb} descriptor {fd}"
    for entry in tuple(getattr(model, "_entries", ())):
        if entry is not None:
            for verb, waiting in (("read", entry.reader), ("write", entry.writer)):
                for task in waiting if isinstance(waiting, list) else (waiting,):
                    if task is not None:
                        yield task, f"{verb} descriptor {entry.fd}"


def _awaited(task: Any) -> object:
    """The lock, queue, event, group ... in whose method the task waits; None if it is not seen."""
    awaited = None
    for frame, _ in _frames(task):
        if not frame.f_globals.get("__name__", "").startswith(_WAITING):
            break
        awaited = frame.f_locals.get("self", awaited)
    return awaited


# -- dump ----------------------------------------------------------------------------------------------------------


def dump(file: "_Writable | None" = None, *, limit: int | None = _STACKS) -> None:
    """Print every thread and its tasks: name, state, what it waits for, who spawned it, and its stack.

    Tasks with the same stack are printed together, the stack once; of more than ten of them, ten and how many more.

    Args:
        file: Anything with `write`; stderr by default.
        limit: How many different stacks to print of each thread; the rest is counted. None: every task and every stack.
    Raises:
        ValueError: *limit* is negative.
    Call from: any thread, any signal handler. A task that ends meanwhile is left out; none is disturbed.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"dump() takes a limit of 0 stacks or more, or None for all, not {limit!r}")
    text = "".join(_report(limit))
    if file is not None:
        file.write(text)
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except RuntimeError:  # a signal handler has interrupted somebody who was writing there
        os_write(2, text.encode(errors="backslashreplace"))


def dump_on_signal(signum: int) -> Any:
    """Let signal *signum* print a `dump()` to stderr: `dump_on_signal(signal.SIGUSR1)`, then `kill -USR1 <pid>`.

    It is printed by the main thread, as soon as that runs Python code; for one that is stuck in C there is the
    standard library's `faulthandler.register`.

    Returns:
        The handler that was there before, for `signal.signal`.
    Raises:
        ValueError: not called in the main thread.
    """
    return signal.signal(signum, lambda *_: dump())


def _report(limit: int | None) -> Iterator[str]:
    hubs = {hub.thread_id: hub for hub in _hubs()}
    waits = Waits()
    for ident, frame in sys._current_frames().items():
        hub = hubs.get(ident)
        yield f"{_thread_name(ident)}: {_count(hub)}\n"
        if hub is None:
            yield from _format_stack(_walk(frame))
        else:
            yield from _describe([hub.root], waits, None)
            yield from _describe_tasks(sorted(hub.tasks.copy(), key=lambda task: task.number), waits, limit)


def _thread_name(ident: int) -> str:
    # Not `threading.enumerate()`, which takes a lock that a signal handler may have interrupted.
    thread = getattr(threading, "_active", {}).get(ident)
    name = "thread not made by threading" if thread is None else f"thread {thread.name}"
    return f"{name} ({ident}{', the calling one' if ident == get_ident() else ''})"


def _count(hub: Hub | None) -> str:
    if hub is None:
        return "runs no tasks"
    return f"{len(hub.tasks)} task{'' if len(hub.tasks) == 1 else 's'}"


def _describe_tasks(tasks: list[Any], waits: Waits, limit: int | None) -> Iterator[str]:
    groups = together(tasks, _stack_key)
    shown = len(groups) if limit is None else limit
    for group in groups[:shown]:
        yield from _describe(group, waits, None if limit is None else _SAME_STACK)
    left = groups[shown:]
    if left:
        yield (
            f"  ... and {sum(map(len, left)):,} more tasks, with {len(left):,} other stacks; "
            f"dump(limit=None) prints all\n"
        )


def _describe(group: list[Any], waits: Waits, limit: int | None) -> list[str]:
    """Tasks with the same stack: *limit* of them by name, and the stack."""
    lines = []
    stack: list[str] = []
    for task in group[:limit]:
        try:
            if not task.ready():
                stack = stack or _format_stack(_frames(task))
                name = "main program" if task is task.hub.root else repr(task)[1:-1]
                lines.append(f"  {name}: {_state(task, waits)}\n")
        except Exception as error:  # it goes on in another thread while we look
            lines.append(f"  a task could not be read: {error!r}\n")
    more = 0 if limit is None else len(group) - limit
    if more > 0:
        lines.append(f"  ... and {more:,} more {'with the same stack' if stack else 'without a stack'}\n")
    return lines + stack


def _state(task: Any, waits: Waits) -> str:
    parts = [task.state]
    what = waits.of(task)
    if what:
        parts.append(what)
    if isinstance(task, Task) and task.parent is not None:
        parts.append(f"spawned by {task.parent.name}")
    return "; ".join(parts)


def _format_stack(frames: list[tuple[FrameType, int]]) -> list[str]:
    return [f"  {line}\n" for entry in _summary(frames).format() for line in entry.splitlines()]
