"""Where functions and classes that were sent by value live in a worker. Read `byvalue.py`, the sending side, with it.

Everything that comes from the parent's `__main__` shares one namespace: the `__dict__` of this process's
`sys.modules["__main__"]`, which `install_main` makes. What the parent's globals were bound to arrives as *bindings*
(name, version, value); a binding is applied only if its version is newer than the last one applied to that name. So a
global that an initializer or a call has set stays as it is, until the parent itself rebinds the name. The attributes
of classes are treated the same way.

The state below mirrors `sys.modules["__main__"]` and the classes of this process, of which there is one set per
process; that is why it is kept per process too.
"""

import functools
import importlib
import importlib.util
import os
import pickle
import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import CellType, CodeType, FunctionType, ModuleType, TracebackType
from typing import Any

from cloudpickle import cloudpickle

from rimstone._originals import RLock
from rimstone.errors import CannotTravel

__all__ = ["FunctionTable", "install_main"]


class FunctionTable:
    """The functions that this worker has been sent, by id.

    `learn` and `forget` are called by the thread that reads the wire, `get` by any thread. The parent forgets an id
    only when no call with it is under way (see `code.EncodedFunction`), so the table is as large as the number of
    functions that are alive in the parent or in flight.
    """

    def __init__(self) -> None:
        self._functions: dict[int, Callable[..., Any] | _Failure] = {}

    def learn(self, function_id: int, blob: bytes) -> None:
        """Rebuild a function, which may import its module. Never raises: an error is kept for `get`."""
        try:
            self._functions[function_id] = _rebuild(blob)
        except Exception as error:
            self._functions[function_id] = _Failure(error)
        except BaseException as error:
            # A module that calls sys.exit() must not end the worker, nor the parent when the error arrives there.
            reason = ImportError(f"a function could not be loaded in the worker process: {_one_line(error)}")
            reason.__cause__ = error
            self._functions[function_id] = _Failure(reason)

    def forget(self, ids: Iterable[int]) -> None:
        """Drop functions that no call will use any more; unknown ids do no harm."""
        for function_id in ids:
            self._functions.pop(function_id, None)

    def get(self, function_id: int) -> Callable[..., Any]:
        """The function with this id.

        Raises:
            Exception: whatever kept it from being loaded; the same for each call.
        """
        found = self._functions.get(function_id)
        if found is None:
            raise RuntimeError(f"the worker process was sent a call of function {function_id} but not the function")
        if isinstance(found, _Failure):
            raise found.error.with_traceback(found.traceback)
        return found

    def __len__(self) -> int:
        return len(self._functions)


class _Failure:
    """Why a function could not be loaded. The traceback apart, because each `raise` of an error lengthens its own."""

    __slots__ = ("error", "traceback")

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.traceback: TracebackType | None = error.__traceback__


def _rebuild(blob: bytes) -> Callable[..., Any]:
    kind, *content = pickle.loads(blob)
    if kind == "import":
        module, qualname, path = content
        function: Callable[..., Any] = import_attribute(module, qualname, path)
        return function
    name, data = content
    try:
        function = pickle.loads(data)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name}() needs a module that the worker process cannot import: {error}; {_WHERE_WORKERS_LOOK}",
            name=error.name,
            path=error.path,
        ) from error
    except Exception as error:
        raise CannotTravel(
            f"{name}() arrived in the worker process but cannot be rebuilt there: {_one_line(error)}"
        ) from error
    return function


_WHERE_WORKERS_LOOK = (
    "worker processes search the sys.path that the parent had when the pool was created; install the module, or add "
    "its folder to sys.path or PYTHONPATH before that"
)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


# -- the worker's __main__ -------------------------------------------------------------------------------------------


class _Arrivals:
    """What this process got from its parent.

    Attributes:
        names: Name in `__main__` -> version of the binding last applied.
        classes: Class that came by value -> attribute -> version last applied. A class that was created here and comes
            back is not in it, and is left alone.
        replaced_main: The module that was `__main__` before. Its code may still be running: it started the worker.
    """

    def __init__(self) -> None:
        # Reentrant: a decref inside may run a finalizer that loads something. Only dict operations happen under it.
        self.lock = RLock()
        self.names: dict[str, int] = {}
        self.classes: weakref.WeakKeyDictionary[type, dict[str, int]] = weakref.WeakKeyDictionary()
        self.replaced_main: ModuleType | None = None


_arrivals = _Arrivals()
_loading = RLock()  # one file is loaded at a time; reentrant, as a module may need another one


def install_main(argv: Sequence[str], path_of_script: str | None) -> ModuleType:
    """Put a fresh, empty `__main__` in place; functions from the parent's `__main__` will live in it.

    Its `__name__` is `"__main__"`, as in the parent: functions see the same name there as here, and classes pickle
    under the same name in both. Nothing runs because of it, for the script itself is never executed in a worker.

    Args:
        argv: What `sys.argv` was in the parent.
        path_of_script: `__main__.__file__` of the parent; None when it has none (`-c`, the REPL, a notebook).
    """
    main = ModuleType("__main__")
    main.__dict__.update(__builtins__=importlib.import_module("builtins"), __spec__=None, __loader__=None)
    if path_of_script is not None:
        main.__file__ = path_of_script
    sys.argv[:] = argv
    with _arrivals.lock:
        _arrivals.replaced_main = sys.modules.get("__main__")
        _arrivals.names.clear()
        sys.modules["__main__"] = main
    return main


