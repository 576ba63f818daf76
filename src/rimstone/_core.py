"""Which core runs: the compiled one, or the same source as plain Python (RIMSTONE_PURE=1, or nothing was compiled).

The compiled modules lie beside their sources, and Python prefers them. To have the sources all the same, a finder that
knows nothing else stands first in line.
"""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from types import ModuleType

__all__ = ["choose_core", "core", "why_pure"]


class _SourceFinder:
    """Finds the modules of rimstone as source only."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith("rimstone."):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.origin is None or not spec.origin.endswith(tuple(EXTENSION_SUFFIXES)):
            return spec
        folder, file = os.path.split(spec.origin)
        source = os.path.join(folder, file.partition(".")[0] + ".py")
        if not os.path.exists(source):  # to return None would mean: the next finder may have it
            raise ModuleNotFoundError(f"{name} exists in the compiled core only", name=name)
        return spec_from_file_location(name, source)


def choose_core() -> None:
    """Called once, before any other module of rimstone is imported."""
    if os.environ.get("RIMSTONE_PURE", "") not in {"", "0"}:
        sys.meta_path.insert(0, _SourceFinder)


def core() -> str:
    """`compiled` or `pure`."""
    from rimstone.hub import scheduler

    return "pure" if (scheduler.__file__ or "").endswith(".py") else "compiled"


def why_pure() -> str | None:
    """Why the pure core runs, in words; None when the compiled one does."""
    if core() == "compiled":
        return None
    if _SourceFinder in sys.meta_path:
        return f"RIMSTONE_PURE={os.environ.get('RIMSTONE_PURE', '')} asks for it"
    return "rimstone was installed without a compiled core (no C compiler, or not on Linux)"
