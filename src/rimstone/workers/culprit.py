"""Finds what inside a function or value does not pickle, so that the error can name it. Runs only after a failure."""

import functools
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any

from rimstone.errors import CannotTravel
from rimstone.workers.byvalue import contents, dumps, global_names, importable_place

__all__ = ["argument_error", "function_error", "result_error"]

_OPEN_IT_THERE = "open it in the worker instead: inside the function, or once per process with Pool(initializer=...)"
_DEEPEST = 12

# What to say for an object found on the way: its label within the one before, and the object.
_Step = tuple[str, Any]


def function_error(function: Any, name: str) -> CannotTravel:
    """The error for a function that could not be pickled."""
    steps = _trace(function)
    if not steps:
        return CannotTravel(f"cannot send {name}() to a worker process: {_a(function)} does not pickle")
    return CannotTravel(f"cannot send {name}() to a worker process: {_say(steps)}; {_OPEN_IT_THERE}")


def argument_error(function_name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CannotTravel:
    """The error for arguments that could not be pickled."""
    labelled = [(f"argument {index}", value) for index, value in enumerate(args, 1)]
    labelled += [(f"keyword argument {name!r}", value) for name, value in kwargs.items()]
    for label, value in labelled:
        if _pickles(value):
            continue
        steps = _trace(value)
        if steps:
            reason = f"cannot send {label} of {function_name}() ({_a(value)}) to a worker process: {_say(steps)}"
        else:
            reason = f"cannot send {label} of {function_name}() to a worker process: {_a(value)} does not pickle"
        return CannotTravel(f"{reason}; {_OPEN_IT_THERE}")
    return CannotTravel(f"cannot send the arguments of {function_name}() to a worker process: they do not pickle")


def result_error(value: Any, function_name: str | None) -> CannotTravel:
    """The error for a result that could not be pickled."""
    of = f" of {function_name}()" if function_name else ""
    steps = _trace(value, to_parent=True)
    if steps:
        reason = f"the result{of} ({_a(value)}) cannot be sent back: {_say(steps)}"
    else:
        reason = f"the result{of} cannot be sent back from the worker process: {_a(value)} does not pickle"
    return CannotTravel(f"{reason}; return plain data instead")


def _trace(value: Any, *, to_parent: bool = False) -> list[_Step]:
    """The way from *value* to the innermost object that does not pickle; empty when it is *value* itself."""
    steps: list[_Step] = []
    seen = {id(value)}
    while len(steps) < _DEEPEST:
        for label, part in _parts(value):
            if id(part) not in seen and not _pickles(part, to_parent=to_parent):
                steps.append((label, part))
                seen.add(id(part))
                value = part
                break
        else:
            break
    return steps


def _pickles(value: Any, *, to_parent: bool = False) -> bool:
    try:
        dumps(value, to_parent=to_parent)
    except Exception:  # whatever a __reduce__ or __getstate__ raises
        return False
    return True


def _say(steps: list[_Step]) -> str:
    *outer, (label, culprit) = steps
    if not outer:
        return f"its {label} ({_a(culprit)}) does not pickle"
    way = ", ".join(f"its {step} ({_a(value)})" for step, value in outer)
    return f"in {way}, the {label} ({_a(culprit)}) does not pickle"


def _parts(value: Any) -> Iterator[_Step]:
    """What *value* consists of when it is pickled, as far as that can be known."""
    if isinstance(value, types.FunctionType):
        if importable_place(value) is None:
            yield from _parts_of_function(value)
    elif isinstance(value, types.MethodType):
        yield f"object that {value.__func__.__name__}() is bound to", value.__self__
        yield "function", value.__func__
    elif isinstance(value, functools.partial):
        yield "function", value.func
        yield from ((f"bound argument {index}", part) for index, part in enumerate(value.args, 1))
        yield from ((f"bound argument {name!r}", part) for name, part in value.keywords.items())
    elif isinstance(value, type):
        if importable_place(value) is None:
            yield from ((f"class attribute {name!r}", part) for name, part in list(vars(value).items()))
    elif isinstance(value, staticmethod | classmethod):
        yield "function", value.__func__
    elif isinstance(value, property):
        yield from (("getter", part) for part in (value.fget, value.fset, value.fdel) if part is not None)
    elif isinstance(value, dict):
        yield from (_of_item(key, part) for key, part in list(value.items()))
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"item {index}", part) for index, part in enumerate(list(value)))
    else:
        yield from _parts_of_instance(value)


def _parts_of_function(function: types.FunctionType) -> Iterator[_Step]:
    if function.__globals__ is sys.modules["__main__"].__dict__ or importable_place(function) is None:
        for name in global_names(function.__code__):
            if name in function.__globals__:
                yield f"global {name!r}", function.__globals__[name]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        yield f"closure variable {name!r}", contents(cell)
    for parameter in inspect.signature(function, follow_wrapped=False).parameters.values():
        if parameter.default is not parameter.empty:
            yield f"default of parameter {parameter.name!r}", parameter.default
    yield from ((f"attribute {name!r}", part) for name, part in list(function.__dict__.items()))
    yield from ((f"annotation of {name!r}", part) for name, part in list(function.__annotations__.items()))


def _parts_of_instance(value: Any) -> Iterator[_Step]:
    if "__wrapped__" in getattr(value, "__dict__", {}):
        yield "wrapped function", value.__wrapped__
        return
    kind = type(value)
    if all(getattr(kind, name) is getattr(object, name) for name in ("__reduce_ex__", "__reduce__")):
        yield from ((f"attribute {name!r}", part) for name, part in list(getattr(value, "__dict__", {}).items()))
        for owner in kind.__mro__:
            slots = owner.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else tuple(slots):
                if hasattr(value, name):
                    yield f"attribute {name!r}", getattr(value, name)
    if importable_place(kind) is None:
        yield "class", kind


def _of_item(key: Any, value: Any) -> _Step:
    try:
        return f"value under key {key!r:.60}", value
    except Exception:  # a repr of the user's
        return f"value under {_a(key)} key", value


def _a(value: Any) -> str:
    """The type of *value*, with an article."""
    kind = type(value)
    name = (
        kind.__qualname__ if kind.__module__ in {"builtins", "__main__"} else f"{kind.__module__}.{kind.__qualname__}"
    )
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