def bind(bindings: Iterable[tuple[str, int, Any]]) -> None:
    """Bind names of `__main__` to what they are bound to in the parent, where that is news."""
    names = sys.modules["__main__"].__dict__
    for name, version, value in bindings:
        with _arrivals.lock:
            if version > _arrivals.names.get(name, 0):
                names[name] = value
                _arrivals.names[name] = version


# -- what unpickling calls -------------------------------------------------------------------------------------------


def import_module(name: str, path: str | None) -> ModuleType:
    """Import a module by name, or, if a path is given, load that file under this name (once)."""
    if path is None:
        return importlib.import_module(name)
    with _loading:
        loaded = sys.modules.get(name)
        if loaded is not None and os.path.realpath(getattr(loaded, "__file__", None) or "") == os.path.realpath(path):
            return loaded
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(f"{path!r} is not a Python file", name=name, path=path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            sys.modules.pop(name, None)
            raise
        return sys.modules.get(name, module)


def import_attribute(module: str, qualname: str, path: str | None) -> Any:
    """What *qualname* names in a module.

    Raises:
        ModuleNotFoundError: there is no such module in this process; the message says where it was looked for.
        AttributeError: the module has no such attribute here.
    """
    try:
        found: Any = import_module(module, path)
    except ModuleNotFoundError as error:
        if error.name == module or (error.name and module.startswith(error.name + ".")):
            what = f"the worker process cannot import module {module!r}, where {qualname} is defined"
        else:
            what = (
                f"the worker process cannot import module {module!r}, where {qualname} is defined, because of another"
            )
        raise ModuleNotFoundError(
            f"{what}: {error}; {_WHERE_WORKERS_LOOK}", name=error.name, path=error.path
        ) from error
    file = getattr(found, "__file__", None) or "built in"
    for part in qualname.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise AttributeError(
                f"module {module!r} ({file}) has no {qualname!r} in the worker process; workers import modules afresh, "
                "so define it when the module is imported, not later at run time",
                name=part,
                obj=found,
            ) from error
    return found


def make_function(
    code: CodeType,
    home: str,
    path: str | None,
    name: str,
    defaults: tuple[Any, ...] | None,
    kwdefaults: dict[str, Any] | None,
    closure: tuple[CellType, ...] | None,
) -> FunctionType:
    """Create a function whose globals are those of module *home* in this process.

    Everything needed to call it is given here rather than set later, because a function that reaches itself through
    others is bound to its name before `finish_function` runs, and then running calls may use it.
    """
    names = sys.modules["__main__"].__dict__ if home == "__main__" else import_module(home, path).__dict__
    function = FunctionType(code, names, name, defaults, closure)
    function.__kwdefaults__ = kwdefaults
    return function


def finish_function(function: FunctionType, state: tuple[dict[str, Any], dict[str, Any], list[Any], list[Any]]) -> None:
    """Give a function its attributes, and bind the globals that it reaches."""
    attributes, slots, bindings, _submodules = state  # the submodules only had to be imported
    function.__dict__.update(attributes)
    for name, value in slots.items():
        setattr(function, name, value)
    bind(bindings)


def make_cell() -> CellType:
    """Create an empty closure cell; it is filled afterwards because its content may refer to it."""
    return CellType()


def fill_cell(cell: CellType, state: tuple[Any]) -> None:
    """Set the content of a closure cell."""
    cell.cell_contents = state[0]


def make_class(tracker_id: str, maker: Callable[..., type], args: tuple[Any, ...]) -> type:
    """The class with this identity: the one that is here already, or a new one without its attributes."""
    known = find_class(tracker_id)
    if known is not None:
        return known
    made = maker(*args)
    with _arrivals.lock:
        _arrivals.classes.setdefault(made, {})
    return made


def finish_class(cls: type, state: tuple[dict[str, tuple[int, Any]], list[Any]]) -> None:
    """Set those attributes of a class that are news, and bind its name."""
    attributes, bindings = state
    applied = _arrivals.classes.get(cls)
    if applied is not None:
        news = {name: value for name, (version, value) in attributes.items() if version > applied.get(name, 0)}
        if news:
            cloudpickle._class_setstate(cls, (news, {}))
        # After the attributes: another thread that reads the versions must find the class complete.
        with _arrivals.lock:
            for name in news:
                applied[name] = max(attributes[name][0], applied.get(name, 0))
    bind(bindings)


def has_arrived(cls: type) -> bool:
    """True for a class that came by value from the parent, which therefore knows it."""
    return cls in _arrivals.classes


def find_class(tracker_id: str) -> type | None:
    """The class of this process with this identity."""
    found: type | None = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker_id)
    return found


def known_class(tracker_id: str, name: str) -> type:
    """The class that this process once sent by value.

    Raises:
        CannotTravel: it has been deleted here in the meantime.
    """
    found = find_class(tracker_id)
    if found is None:
        raise CannotTravel(
            f"a worker process sent an instance of {name}, a class that no longer exists in this process"
        )
    return found


def make_cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Callable[..., Any]:
    """Wrap a function in `functools.lru_cache`, with a cache of its own."""
    cached: Callable[..., Any] = functools.lru_cache(**parameters)(function)
    return cached
