"""One task at a time in the layers of a file: text, buffer, raw file. Read the head of `_files.py` first.

Going in costs next to nothing, since it is paid for each line: as long as no task waits inside, the tasks of a thread
cannot meet there, so whoever comes only looks whether somebody is in. Who finds somebody queues outside, gets its turn
from the one who leaves, and keeps it for the whole call, so that nobody overtakes the queue.

So the tasks of one thread never meet. Those of two threads may, in the moment before one is seen to be in; then they
are what threads without tasks are to each other: kept apart by the lock of the C object, and one of them does not park
but blocks for one operation.

A signal handler may raise between any two steps (Ctrl-C), and the file must not stay taken. A lock could not tell
whether the one who was struck had got it. So whose turn it is stands in a dictionary, and to take a turn is one atomic
`setdefault`; and what gives it up may be done twice.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from rimstone._originals import get_ident
from rimstone.hub import Waiter, waiter
from rimstone.hub.files import raise_interrupt
from rimstone.hub.scheduler import current_hub

__all__ = ["Turns"]

_WHO = 0  # the only key
_within: set[Any] = set()  # tasks, and threads that run none, within a call


class _Queued:
    """Somebody who waits for a turn."""

    __slots__ = ("waiting", "who")

    def __init__(self, who: Any) -> None:
        self.who = who
        self.waiting: Waiter = waiter()


class Turns:
    """Shared by the layers of one file.

    Attributes:
        taken: Call it: true while some task is inside.
        finalizing: A file that nobody closed is being closed: what is raised then is lost.
    """

    __slots__ = ("_inside", "_queue", "finalizing", "taken")

    def __init__(self) -> None:
        self._inside: dict[int, Any] = {}  # `_WHO`: a task, or the number of a thread that runs none; empty if nobody
        self._queue: deque[_Queued] = deque()  # while somebody is in it, `_inside` is not empty
        self.taken = self._inside.__len__
        self.finalizing = False

    def operate(self, task: Any, operation: Callable[..., Any], otherwise: Callable[..., Any], *args: Any) -> Any:
        """Return `operation(*args)`, which may wait: from the raw file, far inside, in its *task*'s turn.

        `otherwise()` if it is somebody else's: of another thread, or the calling place is a signal handler. It must not
        park here, within a C object that is locked for its thread.

        It does not let others run where it need not wait: what would end the task there (a kill, a `Timeout`) would
        take with it what C has taken out of its buffer. `call` has done so before.
        """
        inside = self._inside
        task.hub.budget = max(1, task.hub.budget)
        if inside.get(_WHO) is task:
            task = None  # whose error would refer to this frame, and the two live on until the collector comes
            return operation(*args)
        try:
            if inside.setdefault(_WHO, task) is not task:
                return otherwise()
            return operation(*args)
        finally:
            try:
                self._leave(task)
            except BaseException:  # a signal handler raised in it, or before it began
                self._leave(task)
                raise
            finally:
                task = None

    def call(self, hub: Any, file: Any, method: Any, args: tuple[Any, ...]) -> Any:
        """Return `method(file, *args)`, when it is the calling task's turn; *hub*: what `hub_that_waits` says.

        Raises:
            RuntimeError: a task of this thread is inside, and this place cannot wait for it (a signal handler); or a
                task was that a forked child does not have, or whose thread has ended.
        """
        inside = self._inside
        if hub is None:
            here = current_hub()
            if here is not None:
                if getattr(inside.get(_WHO), "hub", None) is here:
                    raise RuntimeError(f"reentrant call inside {file!r}")
                return method(file, *args)  # it blocks until that thread has left
        me = get_ident() if hub is None else hub.current
        if inside.get(_WHO) == me:  # C calls back: `close` calls `flush`
            return method(file, *args)
        is_outermost = me not in _within
        if hub is not None and hub.budget <= 0:
            if is_outermost:
                hub.give_way()
            else:
                hub.budget = 1  # as in `operate`: this file is the raw one of another buffer
        before = None if hub is None else hub.root.pending
        try:
            _within.add(me)
            if inside.setdefault(_WHO, me) != me:
                self._queue_up(me, file)
            result = method(file, *args)
        finally:
            try:
                self._leave(me)
                if is_outermost:
                    _within.discard(me)
            except BaseException:
                self._leave(me)
                if is_outermost:
                    _within.discard(me)
                raise
            finally:
                me = None  # as above
        if hub is not None and hub.root.pending is not before:
            raise_interrupt(hub, before)
        return result

    def _queue_up(self, me: Any, file: Any) -> None:
        hub = getattr(self._inside.get(_WHO), "hub", None)
        if hub is not None and hub.closed:
            when = "this process was forked, and only the parent has that task" if hub.forked else "its thread ended"
            raise RuntimeError(f"{file!r} was in use by a task when {when}; open the file anew")
        queued = _Queued(me)
        try:
            self._queue.append(queued)
            while self._inside.setdefault(_WHO, me) != me:
                queued.waiting.park()
                queued.waiting = waiter()
        finally:
            try:
                self._dequeue(queued)
            except BaseException:
                self._dequeue(queued)
                raise

    def _dequeue(self, queued: _Queued) -> None:
        if queued in self._queue:
            self._queue.remove(queued)

    def _leave(self, me: Any) -> None:
        """Give the turn to the next in the queue; again does what was left undone, or nothing.

        Threads may queue meanwhile, and look after having done so: one of the two sees the other.
        """
        inside, queue = self._inside, self._queue
        while True:
            who = inside.get(_WHO)
            following = next(iter(tuple(queue)), None) if queue else None
            if following is None:
                if who != me:
                    return
                inside.pop(_WHO)
                if not queue or inside.setdefault(_WHO, me) != me:
                    return
                continue
            if who == me and following.who != me:
                inside[_WHO] = who = following.who
            if who != following.who:
                return
            woken = False
            for queued in tuple(queue):  # more than one, if a signal handler queues before the thread that it struck
                if queued.who == who and queued.waiting.unpark():
                    woken = True
            if woken:
                return
            self._dequeue(following)  # its thread has ended
            me = who
