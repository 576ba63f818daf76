"""Task-local storage: what `threading.local` becomes. Each task has its own values; outside a hub, each thread.

The thread's root task shares the thread's values, so what was set before the first `spawn` is still there after it.
In a forked child the values of the task that forked become its thread's.
"""

import os
from typing import Any
from weakref import WeakKeyDictionary

from rimstone._originals import native_local
from rimstone.hub.scheduler import current_hub, forking_task

__all__ = ["local"]


class _Key:
    """Stands for one `local` in the tables: a subclass may define its own __eq__ and __hash__."""

    __slots__ = ("__weakref__",)


_Namespaces = WeakKeyDictionary[_Key, dict[str, Any]]


class _ThreadNamespaces(native_local):
    namespaces: "_Namespaces | None" = None


_thread = _ThreadNamespaces()


def _namespaces() -> _Namespaces:
    hub = current_hub()
    if hub is None or hub.current is hub.root:
        found = _thread.namespaces
        if found is None:
            found = _thread.namespaces = WeakKeyDictionary()
        return found
    task = hub.current
    if task.locals is None:
        task.locals = WeakKeyDictionary()
    return task.locals  # type: ignore[no-any-return]


def _after_fork_in_child() -> None:
    """Runs after the scheduler's, which was registered first."""
    task = forking_task()
    if task is not None:
        if task.locals is None:
            task.locals = WeakKeyDictionary()
        _thread.namespaces = task.locals


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _is_data_descriptor(cls: type, name: str) -> bool:
    for base in cls.__mro__:
        if name in base.__dict__:
            return hasattr(type(base.__dict__[name]), "__set__")
    return False


class local:
    """Attributes that each task (or thread without tasks) has for itself; same interface as `threading.local`.

    A subclass's `__init__` runs anew, with the arguments of the first construction, in each task that uses it.
    """

    __slots__ = ("__weakref__", "_local__args", "_local__key")

    def __new__(cls, /, *args: Any, **kwargs: Any) -> "local":
        if (args or kwargs) and cls.__init__ is object.__init__:
            raise TypeError("Initialization arguments are not supported")
        self = object.__new__(cls)
        object.__setattr__(self, "_local__args", (args, kwargs))
        key = _Key()
        object.__setattr__(self, "_local__key", key)
        _namespaces()[key] = {}  # __init__ is about to run for this task
        return self

    def __getattribute__(self, name: str) -> Any:
        namespace = _namespace(self)
        if name == "__dict__":
            return namespace
        if name in namespace and not _is_data_descriptor(type(self), name):
            return namespace[name]
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__dict__":
            raise AttributeError(f"{type(self).__name__!r} object attribute '__dict__' is read-only")
        if _is_data_descriptor(type(self), name):
            object.__setattr__(self, name, value)
        else:
            _namespace(self)[name] = value

    def __delattr__(self, name: str) -> None:
        if name == "__dict__":
            raise AttributeError(f"{type(self).__name__!r} object attribute '__dict__' is read-only")
        if _is_data_descriptor(type(self), name):
            object.__delattr__(self, name)
            return
        try:
            del _namespace(self)[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None


def _namespace(storage: local) -> dict[str, Any]:
    namespaces = _namespaces()
    key = object.__getattribute__(storage, "_local__key")
    namespace = namespaces.get(key)
    if namespace is None:
        namespace = namespaces[key] = {}
        cls = type(storage)
        if cls.__init__ is not object.__init__:
            args, kwargs = object.__getattribute__(storage, "_local__args")
            cls.__init__(storage, *args, **kwargs)
    return namespace
