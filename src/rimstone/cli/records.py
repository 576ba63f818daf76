r"""One line in, one JSON object out: the text forms of inputs, values and errors.

Output is UTF-8 and strict JSON. Bytes of an input that are not UTF-8 reach the function as lone surrogates
(`surrogateescape`: `text.encode("utf-8", "surrogateescape")` gives the bytes back) and come out as the escapes
\udc80 to \udcff. NaN and Infinity have no JSON form, neither in inputs nor in values.
"""

import json
import re
from typing import Any, NoReturn

from rimstone.errors import RemoteError

__all__ = ["error_record", "parse_json_line", "text_as_json", "value_record"]

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
text_as_json = json.JSONEncoder(ensure_ascii=False).encode


def parse_json_line(text: str, number: int) -> Any:
    """The value that line *number* holds.

    Raises:
        ValueError: the line is not JSON; the message names the line.
    """
    try:
        return _decode(text)
    except json.JSONDecodeError as error:
        what = "the line is empty" if not text.strip() else f"{error.msg} at column {error.colno}"
        raise ValueError(f"line {number} is not JSON: {what}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {number} is not JSON that can be read: {error}") from None


def value_record(input_json: str, value: Any) -> tuple[bytes, bool]:
    """The output line for a call that returned, and whether its value has a JSON form.

    Args:
        input_json: The input, already JSON.
        value: What the call returned. Without a JSON form it becomes the error of this input.
    """
    try:
        value_json = _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        message = (
            f"the function returned {_shortened(value)}, which has no JSON form ({error}); return None, booleans, "
            f"finite numbers, text, and lists and dictionaries of these"
        )
        return _error_line(input_json, type(error).__name__, message), False
    return _line(f'{{"input": {input_json}, "value": {value_json}}}\n'), True


def error_record(input_json: str, error: BaseException) -> bytes:
    """The output line for a call that raised *error*."""
    if isinstance(error, RemoteError):
        return _error_line(input_json, error.type_name.removeprefix("builtins."), error.message)
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        message = str(error)
    except Exception as failure:
        message = f"(its message cannot be shown: {type(failure).__name__})"
    return _error_line(input_json, name, message)


def _error_line(input_json: str, kind: str, message: str) -> bytes:
    return _line(f'{{"input": {input_json}, "error": {text_as_json({"type": kind, "message": message})}}}\n')


def _line(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Surrogates stand inside JSON strings only, where their escapes mean the same.
        return _LONE_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()


def _shortened(value: Any) -> str:
    kind = type(value).__name__
    try:
        shown = repr(value)
    except Exception:
        return kind
    return f"{kind} {shown}" if len(shown) <= 80 else f"{kind} {shown[:77]}..."


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not in the JSON standard")


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode
