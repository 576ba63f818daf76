"""Patches a module when it is imported, so that patching does not import what the program never uses."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Sequence

__all__ = ["when_imported"]


class _PatchingLoader(importlib.abc.Loader):
    """Loads the module as its own loader does, then patches it, before anybody else sees it."""

    def __init__(self, loader: importlib.abc.Loader, patch: Callable[[], None]) -> None:
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


class _Finder(importlib.abc.MetaPathFinder):
    """Waits at the head of sys.meta_path for one module, once."""

    def __init__(self, name: str, patch: Callable[[], None]) -> None:
        self._name = name
        self._patch = patch

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _PatchingLoader(spec.loader, self._patch)
                return spec
        return None


def when_imported(name: str, patch: Callable[[], None]) -> None:
    """Call *patch* now if module *name* is imported, else right after it has been."""
    module = sys.modules.get(name)
    if module is not None and not getattr(module.__spec__, "_initializing", False):
        patch()
    else:
        sys.meta_path.insert(0, _Finder(name, patch))
