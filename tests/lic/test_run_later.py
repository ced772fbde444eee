"""CompressAI and TorchDynamo are not imported whole where that is not needed, and are whole where it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def child(code: str) -> Any:
    """What a new process prints as JSON."""
    line = [sys.executable, "-c", f"import json, sys\n{code}"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


#: All of CompressAI by its names, and whether our models are of its very classes.
WHOLE = """
import compressai, compressai.zoo
from compressai.models.google import ScaleHyperprior
from compressai.zoo.image import model_architectures
parts = {part: getattr(compressai, part) for part in sorted(compressai.__all__)}
for part in parts.values():
    hasattr(part, "nothing")  # runs it
names = {part: [name for name in dir(found) if name[0] != "_"] for part, found in parts.items()}
print(json.dumps({
    "names": names,
    "registries": [sorted(getattr(compressai.registry, n)) for n in ("MODELS", "DATASETS", "TRANSFORMS")],
    "same": [
        type(models["cheng2020-anchor"]) is compressai.models.Cheng2020Anchor,
        type(models["mbt2018"]) is model_architectures["mbt2018"],
        type(models["bmshj2018-hyperprior"]) is compressai.models.ScaleHyperprior is ScaleHyperprior,
        compressai.entropy_models.EntropyModel is lic.models.compressai_parts.EntropyModel,
        isinstance(compressai.datasets.ImageFolder, type),
    ],
}))
"""

BUILD = """
import lic.models.compressai_parts
from lic.models.architectures import ARCHITECTURES
from lic.models.build import build
models = {name: build(name, 16) for name in ARCHITECTURES}
"""

UNUSED = ("pandas", "scipy.stats", "torch_geometric", "torchvision", "torch._dynamo", "compressai.models.vbr")


def test_models_are_built_without_the_rest_of_compressai() -> None:
    imported = child(f"{BUILD}\nprint(json.dumps([name for name in {UNUSED} if name in sys.modules]))")
    assert imported == []


def test_all_of_compressai_is_there_whether_it_is_imported_afterwards_or_before() -> None:
    after, before = child(BUILD + WHOLE), child("import compressai\n" + BUILD + WHOLE)
    assert all(after["same"]) and all(before["same"])
    assert after["registries"] == before["registries"] and after["names"] == before["names"]
    assert len(after["registries"][2]) > 50


TRAIN = """
import torch
from lic.models.build import build
from lic.recipe import TrainingConfig
from lic.training.trainer import Trainer

class Crops:
    def batch(self, step):
        return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(step))

torch.set_num_threads(1)
trainer = Trainer(build("hyperprior", 8), TrainingConfig(0.01, steps_per_epoch=2, batch=2, patch=64), Crops())
loss = trainer.run_epoch()["loss"].hex()
dynamo = "torch._dynamo.eval_frame" in sys.modules
"""


def test_a_training_that_compiles_nothing_does_without_dynamo_until_something_is_compiled() -> None:
    with_it = child("import torch._dynamo\n" + TRAIN + "print(json.dumps([loss, dynamo]))")
    compiled = """
from torch._dynamo.exc import TorchDynamoException
double = torch.compile(lambda x: 2 * x, backend="eager", fullgraph=True)
print(json.dumps([loss, dynamo, double(torch.tensor(2.0)).item(), trainer.run_epoch()["loss"] > 0,
                  torch._dynamo.disable.__module__, issubclass(TorchDynamoException, RuntimeError)]))
"""
    without = child(TRAIN + compiled)
    assert with_it[1] and without[:2] == [with_it[0], False]
    assert without[2:] == [4.0, True, "torch._dynamo.decorators", True]
