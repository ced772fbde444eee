"""What is used of CompressAI, imported without the rest of it.

`import compressai` also runs its data sets, point clouds, transforms and zoo, and with them torch_geometric,
TorchDynamo, torchvision and pandas: seconds in every process that trains. Here these subpackages are put in
place first without being run. One runs when something is asked of it that only its `__init__` has, so whoever
uses all of CompressAI, before or afterwards, has all of it, with the very same classes.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

#: The subpackages that are run when they are needed.
_LATER = ("datasets", "losses", "models", "optimizers", "registry", "transforms", "zoo")

#: The models that lic.architectures names, by the modules that register them.
_MODELS = ("google", "sensetime", "waseda")


class _RunLater(ModuleType):
    """A package whose own `__init__` runs when it is needed; modules in its folder can be imported before."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # tools ask every module for some
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        assert self.__spec__ is not None and self.__spec__.loader is not None
        self.__class__ = ModuleType  # it is run once, and may ask itself for what is not there yet
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch_geometric's, about torch.jit
                self.__spec__.loader.exec_module(self)
        except BaseException:
            self.__class__ = _RunLater
            raise
        return getattr(self, name)


def _put_in_place(name: str, folders: list[str] | None) -> ModuleType | None:
    """A package, not run, for whoever imports it; None if there is none in these folders."""
    spec = PathFinder.find_spec(name, folders)
    if spec is None:
        return None
    module = sys.modules[name] = module_from_spec(spec)
    module.__class__ = _RunLater
    return module


def _import_parts() -> None:
    """Import CompressAI's models and nothing else; nor scipy.stats, which only coding needs, and which scipy
    imports by itself when it is asked for it. Raises ImportError."""
    package = _put_in_place("compressai", None)
    if package is None:
        raise ModuleNotFoundError("No module named 'compressai'", name="compressai")
    for child in _LATER:
        _put_in_place(f"compressai.{child}", list(package.__path__))
    # Its registry, but for that of torchvision's and torch_geometric's transforms.
    registry = vars(import_module("compressai.registry.torch"))
    known = {name: registry[name] for name in registry if name.isupper() or name.startswith("register_")}
    vars(sys.modules["compressai.registry"]).update(known)
    statistics = sys.modules.setdefault("scipy.stats", ModuleType("scipy.stats"))
    try:
        for name in _MODELS:
            import_module(f"compressai.models.{name}")
    finally:
        if statistics.__spec__ is None:
            del sys.modules["scipy.stats"]


if "compressai" not in sys.modules:
    _import_parts()

from compressai.ans import RansDecoder  # noqa: E402
from compressai.entropy_models import EntropyBottleneck, EntropyModel  # noqa: E402
from compressai.layers import MaskedConv2d  # noqa: E402
from compressai.ops import compute_padding  # noqa: E402
from compressai.registry import MODELS  # noqa: E402

__all__ = ["MODELS", "EntropyBottleneck", "EntropyModel", "MaskedConv2d", "RansDecoder", "compute_padding"]
