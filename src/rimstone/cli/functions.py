"""FILE.py:FUNCTION and MODULE:FUNCTION: from the text on the command line to the function."""

import difflib
import functools
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from rimstone.cli.problem import Problem, reason
from rimstone.cli.tracebacks import print_users_traceback, users_traceback

__all__ = ["load_function", "load_object"]

_FORMS = "give FILE.py:FUNCTION or MODULE:FUNCTION, for example fetch.py:fetch or os.path:getsize"


def load_function(given: str) -> Callable[[Any], Any]:
    """Import what *given* names, and return the function of one argument.

    Args:
        given: See `load_object`.
    Raises:
        Problem: as `load_object`; or it cannot be called with one argument.
    """
    return _checked(load_object(given), given)


def load_object(given: str) -> Any:
    """Import what *given* names, and return it, whatever it is.

    The working directory becomes importable, and so does the folder of FILE.py, as `python FILE.py` would have it.

    Args:
        given: FILE.py:FUNCTION or MODULE:FUNCTION; FUNCTION may be dotted (Class.method).
    Raises:
        Problem: there is no such file, module or function; or the import raised, in which case the user's traceback has
            been printed.
    """
    target, _, attribute = given.rpartition(":")
    if not target or not attribute:
        raise Problem(f"{given!r} names no function; {_FORMS}")
    _put_on_path(os.getcwd())
    is_file = target.endswith(".py") or os.sep in target
    module = _load_file(target, attribute) if is_file else _import_module(target)
    return _attribute_of(module, attribute, target)


def _put_on_path(folder: str, *, last: bool = False) -> None:
    """Make *folder* the first place to import from, or the last one."""
    if folder in sys.path:
        sys.path.remove(folder)
    sys.path.insert(len(sys.path) if last else 0, folder)


def _load_file(file: str, attribute: str) -> ModuleType:
    path = os.path.realpath(file)
    if not file.endswith(".py"):
        alternative = f"{file}.py:{attribute}" if os.path.isfile(f"{file}.py") else None
        raise Problem(
            f"{file!r} is not a Python file" + (f"; did you mean {alternative}?" if alternative else f"; {_FORMS}")
        )
    try:
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        raise Problem(
            f"there is no file {file!r}{_did_you_mean(os.path.basename(file), _python_files(path))}"
        ) from None
    except OSError as error:
        raise Problem(f"cannot read {file!r}: {reason(error)}") from None

    folder, stem = os.path.dirname(path), os.path.basename(path).removesuffix(".py")
    if _is_free(stem, path, folder):
        _put_on_path(folder)
        return _imported(file, lambda: importlib.import_module(stem))
    # The name belongs to another module, so the file goes under a made-up one, and its folder goes last, also if it
    # is the working directory: in front it would hide that other module from every library here and in the workers.
    _put_on_path(folder, last=True)
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    return _imported(file, lambda: _execute(f"rimstone_file_{digest}", path))


def _is_free(stem: str, path: str, folder: str) -> bool:
    """True when importing *stem* can only mean the file *path*, here and in the workers."""
    loaded = sys.modules.get(stem)
    if loaded is not None:
        return os.path.realpath(getattr(loaded, "__file__", None) or "") == path
    if "." in stem or stem in {"__init__", "__main__"} or stem in sys.builtin_module_names:
        return False
    if os.path.isfile(os.path.join(folder, stem, "__init__.py")):
        return False  # a package of that name beside the file wins over the file
    elsewhere = [entry for entry in sys.path if os.path.realpath(entry) != folder]
    try:
        spec = importlib.machinery.PathFinder.find_spec(stem, elsewhere)
    except (ImportError, ValueError):
        return False
    # No loader: a plain folder of that name, which a file always wins over.
    return spec is None or spec.loader is None or spec.origin is None


def _execute(name: str, path: str) -> ModuleType:
    """Load the file *path* as module *name*. Workers find the file through `__spec__.origin`."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded as a module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str) -> ModuleType:
    if name.startswith(".") or not all(name.split(".")):
        raise Problem(f"{name!r} is not a module name; {_FORMS}")
    return _imported(name, lambda: importlib.import_module(name))


def _imported(target: str, load: Callable[[], ModuleType]) -> ModuleType:
    try:
        return load()
    except ModuleNotFoundError as error:
        missing = error.name or ""
        is_the_target = target == missing or target.startswith(f"{missing}.")
        if is_the_target and users_traceback(error) is None:
            raise Problem(_no_module(target, missing)) from None
        print_users_traceback(error)
    except SystemExit as error:
        raise Problem(
            f"{target} called sys.exit({error.code!r}) while it was imported; "
            f"put what only a script should do under: if __name__ == '__main__':"
        ) from None
    except Exception as error:
        print_users_traceback(error)
    raise Problem(f"{target} could not be imported; its own error stands above")


def _no_module(target: str, missing: str) -> str:
    parent, _, last = missing.rpartition(".")
    places = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    if parent and places is None:
        return f"there is no module {target!r}: {parent} is a module, not a package; did you mean {parent}:{last}?"
    names = [found.name for found in pkgutil.iter_modules(places)]
    if not parent:
        names += sys.builtin_module_names
    hint = _did_you_mean(last, names)
    where = f"in package {parent}" if parent else "in the working directory or on the module search path"
    return f"there is no module {missing!r} {where}{hint}"


def _attribute_of(module: ModuleType, dotted: str, target: str) -> Any:
    found: Any = module
    name_so_far = target
    for name in dotted.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            callables = (
                [key for key, value in vars(found).items() if callable(value)] if hasattr(found, "__dict__") else []
            )
            names = [key for key in callables if not key.startswith("_")]
            own = [key for key in names if getattr(getattr(found, key), "__module__", None) == module.__name__] or names
            hint = _did_you_mean(name, names)
            has = (
                f"; it has {', '.join(own[:10])}{', ...' if len(own) > 10 else ''}" if own else "; it has no functions"
            )
            raise Problem(f"{name_so_far} has no function {name!r}{hint}{has}") from None
        name_so_far = (
            f"{name_so_far}:{name}" if found is not module and name_so_far == target else f"{name_so_far}.{name}"
        )
    return found


def _checked(fn: Any, given: str) -> Callable[[Any], Any]:
    """Refuse at once what would fail for every single input."""
    if not callable(fn):
        raise Problem(f"{given} is {_a(type(fn).__name__)}, not a function")
    plain = fn.func if isinstance(fn, functools.partial) else fn
    if inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain):
        raise Problem(
            f"{given} is an async function; rimstone runs plain functions: "
            f"write it with def and blocking calls, or wrap it in one that calls asyncio.run"
        )
    try:
        # Not the wrapped function's: a decorator may supply arguments of its own.
        signature = inspect.signature(fn, follow_wrapped=False)
    except (TypeError, ValueError):
        return fn  # type: ignore[no-any-return]  # some functions in C do not tell
    try:
        signature.bind(None)
    except TypeError:
        raise Problem(
            f"{given}{signature} cannot be called with one argument, which is what map does: one input, one call"
        ) from None
    return fn  # type: ignore[no-any-return]


def _python_files(path: str) -> list[str]:
    try:
        return [name for name in os.listdir(os.path.dirname(path)) if name.endswith(".py")]
    except OSError:
        return []


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _a(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"
