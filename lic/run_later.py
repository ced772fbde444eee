"""Packages of others that are slow to import, put in place unrun: their `__init__` runs when it is needed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any


class _Unrun(ModuleType):
    """A package that runs its `__init__`, in place, when something is asked of it that is not there yet."""

    __spec__: ModuleSpec

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__all__", "__path__"):
            raise AttributeError(name)  # what tools ask of every module, such as __wrapped__
        _become(self, ModuleType)  # while it runs, it may ask itself for what is not there yet
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
    """Make a package known to Python without running it, found in its parent's folders. It runs when anything
    but `known` is asked of it; with None, the modules in its folder can also be imported before. Nothing is
    done if it was imported before. Raises ModuleNotFoundError."""
    if name in sys.modules:
        return
    spec = PathFinder.find_spec(name, None if folders is None else list(folders))
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = sys.modules[name] = module_from_spec(spec)
    _become(module, _Unrun)
    if known is not None:
        del vars(module)["__path__"]  # importing a module in its folder asks for it
        vars(module).update(known)
