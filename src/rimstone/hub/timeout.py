"""Timeout: an exception that strikes after a while, unless its block is left before. Read `alarm.py` first.

Raising something in a task that did not ask for it
---------------------------------------------------
`throw_in` puts the error into `task.pending`, and the task's park raises it. There is room for one error only, and a
park that was granted before returns normally and leaves it there for the next one (`parking.py`). So two timeouts
that are due together, or a timeout and a failing `TaskGroup`, must not overwrite each other, and a block that is left
before its error was raised must take it back. Both is done here, by `Interrupts`: one for each task that needs it.
"""

from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rimstone import clock
from rimstone.hub.alarm import Alarm
from rimstone.hub.scheduler import append_context, current_hub, get_hub
from rimstone.hub.timers import NEVER

if TYPE_CHECKING:
    from rimstone.hub.task import AnyTask

__all__ = ["Interrupts", "Timeout", "interrupts_of"]

_NEXT_TRY_SECONDS = 0.001  # a task with an error pending is about to run: it will have been raised by then


class Interrupts:
    """The errors that timeouts and groups raise in one task, each in its turn. From the hub's thread.

    `error in interrupts` is True from `throw` until `take_back`, also after it was raised: whoever catches it sees by
    that that it came from outside.
    """

    __slots__ = ("_alarm", "_queue", "_task", "_thrown")

    def __init__(self, task: "AnyTask") -> None:
        self._task = task
        self._thrown: list[BaseException] = []
        self._queue: list[BaseException] = []  # to be raised once `task.pending` is free
        self._alarm: Alarm | None = None

    def throw(self, error: BaseException) -> None:
        """Raise *error* where the task waits, or next waits, after all that is about to be raised there."""
        if error not in self:
            self._thrown.append(error)
        if self._task.pending is None and not self._queue:
            self._task.throw_in(error)
            return
        self._queue.append(error)
        self._try_again()

    def take_back(self, error: BaseException) -> None:
        """Do not raise *error* if it was not raised yet. Idempotent."""
        if self._task.pending is error:
            self._task.pending = None
        _remove(self._queue, error)
        _remove(self._thrown, error)

    def is_pending(self, error: BaseException) -> bool:
        """True while *error* is still to be raised."""
        return self._task.pending is error or _contains(self._queue, error)

    def __contains__(self, error: object) -> bool:
        return _contains(self._thrown, error)

    def _throw_next(self) -> None:
        if not self._queue or self._task.ready():
            return
        if self._task.pending is None:
            error = self._queue[0]
            del self._queue[0]
            self._task.throw_in(error)
        self._try_again()

    def _try_again(self) -> None:
        if self._queue:
            if self._alarm is None:
                self._alarm = Alarm(self._task.hub, self._throw_next)
            self._alarm.set(clock.monotonic() + _NEXT_TRY_SECONDS)


def _contains(errors: list[BaseException], error: object) -> bool:
    return any(one is error for one in errors)  # by identity: an exception may define __eq__


def _remove(errors: list[BaseException], error: BaseException) -> None:
    errors[:] = [one for one in errors if one is not error]


def interrupts_of(task: "AnyTask") -> Interrupts:
    """The `Interrupts` of *task*, made at their first use."""
    found: Interrupts | None = getattr(task, "_interrupts", None)
    if found is None:
        found = task._interrupts = Interrupts(task)
    return found


def throw_later(thrown: "list[BaseException]") -> None:
    """Raise what was *thrown* into this task during a shielded wait at its next parks, in order.

    A plain thread has no next park: there it is raised at once, the last with those before as its context.
    """
    hub = current_hub()
    if hub is None:
        for earlier, later in pairwise(thrown):
            append_context(later, earlier)
        raise thrown[-1]
    task = hub.current
    for error in thrown:
        if task.pending is None:
            task.throw_in(error)
        else:
            interrupts_of(task).throw(error)


