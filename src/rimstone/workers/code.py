"""CodeBook: how a pool turns functions into bytes, once per function. Read `byvalue.py` for what is in the bytes.

What can be imported in a worker goes by name; everything else by value. `encode` answers from an entry while nothing
that went into the bytes has been rebound: the function's place in its module; or the code, defaults, closure variables
and globals of every by-value function that was reached. Objects that carry data (bound methods of instances,
`functools.partial`, callable instances) are pickled at each `encode`, so that a changed state is noticed; as long as
their bytes stay the same, so does the `EncodedFunction`, and the workers keep *one* such object each, shared by its
calls.

What keeps memory bounded: an entry goes when its function is collected, and the oldest go beyond `MOST_ENTRIES`. When
the last reference to an `EncodedFunction` is gone, its id is in the next `take_forgotten()`, and the workers can drop
it. Calls therefore hold their `EncodedFunction` until they are done.

Not noticed: objects changed in place (see `byvalue.py`), and `importlib.reload` of a module, since workers keep what
they have imported.
"""

import functools
import itertools
import pickle
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rimstone._originals import RLock
from rimstone.workers import culprit
from rimstone.workers.byvalue import (
    MISSING,
    Held,
    LruCache,
    Place,
    ReachedFunction,
    contents,
    dumps,
    hold,
    holds,
    importable_place,
)

__all__ = ["CodeBook", "EncodedFunction"]

MOST_ENTRIES = 1024
_PROTOCOL = 5

_Key = int | tuple[int, int]


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class EncodedFunction:
    """A function as it travels. A worker needs (id, blob) once, and afterwards only the id.

    Attributes:
        id: Unique in its pool, never used again.
        blob: What `namespace.FunctionTable.learn` takes.
        name: Qualified name, for messages.
    """

    id: int
    blob: bytes
    name: str


class CodeBook:
    """The functions of one pool. Used by any thread, and survives an exception between any two bytecodes."""

    def __init__(self) -> None:
        # Reentrant, so that a signal handler or finalizer that submits a call can come in between; under it each state
        # change is one store, so it finds everything consistent.
        self._lock = RLock()
        self._ids = itertools.count(1)
        self._entries: dict[_Key, _Entry] = {}
        self._references: dict[int, _EncodedReference] = {}
        # Filled by weakref callbacks. They are C functions: in Python ones, Ctrl-C would be printed and swallowed.
        self._collected_owners: deque[_OwnerReference] = deque()
        self._collected_encodings: deque[_EncodedReference] = deque()

    def encode(self, fn: Callable[..., Any]) -> EncodedFunction:
        """Encode a function; the same object as last time unless something that it reaches was rebound.

        Raises:
            CannotTravel: it, or something that it reaches, does not pickle; the message names it.
        """
        key = _key_of(fn)
        entry = self._entries.get(key)
        if entry is not None and entry.is_code and entry.owner() is _owner_of(fn) and entry.is_current():
            return entry.encoded
        return self._encode_anew(key, fn)

    def take_forgotten(self) -> list[int]:
        """Ids that nothing refers to any more, each returned once. Workers may drop them.

        Call from: a thread that Ctrl-C does not reach. An exception in here loses ids; workers keep those functions.
        """
        with self._lock:
            self._drop_entries_of_collected()
            forgotten = []
            while self._collected_encodings:
                reference = self._collected_encodings[0]
                forgotten.append(reference.id)
                self._references.pop(reference.id, None)
                self._collected_encodings.popleft()
        return forgotten

    def _encode_anew(self, key: _Key, fn: Callable[..., Any]) -> EncodedFunction:
        name = _name_of(fn)
        place = importable_place(fn)
        reached: list[ReachedFunction] = []
        if place is not None:
            blob = pickle.dumps(("import", place.module, fn.__qualname__, place.path), _PROTOCOL)
        else:
            try:
                data, reached = dumps(fn)
            except Exception as error:  # whatever a __reduce__ or __getstate__ raises
                raise culprit.function_error(fn, name) from error
            blob = pickle.dumps(("value", name, data), _PROTOCOL)
        with self._lock:
            self._drop_entries_of_collected()
            last = self._entries.get(key)
            if last is not None and last.owner() is _owner_of(fn) and last.encoded.blob == blob:
                encoded = last.encoded
            else:
                encoded = EncodedFunction(next(self._ids), blob, name)
                reference = _EncodedReference(encoded, self._collected_encodings.append)
                reference.id = encoded.id
                self._references[encoded.id] = reference
            is_code = place is not None or isinstance(fn, types.FunctionType | type | LruCache)
            entry = _Entry(self._hold_owner(key, fn), encoded, is_code, _watch(fn, place, reached))
            self._entries.pop(key, None)  # so that it becomes the youngest
            self._entries[key] = entry
            while len(self._entries) > MOST_ENTRIES:
                self._entries.pop(next(iter(self._entries)), None)
        return encoded

    def _hold_owner(self, key: _Key, fn: Callable[..., Any]) -> Held:
        owner = _owner_of(fn)
        try:
            reference = _OwnerReference(owner, self._collected_owners.append)
        except TypeError:
            return hold(owner)
        reference.key = key
        return reference

    def _drop_entries_of_collected(self) -> None:
        """Called with the lock held."""
        while self._collected_owners:
            reference = self._collected_owners[0]
            entry = self._entries.get(reference.key)
            if entry is not None and entry.owner is reference:
                self._entries.pop(reference.key, None)
            self._collected_owners.popleft()


