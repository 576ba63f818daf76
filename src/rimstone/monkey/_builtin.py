"""A replacement that stays a function in the body of a class, as the functions of C do that it replaces.

`class Store: open_file = open` is a common line, and so is `_read = os.read`; a function in Python would become a
method there and get the instance as its first argument.
"""

import sys
from collections.abc import Callable
from functools import update_wrapper
from typing import Any

from rimstone.hub.scheduler import here

__all__ = ["Builtin"]


class Builtin:
    """Calls *replacement*; else it looks like *original*. Pickled by its name in *module*, where it must stand.

    Args:
        everywhere: Also in a thread that runs no tasks; else it calls *original* there.
    """

    def __init__(
        self, module: str, original: Callable[..., Any], replacement: Callable[..., Any], *, everywhere: bool = False
    ) -> None:
        update_wrapper(self, original)
        self.__module__ = module
        self._original = original
        self._replacement = replacement
        self._everywhere = everywhere

    # The defaults are no arguments: finalizers call this after the interpreter has cleared the modules.
    def __call__(self, *args: Any, _hub: Any = here.get, _ending: Any = sys.is_finalizing, **kwargs: Any) -> Any:
        if (_hub() is None and not self._everywhere) or _ending():
            return self._original(*args, **kwargs)
        return self._replacement(*args, **kwargs)

    def __reduce__(self) -> str:
        return self.__name__  # type: ignore[attr-defined, no-any-return]

    def __repr__(self) -> str:
        return repr(self._original)