class Timeout(BaseException):
    """Raises itself in the current task after *seconds*, wherever the task waits then.

        with Timeout(5):                   # raises this very Timeout after five seconds
        with Timeout(5, False):            # just ends the block after five seconds
        with Timeout(5, MyError("slow")):  # raises MyError("slow")

    It derives from BaseException, so that `except Exception` in the block does not swallow it. Blocks may be nested:
    each strikes for itself, an outer one also through the inner ones. A wait that was granted (a lock, an item of a
    queue) just before the time was up returns normally, and the timeout strikes at the next wait, or not at all if
    the block is left without one.

    Only a wait of a task can be ended: code that computes or blocks in C goes on until it next waits. In a thread that
    runs no tasks yet, starting a Timeout makes its main program a task; see `get_hub`.

    Attributes:
        seconds: From `start` on; None never strikes.
        exception: What is raised instead of the Timeout itself; None for the Timeout, False for an end in silence.
    """

    def __init__(
        self, seconds: float | None = None, exception: BaseException | type[BaseException] | bool | None = None
    ) -> None:
        if seconds is not None:
            if not isinstance(seconds, (int, float)):
                raise TypeError(f"Timeout takes a number of seconds, or None for never, not {seconds!r}")
            if not seconds >= 0:  # so that NaN is refused as well: it would upset the order of the timers
                raise ValueError(f"Timeout seconds must be non-negative (None for never), not {seconds!r}")
        if not (
            exception is None
            or exception is False
            or isinstance(exception, BaseException)
            or (isinstance(exception, type) and issubclass(exception, BaseException))
        ):
            raise TypeError(
                f"Timeout raises an exception (class or instance), itself (None) or nothing (False), not {exception!r}"
            )
        super().__init__(seconds, exception)
        self.seconds = seconds
        self.exception = exception
        self._task: AnyTask | None = None  # while it is started
        self._alarm: Alarm | None = None
        self._error: BaseException = self

    @property
    def pending(self) -> bool:
        """True from `start` until the error is raised, or `cancel`."""
        if self._task is None or self._alarm is None:
            return False
        return self._alarm.deadline != NEVER or interrupts_of(self._task).is_pending(self._error)

    def start(self) -> None:
        """Strike the current task `seconds` from now. A `with` block does it by itself.

        Raises:
            RuntimeError: it is pending already.
        """
        if self.pending:
            raise RuntimeError(f"{self!r} has been started already; cancel() it first, or use another one")
        self.cancel()
        if self.seconds is None:
            return
        hub = get_hub()
        exception = self.exception
        if isinstance(exception, type):
            self._error = exception()
        elif isinstance(exception, BaseException):
            self._error = exception
        else:
            self._error = self.with_traceback(None)  # that of an earlier strike
        self._task = hub.current
        self._alarm = Alarm(hub, self._strike)
        self._alarm.set(clock.monotonic() + self.seconds)

    def cancel(self) -> None:
        """Do not strike; what is about to be raised is not raised. Idempotent; it may be started again."""
        if self._alarm is not None:
            self._alarm.cancel()
        if self._task is not None:
            interrupts_of(self._task).take_back(self._error)
        self._alarm = self._task = None
        self._error = self

    close = cancel

    def _strike(self) -> None:
        if self._task is not None:
            interrupts_of(self._task).throw(self._error)

    def __enter__(self) -> Self:
        if not self.pending:
            self.start()
        elif self._task is not get_hub().current:
            raise RuntimeError(f"{self!r} has been started by {self._task!r}; each task needs its own Timeout")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.cancel()
        return value is self and self.exception is False

    def __str__(self) -> str:
        return "never" if self.seconds is None else f"timed out after {self.seconds} s"

    def __repr__(self) -> str:
        seconds = "never" if self.seconds is None else f"{self.seconds} s"
        return f"<Timeout of {seconds}{', pending' if self.pending else ''}>"