class _OwnerReference(weakref.ref[Any]):
    __slots__ = ("key",)
    key: _Key


class _EncodedReference(weakref.ref[EncodedFunction]):
    __slots__ = ("id",)
    id: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """What was encoded last for one function.

    Attributes:
        owner: The function, or the object that a bound method is bound to.
        is_code: True if what went into the blob can be watched; False for objects with data.
        watched: See `_watch`.
    """

    owner: Held
    encoded: EncodedFunction
    is_code: bool
    watched: "tuple[_Watched, ...]"

    def is_current(self) -> bool:
        """True while nothing that went into the blob has been rebound."""
        for watched in self.watched:  # noqa: SIM110  # a generator costs more than the check
            if not watched.is_current():
                return False
        return True


@dataclass(frozen=True, slots=True)
class _WatchedName:
    """A function that goes by name: what its module binds to the first part of the name."""

    names: dict[str, Any]
    name: str
    value: Held

    def is_current(self) -> bool:
        return holds(self.value, self.names.get(self.name, MISSING))


@dataclass(frozen=True, slots=True)
class _WatchedFunction:
    """A function that went by value. All is looked up through the function, so that the entry keeps nothing alive."""

    function: Held
    code: types.CodeType
    defaults: Held
    kwdefaults: Held
    closure: tuple[Held, ...]
    weak_globals: tuple[tuple[str, Held], ...]
    strong_globals: tuple[tuple[str, object], ...]

    def is_current(self) -> bool:
        function: Any = self.function()
        if function is None or function.__code__ is not self.code:
            return False
        names = function.__globals__
        for name, held in self.weak_globals:
            value = held()
            if value is None or names.get(name) is not value:
                return False
        for name, value in self.strong_globals:
            if names.get(name, MISSING) is not value:
                return False
        if not holds(self.defaults, function.__defaults__) or not holds(self.kwdefaults, function.__kwdefaults__):
            return False
        if not self.closure:
            return True
        return all(holds(held, contents(cell)) for held, cell in zip(self.closure, function.__closure__, strict=True))


_Watched = _WatchedName | _WatchedFunction


def _watch(fn: Any, place: Place | None, reached: list[ReachedFunction]) -> tuple[_Watched, ...]:
    """What to look at to know whether *fn* must be encoded anew."""
    if place is not None:
        names = sys.modules[fn.__module__].__dict__
        first = fn.__qualname__.partition(".")[0]
        return (_WatchedName(names, first, hold(names.get(first, MISSING))),)
    return tuple(_watch_function(each) for each in reached)


def _watch_function(reached: ReachedFunction) -> _WatchedFunction:
    function = reached.function
    weak = []
    strong = []
    for name, value in reached.globals:
        held = hold(value)
        if isinstance(held, weakref.ref):
            weak.append((name, held))
        else:
            strong.append((name, value))
    return _WatchedFunction(
        weakref.ref(function),
        function.__code__,
        hold(function.__defaults__),
        hold(function.__kwdefaults__),
        tuple(hold(contents(cell)) for cell in function.__closure__ or ()),
        tuple(weak),
        tuple(strong),
    )


def _owner_of(fn: Any) -> Any:
    # `instance.method` is a new object at each access, so entries of methods belong to the instance.
    return fn.__self__ if type(fn) is types.MethodType else fn


def _key_of(fn: Any) -> _Key:
    return (id(fn.__self__), id(fn.__func__)) if type(fn) is types.MethodType else id(fn)


def _name_of(fn: Any) -> str:
    if isinstance(fn, functools.partial):
        return _name_of(fn.func)
    try:
        name = fn.__qualname__
    except Exception:  # a proxy may raise anything
        name = None
    return name if isinstance(name, str) else type(fn).__qualname__
