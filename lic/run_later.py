"""Lazy import of slow third-party packages: their `__init__` runs when an attribute is first needed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any


class _Unrun(ModuleType):
    """A package that runs its `__init__`, in place, on the first access to a missing attribute."""

    __spec__: ModuleSpec

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__all__", "__path__"):
            raise AttributeError(name)  # such as __wrapped__, which tools look up on every module
        _become(self, ModuleType)  # while it runs, it may look up its own attributes
        vars(self)["__path__"] = self.__spec__.submodule_search_locations
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.__spec__.loader.exec_module(self)  # type: ignore[union-attr]
        except BaseException:
            _become(self, _Unrun)
            raise
        return getattr(self, name)


def _become(module: ModuleType, kind: type[ModuleType]) -> None:
    module.__class__ = kind


def put_in_place(
    name: str, folders: Iterable[str] | None = None, known: dict[str, Any] | None = None
) -> None:
    """Register a package, found in its parent's `folders`, without running it. It runs on access to any
    attribute not in `known`; with `known` None, its submodules can be imported without running it. Does
    nothing if the package is already imported. Raises ModuleNotFoundError."""
    if name in sys.modules:
        return
    spec = PathFinder.find_spec(name, None if folders is None else list(folders))
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = sys.modules[name] = module_from_spec(spec)
    _become(module, _Unrun)
    if known is not None:
        del vars(module)["__path__"]  # so that importing a submodule runs the package
        vars(module).update(known)
