"""The pickler for code that a worker cannot import: functions and classes of `__main__`, lambdas, closures.

`namespace.py` is the other end. On cloudpickle it improves in four ways, all needed because workers live long:

- Functions live in the worker's *real* namespaces: those of `__main__` all in the one of its `__main__` (cloudpickle
  gives each pickle its own globals), those of a module that can be imported in that module's.
- The globals they reach travel with versions, so that an old value never overwrites what a call has set.
- The same for attributes of classes; and a class that came from the parent goes back by its identity alone.
- Functions that share a closure variable still share it afterwards.

Not noticed: an object that is changed in place (a list that grows, `Point.area = ...` on a class already sent with a
function). The new state goes along with the next thing that carries the object, but a name that is bound to the same
object as before keeps its value in workers that have one.
"""

import dis
import functools
import importlib.machinery
import io
import os
import sys
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cloudpickle import cloudpickle

from rimstone._originals import RLock
from rimstone.workers import namespace

__all__ = [
    "MISSING",
    "Held",
    "LruCache",
    "Pickler",
    "Place",
    "ReachedFunction",
    "contents",
    "dumps",
    "global_names",
    "hold",
    "holds",
    "importable_place",
]

MISSING: Final = object()  # no value: an unbound name, an empty closure cell
_PROTOCOL = 5
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made at run time, so that it can be made again
LruCache: Final = type(functools.lru_cache(int))


# -- identity of values, without keeping them alive where that is possible -------------------------------------------

Held = Callable[[], object]  # returns the value, or None when it is gone


class _Strong:
    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __call__(self) -> object:
        return self._value


_HELD_NONE = _Strong(None)


def hold(value: object) -> Held:
    """Remember a value for `holds`: weakly if its type allows, since ids of dead objects are used again."""
    if value is None:
        return _HELD_NONE
    try:
        return weakref.ref(value)
    except TypeError:
        return _Strong(value)


def holds(held: Held, value: object) -> bool:
    """True if *value* is the very object that was given to `hold`."""
    return held is _HELD_NONE if value is None else held() is value


def contents(cell: types.CellType) -> object:
    """What a closure cell contains; MISSING for an empty one."""
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


# -- versions --------------------------------------------------------------------------------------------------------


class Versions:
    """Counts, for each global of `__main__` and each attribute of a by-value class, how often it was seen rebound.

    One per process, because there is one `__main__`: a pool's workers see the numbers with gaps, but always rising.
    """

    def __init__(self) -> None:
        # Reentrant, so that a signal handler or finalizer that submits a call can come in between. Each state change
        # is one store, so it, and an exception between any two bytecodes, finds everything consistent.
        self._lock = RLock()
        self._globals: dict[str, tuple[Held, int]] = {}
        self._attributes: weakref.WeakKeyDictionary[type, dict[str, tuple[Held, int]]] = weakref.WeakKeyDictionary()

    def of_global(self, names: dict[str, Any], name: str) -> tuple[object, int]:
        """The current value of a global (MISSING if unbound) and its version."""
        with self._lock:  # or a thread that read the older value could get the newer number
            value = names.get(name, MISSING)
            return value, 0 if value is MISSING else self._number(self._globals, name, value)

    def of_attribute(self, cls: type, name: str, value: object) -> int:
        """The version of an attribute that is bound to *value*."""
        with self._lock:
            return self._number(self._attributes.setdefault(cls, {}), name, value)

    @staticmethod
    def _number(seen: dict[str, tuple[Held, int]], name: str, value: object) -> int:
        last = seen.get(name)
        if last is not None and holds(last[0], value):
            return last[1]
        version = 1 if last is None else last[1] + 1
        seen[name] = (hold(value), version)
        return version


versions = Versions()


# -- can a worker import it? -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """How a worker gets at a module: by name (path None), or from a file, to be loaded under that name."""

    module: str
    path: str | None


_MAIN = Place("__main__", None)


