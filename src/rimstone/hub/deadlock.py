"""Tells when nothing can ever happen again: every task of the process waits, and only a task could end their waits.

Asked by a hub that is about to wait with neither a timer nor a descriptor to wait for. The answer must be certain,
since it ends the wait with an error, so anything that could still wake somebody makes it "no": a thread that is not
one of ours or does not wait likewise, a thread that C code has started (only the kernel knows those; without /proc the
answer is always "no"), and any signal handler of Python's but the default one for Ctrl-C. `dump()` shows the rest.
"""

import _thread
import os
import signal
from typing import TYPE_CHECKING

from rimstone.hub import watchdog

if TYPE_CHECKING:
    from rimstone.hub.dump import Waits
    from rimstone.hub.scheduler import Hub
    from rimstone.hub.taskcore import TaskCore

__all__ = ["deadlock_of"]

_TRIES = 10
_PLACES = 20  # where tasks of one thread wait, and
_SAME_PLACE = 10  # tasks at each, that the error lists


def deadlock_of(hub: "Hub") -> str | None:
    """Who waits for what, if that is how it will stay for ever; else None. In *hub*'s thread.

    One line a task; of many that wait at the same place, some.
    """
    # In this order: a thread that has ended before it could be counted has woken whom it wanted to before we look at
    # the hubs.
    harmless = _harmless_threads(hub)
    threads = _thread._count() + 1 - harmless  # the main thread is not counted
    stuck = _stuck_hubs(hub)
    if len(stuck) != threads or not _are_all_native_threads(threads + harmless) or _has_handlers():
        return None
    if _harmless_threads(hub) != harmless:  # one has begun or ended while we counted
        return None
    # Once more, since one hub may wake another between our looks at the two. One that was just beginning to wait has
    # another beat by now, and is looked at again.
    for _ in range(_TRIES):
        before, stuck = stuck, _stuck_hubs(hub)
        if len(stuck) != threads:
            return None
        if stuck == before:
            break
    else:
        return None
    from rimstone.hub.dump import Waits, place_of, together

    waits = Waits()
    lines = []
    for other, _ in stuck:
        lines += [_describe(other.root, waits, place_of(other.root))]
        groups = together(sorted(other.tasks, key=lambda task: task.number), place_of)
        for group in groups[:_PLACES]:
            place = place_of(group[0])
            lines += [_describe(task, waits, place) for task in group[:_SAME_PLACE]]
            if len(group) > _SAME_PLACE:
                lines.append(f"  ... and {len(group) - _SAME_PLACE:,} more at {place}")
        if len(groups) > _PLACES:
            more = sum(map(len, groups[_PLACES:]))
            lines.append(f"  ... and {more:,} more, at {len(groups) - _PLACES:,} other places")
    return "every task waits, and nothing is left that could wake one:\n" + "\n".join(lines)


def _describe(task: "TaskCore", waits: "Waits", place: str) -> str:
    return f"  {task.name}: {waits.of(task) or 'waits'}{f' at {place}' if place else ''}"


def _stuck_hubs(hub: "Hub") -> "list[tuple[Hub, int]]":
    """Those where nothing is left to do, with their beats, which tell whether they have run meanwhile."""
    return [(other, other.beats) for other in hub.all() if other.is_stuck()]


def _harmless_threads(hub: "Hub") -> int:
    """The watchdog's, and those of IO models: they do nothing for a hub that waits for no descriptor."""
    return watchdog.harmless_threads() + sum(other.io.threads() for other in hub.all())


def _are_all_native_threads(count: int) -> bool:
    """Whether the process has *count* threads, and no more but io_uring's: those wake nobody who waits for nothing."""
    try:
        numbers = os.listdir("/proc/self/task")
        return len(numbers) == count or sum(not _is_harmless(number) for number in numbers) == count
    except OSError:
        return False


def _is_harmless(number: str) -> bool:
    try:
        with open(f"/proc/self/task/{number}/comm", "rb") as file:
            return file.read().startswith(b"iou-")
    except OSError:  # it has ended meanwhile
        return True


def _has_handlers() -> bool:
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler) and handler is not signal.default_int_handler:
            return True
    return False
