"""Arguments that the original refuses: it says so in its own words, not in those of what stands in its place."""

import sys
from collections.abc import Callable
from operator import index
from typing import Any

__all__ = ["or_refuse", "whole_number"]


def whole_number(value: Any, most: int = sys.maxsize) -> int:
    """*value*, a count or an offset, as C takes it; -1 for what the original refuses, or complains about itself."""
    try:
        number = index(value)
    except TypeError:
        return -1
    return number if 0 <= number <= most else -1


def or_refuse(replacement: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """*replacement*; what its signature does not fit, *original* is given, to raise its own TypeError."""

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return replacement(*args, **kwargs)
        except TypeError as error:
            # No variable: it would refer to this frame, and so to the arguments, until the collector comes.
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:  # it comes from within
                raise
        return original(*args, **kwargs)

    return call
