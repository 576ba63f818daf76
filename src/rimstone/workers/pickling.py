"""Arguments, results and errors as bytes. Read `byvalue.py` for code that travels among them.

Down (pool to worker): `dump_arguments` in the submitting thread, `load_arguments` in the call's task.
Up (worker to pool): `dump_result` or `dump_error` in the call's task, `load_result` or `load_error` in the pool.
"""

import os
import pickle
import traceback
from typing import Any

from rimstone.errors import CannotTravel, RemoteError, RemoteTraceback
from rimstone.workers import culprit
from rimstone.workers.byvalue import dumps

__all__ = ["dump_arguments", "dump_error", "dump_result", "load_arguments", "load_error", "load_result"]

_PROTOCOL = 5
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})
_FEW = 16  # items of a container that are looked at


# -- down ------------------------------------------------------------------------------------------------------------


def dump_arguments(function_name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Pickle the arguments of one call.

    Args:
        function_name: For the message.
        args: Positional arguments.
        kwargs: Keyword arguments.
    Raises:
        CannotTravel: one of them does not pickle; the message names it.
    """
    if _is_simple(args, 3) and (not kwargs or _is_simple(kwargs, 3)):
        return pickle.dumps((args, kwargs), _PROTOCOL)
    try:
        return dumps((args, kwargs))[0]
    except Exception as error:  # whatever a __reduce__ or __getstate__ raises
        raise culprit.argument_error(function_name, args, kwargs) from error


def load_arguments(data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Rebuild the arguments of a call, in the worker.

    Raises:
        CannotTravel: they cannot be rebuilt in this process.
    """
    try:
        args, kwargs = pickle.loads(data)
    except Exception as error:
        raise CannotTravel(
            f"the arguments arrived in the worker process but cannot be rebuilt there: {type(error).__name__}: {error}"
        ) from error
    return args, kwargs


def _is_simple(value: Any, depth: int) -> bool:
    """True if plain pickle is surely right: small containers of basic types. For large ones the other is as fast."""
    kind = type(value)
    if kind in _ATOMS:
        return True
    if depth == 0 or kind not in (tuple, list, dict) or len(value) > _FEW:
        return False
    parts = (*value, *value.values()) if kind is dict else value
    return _ATOMS.issuperset(map(type, parts)) or all(_is_simple(part, depth - 1) for part in parts)


# -- up --------------------------------------------------------------------------------------------------------------


def dump_result(value: Any, function_name: str | None = None) -> bytes:
    """Pickle what a call returned.

    Raises:
        CannotTravel: it does not pickle; the message says what in it.
    """
    try:
        return _dump_upwards(value)
    except Exception as error:
        raise culprit.result_error(value, function_name) from error


def _dump_upwards(value: Any) -> bytes:
    try:
        data = pickle.dumps(value, _PROTOCOL)
        # Plain pickle refers to __main__ by name. Not every name of the worker's __main__ means the same in the parent.
        if b"__main__" not in data:
            return data
    except Exception:  # noqa: S110  # the other pickler has the last word
        pass
    return dumps(value, to_parent=True)[0]


def load_result(data: bytes) -> Any:
    """Rebuild what a call returned, in the parent. Call from the pool's own thread: it converts every exception.

    Raises:
        CannotTravel: it cannot be rebuilt in this process.
    """
    try:
        return pickle.loads(data)
    except BaseException as error:
        raise CannotTravel(
            f"the result arrived but cannot be rebuilt in this process: {type(error).__name__}: {_text_of(error)}"
        ) from error


# An error travels as a tuple of plain data: (pickled exception or None, type name, message, traceback, notes).


def dump_error(error: BaseException) -> bytes:
    """Pickle an exception with its traceback as text. Never raises an Exception.

    The exception itself goes along only if it survives a round trip, tried here: many classes pickle but do not
    unpickle, because their `__init__` takes other arguments than those in `args`.
    """
    kind = type(error)
    name = (
        kind.__qualname__ if kind.__module__ in {"builtins", "__main__"} else f"{kind.__module__}.{kind.__qualname__}"
    )
    fields = (_pickle_error(error), name, _text_of(error), _traceback_of(error), _notes_of(error))
    return pickle.dumps(fields, _PROTOCOL)


def load_error(data: bytes) -> BaseException:
    """Rebuild an exception; its `__cause__` is a RemoteTraceback. Never raises, whatever its class does.

    Returns:
        The exception itself, or a RemoteError that stands for it if it cannot be rebuilt in this process.
    """
    pickled, name, message, text, notes = pickle.loads(data)
    error = _unpickle_error(pickled)
    if error is None:
        error = RemoteError(name, message)
    # Past the class: a frozen dataclass, for one, refuses to be changed.
    BaseException.__setattr__(error, "__cause__", RemoteTraceback(text))
    if notes and not _notes_of(error):
        BaseException.__setattr__(error, "__notes__", notes)
    return error


def _pickle_error(error: BaseException) -> bytes | None:
    try:
        data = _dump_upwards(error)
        return data if type(pickle.loads(data)) is type(error) else None
    except BaseException:  # anything may come out of a class that was written for other purposes
        return None


def _unpickle_error(data: bytes | None) -> BaseException | None:
    if data is None:
        return None
    try:
        error = pickle.loads(data)
        return error if isinstance(error, BaseException) else None
    except BaseException:
        return None


def _text_of(error: BaseException) -> str:
    try:
        return str(str(error))  # a subclass of str may not pickle
    except BaseException as worse:
        return f"<its __str__ raised {type(worse).__name__}>"


def _notes_of(error: BaseException) -> list[str]:
    try:
        return [note for note in getattr(error, "__notes__", ()) if type(note) is str]
    except BaseException:
        return []


def _traceback_of(error: BaseException) -> str:
    """The traceback as Python prints it, chained exceptions included, without rimstone's own frames at the top."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        frames = frames.tb_next
    try:
        return "".join(traceback.TracebackException(type(error), error, frames).format())
    except BaseException as worse:
        return f"{type(error).__qualname__} (its traceback cannot be shown: {type(worse).__name__})\n"
