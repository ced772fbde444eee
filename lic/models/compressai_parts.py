"""Imports the parts of CompressAI that are used, without the rest of it.

`import compressai` also imports its data sets, point clouds, transforms and zoo, and with them
torch_geometric, TorchDynamo, torchvision and pandas, which takes seconds in every training process. Here its
packages are registered for lazy import (lic.run_later), and only the modules in use are imported. All of
CompressAI can still be used, before or afterwards, with the same classes; only models of a package that is
not imported yet are missing from CompressAI's registry.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

from lic import run_later

#: Subpackages that are imported lazily.
_LATER = ("datasets", "losses", "models", "optimizers", "registry", "transforms", "zoo")

#: The modules that register the models of lic.models.architectures.
_MODELS = ("google", "sensetime", "waseda")


def _import_parts() -> None:
    """Import only CompressAI's models, and not scipy.stats, which only coding needs and which scipy imports
    on first use. Raises ImportError."""
    run_later.put_in_place("compressai")
    for child in _LATER:
        run_later.put_in_place(f"compressai.{child}", sys.modules["compressai"].__path__)
    # The registry, except that of torchvision's and torch_geometric's transforms.
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
import_module("compressai.models")  # fills the registry, where all of CompressAI is imported

from compressai.ans import RansDecoder  # noqa: E402
from compressai.entropy_models import EntropyBottleneck, EntropyModel  # noqa: E402
from compressai.layers import MaskedConv2d  # noqa: E402
from compressai.models.base import CompressionModel  # noqa: E402
from compressai.ops import compute_padding  # noqa: E402
from compressai.registry import MODELS  # noqa: E402

__all__ = [
    "MODELS",
    "CompressionModel",
    "EntropyBottleneck",
    "EntropyModel",
    "MaskedConv2d",
    "RansDecoder",
    "compute_padding",
]
