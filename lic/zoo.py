"""A folder of tuned models, one per rate: written by `python -m search.export`, loaded with one call.

    model = lic.zoo.load("zoo/cheng2020-anchor", quality=3)
    output = model.compress(image)  # N x 3 x H x W in [0, 1], sides multiples of 64

    zoo/cheng2020-anchor/
      manifest.json   every file with its SHA-256, and what each model is
      q1/ .. q6/      model.safetensors (weights and entropy-coder tables) and config.json
      q1/baseline/    the same for the model trained without decorrelation, if it was asked for

Weights are safetensors: nothing here unpickles. For `compress` and `decompress` of the same image use one
number of threads (lic.bitstream does).
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lic.architectures import ModelError
from lic.bitstream import mark_of
from lic.models import build

MANIFEST, WEIGHTS, CONFIG = "manifest.json", "model.safetensors", "config.json"
_FORMAT = 1

#: The role of a model: of the search's choice, or trained without decorrelation.
TUNED, BASELINE = "tuned", "baseline"


class ZooError(ValueError):
    """A zoo, or a model of it, that cannot be used; the message names the folder and the fix."""


@dataclass(frozen=True)
class ModelConfig:
    """What a model is and how it came about; config.json. `alpha` 0, no strategy: a baseline."""

    architecture: str
    width: int
    latent_width: int | None
    quality: int
    lmbda: float
    alpha: float
    strategy: str
    scale: str
    seed: int
    trial: str

    @property
    def name(self) -> str:
        return f"{self.architecture} quality {self.quality}"


@dataclass(frozen=True)
class ZooModel:
    """A model of a zoo as its manifest lists it."""

    folder: Path
    sha256: str
    config: ModelConfig
    baseline: bool

    @property
    def role(self) -> str:
        return BASELINE if self.baseline else TUNED

    def load(self) -> nn.Module:
        """The model on the CPU, in evaluation mode, ready to compress and decompress. Raises ZooError."""
        path = self.folder / WEIGHTS
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ZooError(f"{path} cannot be read ({error.strerror}); export the zoo again") from error
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ZooError(f"{path} is not the file that the zoo's {MANIFEST} lists (its checksum differs)")
        return model_of(content, self.config, path)


def load(folder: str | Path, quality: int, baseline: bool = False) -> nn.Module:
    """The model of a rate (quality 1 to 6), ready to compress and decompress. Raises ZooError."""
    return find(folder, quality, baseline).load()


def find(folder: str | Path, quality: int, baseline: bool = False) -> ZooModel:
    """The model of a rate as the manifest lists it. Raises ZooError."""
    models = [model for model in list_models(folder) if model.baseline == baseline]
    for model in models:
        if model.config.quality == quality:
            return model
    there = ", ".join(str(model.config.quality) for model in models) or "none"
    kind = "baseline" if baseline else "model"
    raise ZooError(f"the zoo {folder} has no {kind} of quality {quality}; it has {there}")


def list_models(folder: str | Path) -> list[ZooModel]:
    """Every model that the zoo's manifest lists. Raises ZooError."""
    root = Path(folder)
    try:
        manifest = json.loads((root / MANIFEST).read_text())
    except OSError as error:
        raise ZooError(f"{root} is not a zoo: it has no {MANIFEST} ({error.strerror})") from error
    except ValueError as error:
        raise ZooError(f"{root / MANIFEST} is not readable ({error}); export the zoo again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise ZooError(f"{root / MANIFEST} is not of format {_FORMAT}, which this program reads")
    found = []
    try:
        for name, file in manifest["files"].items():
            path = root / name
            if path.name != WEIGHTS:
                continue
            if not path.resolve().is_relative_to(root.resolve()):
                raise ZooError(f"{root / MANIFEST} lists {name}, which lies outside the zoo")
            config = ModelConfig(**{key: file[key] for key in ModelConfig.__dataclass_fields__})
            found.append(ZooModel(path.parent, str(file["sha256"]), config, file["role"] == BASELINE))
    except (AttributeError, KeyError, TypeError) as error:
        raise ZooError(f"{root / MANIFEST} lacks what a zoo's needs ({error})") from error
    return found


def find_by_mark(mark: str, places: list[Path]) -> ZooModel:
    """The model whose weights' SHA-256 begins with `mark` (hex), in these zoos or zoos right below these
    folders. Raises ZooError."""
    for place in places:
        for root in (place, *sorted(path.parent for path in place.glob(f"*/{MANIFEST}"))):
            if not (root / MANIFEST).is_file():
                continue
            for model in list_models(root):
                if model.sha256.startswith(mark):
                    return model
    looked = " or ".join(map(str, places))
    raise ZooError(f"no model {mark} is in {looked}; name the zoo it was encoded with by --zoo")


def prepare(model: nn.Module) -> nn.Module:
    """Make a trained model ready to code: evaluation mode, entropy-coder tables built, and the weights that
    the context model's mask hides set to the zero that they count as. Changes and returns the model."""
    model.eval()
    for module in model.modules():
        mask = getattr(module, "mask", None)
        if isinstance(module, nn.Conv2d) and isinstance(mask, torch.Tensor):
            module.weight.data.mul_(mask)
    model.update(force=True)  # type: ignore[operator]
    return model


def write_model(folder: Path, model: nn.Module, config: ModelConfig) -> None:
    """Write a prepared model's weights, tables and configuration to a new folder."""
    from safetensors.torch import save

    folder.mkdir(parents=True)
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    (folder / WEIGHTS).write_bytes(save(state))
    document = {"format": _FORMAT, **asdict(config)}
    (folder / CONFIG).write_text(json.dumps(document, indent=2) + "\n")


def write_compressai(folder: Path, model: nn.Module, stem: str) -> Path:
    """Write a prepared model as CompressAI publishes its own: STEM-<sha8>.pth.tar, a pickled state
    dictionary with its tables. Raises ModelError if CompressAI could not rebuild the model from it."""
    state = model.state_dict()
    try:
        type(model).from_state_dict(state)  # type: ignore[attr-defined]
    except (RuntimeError, KeyError) as error:
        raise ModelError(f"CompressAI cannot rebuild this width of {stem} from its weights alone") from error
    content = io.BytesIO()  # not the file itself: its name would become part of the bytes
    torch.save(state, content)
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{digest[:8]}.pth.tar"
    path.write_bytes(content.getvalue())
    return path


def manifest_of(root: Path, about: dict[str, Any], models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The manifest of the files below `root`: `about` on top, and per model folder ('q1', 'q1/baseline')
    what is said of its weights besides their configuration."""
    files: dict[str, Any] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.name != MANIFEST):
        content, name = path.read_bytes(), path.relative_to(root).as_posix()
        files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        if path.name == WEIGHTS:
            config = json.loads((path.parent / CONFIG).read_text())
            del config["format"]
            files[name] |= {**config, **models[path.parent.relative_to(root).as_posix()]}
    return {"format": _FORMAT, **about, "files": files}


def read_model(weights: Path, config: Path) -> tuple[nn.Module, bytes]:
    """The model of two files of a zoo, and the mark that coded files bear. Raises ZooError."""
    try:
        content, document = weights.read_bytes(), json.loads(config.read_text())
        known = ModelConfig(**{key: document[key] for key in ModelConfig.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ZooError(f"{config} and {weights.name} are not a model of a zoo ({error})") from error
    return model_of(content, known, weights), mark_of(hashlib.sha256(content).hexdigest())


def model_of(content: bytes, config: ModelConfig, path: Path) -> nn.Module:
    """The model of a weights file. Raises ZooError, naming `path`, if the two do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load as load_tensors

    try:
        model = build(config.architecture, config.width, config.latent_width)
        model.load_state_dict(load_tensors(content))
    except (SafetensorError, RuntimeError, KeyError, ModelError) as error:
        first = str(error).splitlines()[0]
        raise ZooError(f"{path} does not hold {config.name} of width {config.width} ({first})") from error
    return model.eval()