@functools.lru_cache(maxsize=4096)
def place_of(module: types.ModuleType, name: str) -> Place | None:
    """How a worker imports *module*, known here as `sys.modules[name]`; None if it cannot."""
    spec = _search(name)
    actual = getattr(module, "__spec__", None)
    origin = getattr(actual, "origin", None) or getattr(module, "__file__", None)
    if spec is None:
        # A module that its package makes while being imported is not found either, but is there after the package.
        package = name.rpartition(".")[0]
        parent = sys.modules.get(package)
        if parent is not None and (place := place_of(parent, package)) is not None and place.path is None:
            return Place(name, None)
    elif origin is None or spec.origin is None or spec.origin == origin or _same_file(spec.origin, origin):
        return Place(name, None)
    if origin is not None and os.path.isfile(origin):
        return Place(name, os.path.abspath(origin))
    return None if spec is None else Place(name, None)


def _search(name: str) -> importlib.machinery.ModuleSpec | None:
    # Not importlib.util.find_spec: for a module in sys.modules it only returns that module's own spec.
    package = name.rpartition(".")[0]
    path = None
    if package:
        path = getattr(sys.modules.get(package), "__path__", None)
        if path is None:
            return None
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path)
        except Exception:  # noqa: S112  # a finder of somebody else's; importing would go wrong as well
            continue
        if spec is not None:
            return spec
    return None


