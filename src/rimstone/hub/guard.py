"""Where a task must not wait: inside the garbage collector, and inside the hooks of os.fork. See `Hub.park`.

The collector runs finalizers and weakref callbacks in the middle of whatever allocated last. A task that waited there
would keep the collection open (no thread of the process could collect until it ended), and let other tasks run in the
midst of a statement that expects none. A hook of `os.fork` would let them run while half of the locks are taken for the
fork, or in a child that is half made. So a wait that would park there raises `CannotWait`. What need not park goes on
as always: a free lock, a full queue, everything that wakes others, and socket calls that succeed at once.

How it is known
---------------
`gc.callbacks` are called when a collection starts and when it stops, by the thread that collects; one at a time in a
process. They must not be Python functions: a signal that came during the collection would run its handler at the first
bytecode of the callback, and what it raises there (KeyboardInterrupt!) would be printed and forgotten. So they are
`setattr` itself: the collector's two arguments, "start" or "stop" and a dictionary made for the occasion, become an
attribute of an object of the thread, and one of the whole process. The thread where both are the same dictionary is the
one that has begun the latest collection. That it is still at it shows in `barred`, whose attributes `start` and `stop`
are properties made of two methods of sets. The same goes for what ends the guard around a fork: no Python function.

`barred` is all that a park looks at as a rule: it is empty nearly always.

What it cannot know
-------------------
Hooks of `os.fork` are called in the order in which they were registered, those before the fork in reverse. Ours are
registered with the first hub, so they enclose all that were registered before that; those registered later run outside.
`guarded` encloses all, for whoever can replace `os.fork` itself. In a forked child a thread has no hub until it makes
one: what its hooks wait for blocks the thread, as without this library. And of somebody else's `gc.callbacks`, those
added after ours are not enclosed when the collection stops.
"""

import gc
import os
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from rimstone._originals import get_ident, native_local
from rimstone.errors import CannotWait

__all__ = ["barred", "guarded", "install", "place", "refuse"]

P = ParamSpec("P")
T = TypeVar("T")

_INSTEAD = (
    "What never waits is allowed (Event.set, Lock.release, SimpleQueue.put, spawn, acquire(blocking=False)): "
    "wake a task, and let that one do the waiting"
)
_IN_COLLECTOR = (
    "cannot wait here: this code is run by the garbage collector (it is a finalizer or a weakref callback), in the "
    f"middle of whatever the task was doing. {_INSTEAD}"
)
_IN_FORK = (
    "cannot wait here: this code is run by os.fork (it is a function given to os.register_at_fork), and no other task "
    f"may run while the process is being copied. {_INSTEAD}; or wait before the fork"
)
_COLLECTING = frozenset({"generation", "collected", "uncollectable"})  # the keys of what the collector tells
_FORKING = "forking"

_set: Any = set


class _Barred(_set):
    """Not empty while some thread may not wait. Which one, `place` finds out.

    Holds `_COLLECTING` while one collects, `_FORKING` while one is between its own hooks of a fork, and the number of
    each that is in a guarded fork.
    """

    start = property(None, _set.update)
    stop = property(None, _set.difference_update)


class _Process:
    start: object = None  # what the collector told when it was last started, and when it stopped
    stop: object = None


class _Thread(native_local):
    start: object = None
    stop: object = None
    forking = False


barred: "set[object]" = _Barred()
_process = _Process()
_thread = _Thread()
_callbacks = tuple(partial(setattr, told) for told in (_thread, _process, barred))


def install() -> None:
    """Begin to watch the collector and `os.fork`. With the first hub of the process, again does nothing.

    Call from: any thread; two at once do no harm.
    """
    if _callbacks[0] in gc.callbacks:
        return
    gc.callbacks.extend(_callbacks)
    if hasattr(os, "register_at_fork"):
        enter, leave = partial(setattr, _thread, "forking", True), partial(setattr, _thread, "forking", False)
        os.register_at_fork(before=enter, after_in_parent=leave, after_in_child=leave)
        enter, leave = partial(barred.add, _FORKING), partial(barred.discard, _FORKING)
        os.register_at_fork(before=enter, after_in_parent=leave, after_in_child=_after_fork_in_child)


def place() -> str | None:
    """Why the calling thread must not wait where it is now, and what to do instead; None if it may."""
    if not barred:
        return None
    if _collects():
        return _IN_COLLECTOR
    if _thread.forking or get_ident() in barred:
        return _IN_FORK
    return None


def _collects() -> bool:
    return "generation" in barred and _thread.start is _process.start


def refuse() -> None:
    """Called by a task that is about to wait.

    Raises:
        CannotWait: not here.
    """
    why = place()
    if why is not None:
        raise CannotWait(why)


def guarded(fork: Callable[P, T]) -> Callable[P, T]:
    """*fork* (`os.fork`, `os.forkpty`) with all its hooks inside the guard, those too that are registered later."""

    @wraps(fork)
    def guarded_fork(*args: P.args, **kwargs: P.kwargs) -> T:
        me = get_ident()  # the same in the child
        if me in barred:  # a hook that forks
            return fork(*args, **kwargs)
        try:
            barred.add(me)
            return fork(*args, **kwargs)
        finally:
            barred.discard(me)

    return guarded_fork


def _after_fork_in_child() -> None:
    """Other threads that were collecting or forking are not here to end it."""
    barred.intersection_update({get_ident(), *(_COLLECTING if _collects() else ())})
