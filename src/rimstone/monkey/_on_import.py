"""Patches a module when it is imported, so that patching does not import what the program never uses."""

import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # not at run time: importlib.abc takes longer to import than all of this package's hub
    from importlib.abc import Loader

__all__ = ["when_imported"]

Patch = Callable[[], None]


class _PatchingLoader:
    """Loads the module as its own loader does, then patches it, before anybody else sees it."""

    def __init__(self, loader: "Loader", patch: Patch) -> None:
        self._loader = loader
        self._patch = patch

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        # From here on the module is what it would have been without us.
        spec = module.__spec__
        if spec is not None:
            spec.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._patch()

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)  # get_code, get_source, ... for whoever only looks at the spec


class _Finder:
    """Stands at the head of sys.meta_path for good: a module may be reloaded, or looked for without being imported."""

    def __init__(self) -> None:
        self.patches: dict[str, Patch] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        patch = self.patches.get(fullname)
        if patch is None:
            return None
        for finder in sys.meta_path:
            spec = finder.find_spec(fullname, path, target) if finder is not self else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _PatchingLoader(spec.loader, patch)  # type: ignore[assignment]  # a loader by shape
                return spec
        return None


_finder = _Finder()


def when_imported(name: str, patch: Patch) -> None:
    """Call *patch* now if module *name* is imported, else right after it has been; and again after each reload."""
    _finder.patches[name] = patch
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    module = sys.modules.get(name)
    if module is not None and not getattr(module.__spec__, "_initializing", False):
        patch()