def _same_file(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _home_of(names: dict[str, Any]) -> Place | None:
    """The module whose namespace *names* is, if a worker has it as well."""
    name = names.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    if module is None or getattr(module, "__dict__", None) is not names:
        return None
    return _MAIN if name == "__main__" else place_of(module, name)


def importable_place(obj: Any) -> Place | None:
    """How a worker gets at the module where *obj* is found under its qualified name; None if it must go by value."""
    try:
        name, qualname = obj.__module__, obj.__qualname__
        if not isinstance(name, str) or not isinstance(qualname, str) or name == "__main__":
            return None
        module = sys.modules[name]
        found = functools.reduce(getattr, qualname.split("."), module)
        if found is not obj and not (type(obj) is types.MethodType and isinstance(obj.__self__, type) and found == obj):
            return None  # hidden by another of the same name
        return None if cloudpickle._is_registered_pickle_by_value(module) else place_of(module, name)
    except Exception:  # not there (a lambda, a nested function, an instance); and a proxy may raise anything
        return None


# -- the pickler -----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2048)
def global_names(code: types.CodeType) -> tuple[str, ...]:
    """Names of globals that *code* and the code nested in it use, in order of appearance."""
    found: dict[str, None] = {}
    for instruction in dis.get_instructions(code):
        # LOAD_NAME, which cloudpickle leaves out, is how the body of a class inside a function reads a global.
        if instruction.opname in {
            "LOAD_GLOBAL",
            "STORE_GLOBAL",
            "DELETE_GLOBAL",
            "LOAD_NAME",
            "LOAD_FROM_DICT_OR_GLOBALS",
        }:
            found[instruction.argval] = None
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found.update(dict.fromkeys(global_names(constant)))
    return tuple(found)


@dataclass(slots=True)
class ReachedFunction:
    """A function that was pickled by value, and the globals it reached, as they were at that moment."""

    function: types.FunctionType
    globals: list[tuple[str, object]]


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # untyped
    """Pickles what plain pickle does and by-value code as well. For one `dump`.

    Args:
        file: Where the bytes go.
        to_parent: True in a worker for what goes back. The parent has its own globals, and knows the classes that it
            sent, so neither is sent to it.

    Attributes:
        reached: Every function that went by value.
    """

    def __init__(self, file: io.BytesIO, *, to_parent: bool = False) -> None:
        super().__init__(file, protocol=_PROTOCOL)
        self._to_parent = to_parent
        self.reached: list[ReachedFunction] = []

    def reducer_override(self, obj: Any) -> Any:
        """Called by pickle for each object that is not of a basic type."""
        kind = type(obj)
        if kind is types.FunctionType:
            return self._reduce_function(obj)
        if issubclass(kind, type):
            return self._reduce_class(obj)
        if kind is types.CellType:
            return _reduce_cell(obj)
        if kind is types.ModuleType:
            return _reduce_module(obj)
        return _reduce_cached(obj) if kind is LruCache else NotImplemented

    def _reduce_function(self, function: types.FunctionType) -> Any:
        place = importable_place(function)
        if place is not None:
            return _reference(place, function)
        home = _home_of(function.__globals__)
        if home is None:
            names = function.__globals__
            self.reached.append(
                ReachedFunction(
                    function, [(name, names.get(name, MISSING)) for name in global_names(function.__code__)]
                )
            )
            return self._dynamic_function_reduce(function)
        bindings, values = self._bindings_of(function, home)
        self.reached.append(ReachedFunction(function, values))
        closure = function.__closure__
        args = (
            function.__code__,
            home.module,
            home.path,
            function.__name__,
            function.__defaults__,
            function.__kwdefaults__,
            closure,
        )
        slots = {
            "__qualname__": function.__qualname__,
            "__module__": function.__module__,
            "__doc__": function.__doc__,
            "__annotations__": function.__annotations__,
        }
        used = [value for _, value in values] + [contents(cell) for cell in closure or ()]
        submodules = cloudpickle._find_imported_submodules(function.__code__, used)
        state = (dict(function.__dict__), slots, bindings, submodules)
        return namespace.make_function, args, state, None, None, namespace.finish_function

    def _bindings_of(
        self, function: types.FunctionType, home: Place
    ) -> tuple[list[tuple[str, int, object]], list[tuple[str, object]]]:
        if home is not _MAIN or self._to_parent:
            return [], []
        names = function.__globals__
        wanted = global_names(function.__code__)
        if names.get(function.__name__) is function and function.__name__ not in wanted:
            wanted = (*wanted, function.__name__)
        bindings = []
        values = []
        for name in wanted:
            value, version = versions.of_global(names, name)
            values.append((name, value))
            if value is not MISSING:
                bindings.append((name, version, value))
        return bindings, values

    def _reduce_class(self, cls: type) -> Any:
        reduced = cloudpickle._class_reduce(cls)
        if reduced is NotImplemented:
            place = importable_place(cls)
            if place is not None or not cls.__flags__ & _HEAP_TYPE:
                return _reference(place, cls)
            reduced = cloudpickle._dynamic_class_reduce(cls)
        if len(reduced) == 2:  # the type of None and the like
            return reduced
        maker, args, (attributes, _), _, _, _ = reduced
        tracker_id = args[-2]
        if self._to_parent and namespace.has_arrived(cls):
            return namespace.known_class, (tracker_id, cls.__qualname__)
        numbered = {name: (versions.of_attribute(cls, name, value), value) for name, value in attributes.items()}
        state = (numbered, self._binding_of_name(cls))
        return namespace.make_class, (tracker_id, maker, args), state, None, None, namespace.finish_class

    def _binding_of_name(self, cls: type) -> list[tuple[str, int, object]]:
        """A class that has a name in `__main__` has it in the worker too: plain pickle looks for it there."""
        names = sys.modules["__main__"].__dict__
        if self._to_parent or cls.__module__ != "__main__" or names.get(cls.__name__) is not cls:
            return []
        value, version = versions.of_global(names, cls.__name__)
        return [(cls.__name__, version, value)]


def _reduce_cell(cell: types.CellType) -> Any:
    value = contents(cell)
    if value is MISSING:
        return namespace.make_cell, ()
    return namespace.make_cell, (), (value,), None, None, namespace.fill_cell


def _reduce_module(module: types.ModuleType) -> Any:
    name = module.__name__
    if sys.modules.get(name) is module and name != "__main__":
        place = place_of(module, name)
        if place is not None and place.path is not None:
            return namespace.import_module, (name, place.path)
    return NotImplemented  # cloudpickle has a reducer for the others


def _reduce_cached(cached: Any) -> Any:
    # Its own __reduce__ gives its name, to be looked up in __main__ of the worker.
    place = importable_place(cached)
    if place is not None:
        return _reference(place, cached)
    if type(getattr(cached, "__wrapped__", None)) is not types.FunctionType:
        return NotImplemented
    return namespace.make_cached, (cached.__wrapped__, cached.cache_parameters())


def _reference(place: Place | None, obj: Any) -> Any:
    """Pickle by name; with plain pickle's own means unless the module must be loaded from a file."""
    if place is None or place.path is None:
        return NotImplemented
    return namespace.import_attribute, (place.module, obj.__qualname__, place.path)


def dumps(value: object, *, to_parent: bool = False) -> tuple[bytes, list[ReachedFunction]]:
    """Pickle *value*; also the functions that went by value.

    Raises:
        Exception: whatever the objects in it raise when they are pickled.
    """
    with io.BytesIO() as file:
        pickler = Pickler(file, to_parent=to_parent)
        pickler.dump(value)
        return file.getvalue(), pickler.reached
