"""The standard library's Condition, Event, Semaphore, Barrier and queues on our locks, where nothing is patched.

They are the standard library's own functions with other globals: where its `threading` says `Lock`, `RLock`,
`Condition` or `_allocate_lock`, and its `queue` says `threading.Lock`, the copies find ours. So they can do what this
Python's classes can (`Queue.shutdown` in 3.13) and keep the names, signatures and docstrings.

Why not something simpler
-------------------------
- Deriving alone changes no lock: `Condition.wait` parks on `_allocate_lock()`, and `Event.__init__` makes a
  `Condition`; both are looked up in the globals of `threading`.
- Running the module's source a second time under another name would make a second main thread, and register hooks at
  exit and at fork a second time. It needs the sources too, which a frozen program does not ship.
- Writing them anew would be 500 lines that are to follow each Python by hand.

The copies are put into classes that derive from the originals, so `isinstance(sync.Event(), threading.Event)` holds.
Members other than plain functions (properties, `__class_getitem__`) are inherited: they reach no lock but through
`self`. A Python whose `threading` or `queue` has no such name any more is refused, rather than left with native locks;
`tests/sync/test_standard_classes_unpatched.py` looks at the names that the functions of each Python use.

A Condition that is given a lock uses that one; given a native lock, it still blocks the whole thread while it takes it.
This module is imported at the first use of one of its names: workers import `rimstone.sync`, and do not need them.
"""

import queue
import sys
import threading
from types import CellType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from rimstone.sync.lock import Lock, NotifyLock, ShieldedLock
from rimstone.sync.rlock import RLock

__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "BrokenBarrierError",
    "Condition",
    "Empty",
    "Event",
    "Full",
    "LifoQueue",
    "PriorityQueue",
    "Queue",
    "Semaphore",
]
if sys.version_info >= (3, 13):
    __all__ += ["ShutDown"]


def _rebind(module: ModuleType, names: list[str], replaced: dict[str, Any]) -> ModuleType:
    """A copy of *module*, in which the classes called *names* find *replaced* where the originals find their own."""
    missing = [name for name in (*names, *replaced) if not hasattr(module, name)]
    if missing:
        raise ImportError(
            f"the {module.__name__!r} of this Python {sys.version.split()[0]} has no {', '.join(missing)}, where "
            f"rimstone.sync puts its own locks; use CPython 3.11 to 3.13, or a newer rimstone"
        )
    copy = ModuleType(module.__name__, module.__doc__)
    namespace = vars(copy)
    namespace.update(vars(module))
    namespace.update(replaced)
    for name in names:  # a class after those it derives from
        namespace[name] = _copy_class(getattr(module, name), namespace)
    return copy


def _copy_class(original: type, namespace: dict[str, Any]) -> type:
    """A class derived from *original* and the copies of its bases, whose functions have *namespace* as globals."""
    bases = [namespace[base.__name__] for base in original.__bases__ if base.__name__ in namespace]
    own_class = CellType()  # what `super()` without arguments looks at
    members: dict[str, Any] = {
        "__doc__": original.__doc__,
        "__module__": "rimstone.sync",  # where pickle finds it
        "__qualname__": original.__qualname__,
    }
    for name, found in vars(original).items():
        member = getattr(found, "__wrapped__", found)  # where `monkey` has replaced one, its original
        if isinstance(member, FunctionType):
            members[name] = _copy_function(member, namespace, own_class)
    copy = type(original)(original.__name__, (*bases, original), members)
    own_class.cell_contents = copy
    return copy


def _copy_function(original: FunctionType, namespace: dict[str, Any], own_class: CellType) -> FunctionType:
    code = original.__code__
    closure = tuple(
        own_class if name == "__class__" else cell
        for name, cell in zip(code.co_freevars, original.__closure__ or (), strict=True)
    )
    copy = FunctionType(code, namespace, original.__name__, original.__defaults__, closure)
    copy.__kwdefaults__ = original.__kwdefaults__
    copy.__annotations__ = original.__annotations__
    copy.__qualname__ = original.__qualname__
    copy.__module__ = "rimstone.sync"
    copy.__doc__ = original.__doc__
    copy.__dict__.update(original.__dict__)
    return copy


if TYPE_CHECKING:  # what they are to callers
    from queue import Empty, Full, LifoQueue, PriorityQueue, Queue
    from threading import Barrier, BoundedSemaphore, BrokenBarrierError, Event, Semaphore

    if sys.version_info >= (3, 13):
        from queue import ShutDown

    class Condition(threading.Condition):
        """The standard library's; it takes our locks."""

        def __init__(self, lock: Lock | RLock | None = None) -> None: ...

else:
    _threading = _rebind(
        threading, ["Condition", "Event", "Barrier"], {"Lock": Lock, "RLock": RLock, "_allocate_lock": NotifyLock}
    )
    _semaphores = _rebind(_threading, ["Semaphore", "BoundedSemaphore"], {"Lock": ShieldedLock})
    _queue = _rebind(queue, ["Queue", "PriorityQueue", "LifoQueue"], {"threading": _threading})

    Barrier = _threading.Barrier
    BoundedSemaphore = _semaphores.BoundedSemaphore
    BrokenBarrierError = threading.BrokenBarrierError
    Condition = _threading.Condition
    Empty = queue.Empty
    Event = _threading.Event
    Full = queue.Full
    LifoQueue = _queue.LifoQueue
    PriorityQueue = _queue.PriorityQueue
    Queue = _queue.Queue
    Semaphore = _semaphores.Semaphore
    if sys.version_info >= (3, 13):
        ShutDown = queue.ShutDown
