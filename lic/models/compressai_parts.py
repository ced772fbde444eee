"""What is used of CompressAI, imported without the rest of it.

`import compressai` also runs its data sets, point clouds, transforms and zoo, and with them torch_geometric,
TorchDynamo, torchvision and pandas: seconds in every process that trains. Here its packages are put in place
without being run (lic.run_later), and then the modules that are used. Whoever uses all of CompressAI, before
or afterwards, has all of it, with the very same classes; models of a package that was not used yet are not in
CompressAI's registry.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

from lic import run_later

#: The packages in it that are run when they are needed.
_LATER = ("datasets", "losses", "models", "optimizers", "registry", "transforms", "zoo")

#: The modules that register the models of lic.models.architectures.
_MODELS = ("google", "sensetime", "waseda")


def _import_parts() -> None:
    """Import CompressAI's models and nothing else; nor scipy.stats, which only coding needs, and which scipy
    imports by itself when it is asked for it. Raises ImportError."""
    run_later.put_in_place("compressai")
    for child in _LATER:
        run_later.put_in_place(f"compressai.{child}", sys.modules["compressai"].__path__)
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
import_module("compressai.models")  # fills the registry, where all of CompressAI is imported

from compressai.ans import RansDecoder  # noqa: E402
from compressai.entropy_models import EntropyBottleneck, EntropyModel  # noqa: E402
from compressai.layers import MaskedConv2d  # noqa: E402
from compressai.ops import compute_padding  # noqa: E402
from compressai.registry import MODELS  # noqa: E402

__all__ = ["MODELS", "EntropyBottleneck", "EntropyModel", "MaskedConv2d", "RansDecoder", "compute_padding"]
