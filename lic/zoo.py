"""A model zoo: a folder of tuned models, one per quality, written by `python -m search.export`.

    model = lic.zoo.load("zoo/cheng2020-anchor", quality=3)
    output = model.compress(image)  # N x 3 x H x W in [0, 1], sides multiples of 64

    zoo/cheng2020-anchor/
      manifest.json   every file with its SHA-256, and a description of each model
      q1/, q2/, ...   model.safetensors (weights and entropy-coder tables) and config.json
      q1/baseline/    the same for the model trained without decorrelation (--with-baseline)

Weights are safetensors; loading never unpickles. Use the same number of threads for `compress` and
`decompress` of an image, as lic.codec.bitstream does.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lic.codec.bitstream import mark_of
from lic.errors import LictuneError
from lic.files import one_line, read_regular, shown, user_path
from lic.models.architectures import (
    ARCHITECTURES,
    MODULE_PATH,
    STRATEGIES,
    WEIGHTS,
    ModelError,
    OwnModel,
    architecture,
    is_own,
)
from lic.models.build import build
from lic.models.compressai_parts import EntropyModel
from lic.models.own import can_code
from lic.recipe import BEFORE, MOST_QUALITIES, TrainingConfig

MANIFEST, CONFIG = "manifest.json", "config.json"
_FORMAT = 1

#: Maximum size of documents and weights files in bytes, and maximum width.
_MOST_TEXT, _MOST_WEIGHTS, _MOST_CHANNELS = 1 << 24, 1 << 33, 1024

#: The role of a model: selected by the search, or trained without decorrelation.
TUNED, BASELINE = "tuned", "baseline"


class ZooError(LictuneError):
    """A zoo, or a model of it, cannot be used; the message has the folder and what to do."""


@dataclass(frozen=True)
class ModelConfig:
    """Description and provenance of a model (config.json). A baseline has alpha 0 and no strategy."""

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
    regularizer: str = TrainingConfig.regularizer
    distortion: str = TrainingConfig.distortion
    #: A model of the user's own, which `architecture` names too; `width` is then that of y.
    own: OwnModel | None = None

    @property
    def name(self) -> str:
        return f"{self.architecture} quality {self.quality}"

    @classmethod
    def read(cls, document: Any) -> ModelConfig:
        """Validate a document and return its configuration. Raises ValueError, naming the value."""
        if not isinstance(document, dict):
            raise ValueError(f"{shown(document)} does not describe a model")
        own = None if document.get("own") is None else _own(document["own"])
        names = ARCHITECTURES if own is None else (architecture(own),)
        fits: dict[str, Callable[[Any], bool]] = {
            "architecture": lambda value: isinstance(value, str) and value in names,
            "width": lambda value: _is_whole(value, 2, _MOST_CHANNELS),
            "latent_width": lambda value: value is None or _is_whole(value, 2, _MOST_CHANNELS),
            "quality": lambda value: _is_whole(value, 1, MOST_QUALITIES),
            "lmbda": _is_weight,
            "alpha": _is_weight,
            "strategy": lambda value: value in ("", *STRATEGIES),
            "scale": lambda value: value in ("paper", "reference"),
            "seed": lambda value: _is_whole(value, 0, 2**63),
            "trial": lambda value: isinstance(value, str) and len(value) <= 200,
            "regularizer": lambda value: isinstance(value, str) and len(value) <= 200,
            "distortion": lambda value: isinstance(value, str) and len(value) <= 200,
        }
        document = {**{key: BEFORE[key] for key in ("regularizer", "distortion")}, **document}
        for key, check in fits.items():
            if key not in document:
                raise ValueError(f"it lacks {key}")
            if not check(document[key]):
                raise ValueError(f"its {key} cannot be {shown(document[key])}")
        return cls(**{key: document[key] for key in fits}, own=own)

    def document(self) -> dict[str, Any]:
        """What `read` reads."""
        values = {key: value for key, value in asdict(self).items() if key != "own"}
        if self.own is not None:
            arguments, latents = json.loads(self.own.arguments), self.own.paths
            values["own"] = {"model": self.own.name, "args": arguments, "latents": latents}
        return values


def _own(document: Any) -> OwnModel:
    """The description of a model of the user's own. Raises ValueError."""
    valid = isinstance(document, dict) and document.keys() == {"model", "args", "latents"}
    if valid:
        name, arguments, latents = (document[key] for key in ("model", "args", "latents"))
        valid = isinstance(name, str) and len(name) <= 200 and is_own(name) and isinstance(arguments, dict)
        valid = valid and isinstance(latents, dict) and {"y"} == latents.keys() - {"z"}
        valid = valid and all(isinstance(p, str) and MODULE_PATH.fullmatch(p) for p in latents.values())
    if not valid:
        raise ValueError(f"its own cannot be {shown(document)}")
    return OwnModel.of(name, arguments, latents)


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_weight(value: Any) -> bool:
    """Whether a value is a finite non-negative number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


@dataclass(frozen=True)
class ZooModel:
    """A model of a zoo as its manifest lists it."""

    folder: Path
    sha256: str
    config: ModelConfig
    baseline: bool
    #: Whether a module outside of the zoo, which the description names, may be imported.
    trust_module: bool = False

    @property
    def role(self) -> str:
        return BASELINE if self.baseline else TUNED

    def load(self) -> nn.Module:
        """The model on the CPU, in evaluation mode, ready to compress and decompress if its class can. Raises
        ZooError, also if its class is in a module outside of the zoo that was not trusted."""
        path = self.folder / WEIGHTS
        try:
            content = read_regular(path, _MOST_WEIGHTS)
        except OSError as error:
            raise ZooError(f"{path} cannot be read ({error.strerror}); export the zoo again") from error
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ZooError(
                f"{path} does not match the zoo's {MANIFEST} (checksum mismatch); export the zoo again"
            )
        return model_of(content, self.config, path, self.trust_module)


def load(folder: str | Path, quality: int, baseline: bool = False, trust_module: bool = False) -> nn.Module:
    """The model of a quality level, 1 to 6, ready to compress and decompress.

    If it is of a class outside of CompressAI, the zoo names the module, and loading imports it and calls the
    class: that needs `trust_module`. Raises ZooError.
    """
    return find(folder, quality, baseline, trust_module).load()


def find(folder: str | Path, quality: int, baseline: bool = False, trust_module: bool = False) -> ZooModel:
    """The manifest entry of the model of a quality level. `trust_module` is for its `load`. Raises
    ZooError."""
    if not isinstance(quality, Integral) or isinstance(quality, bool):
        raise ZooError(f"quality is {shown(quality)}; give an integer, such as quality=3")
    models = [model for model in list_models(folder) if model.baseline == baseline]
    for model in models:
        if model.config.quality == quality:
            return replace(model, trust_module=trust_module)
    there = ", ".join(str(model.config.quality) for model in models) or "none"
    kind = "baseline" if baseline else "model"
    raise ZooError(f"the zoo {folder} has no {kind} of quality {quality}; it has {there}")


def list_models(folder: str | Path) -> list[ZooModel]:
    """Every model that the zoo's manifest lists. Raises ZooError."""
    try:
        root = Path(user_path(str(folder)))
    except ValueError as error:
        raise ZooError(str(error)) from error
    try:
        manifest = _read_document(root / MANIFEST)
    except OSError as error:
        raise ZooError(f"{root} is not a zoo: it has no {MANIFEST} ({error.strerror})") from error
    except ValueError as error:
        raise ZooError(f"{root / MANIFEST} is not readable ({error}); export the zoo again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise ZooError(f"{root / MANIFEST} is not of format {_FORMAT}, which this program reads")
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise ZooError(f"{root / MANIFEST} lacks the key 'files'")
    return [_entry(root, name, file) for name, file in files.items() if Path(name).name == WEIGHTS]


def _entry(root: Path, name: str, file: Any) -> ZooModel:
    """A model as the manifest lists it by the name of its weights. Raises ZooError."""
    path = root / name
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # too long, a loop of links, or a NUL
        inside = False
    if not inside:
        raise ZooError(f"{root / MANIFEST} lists {shown(name)}, which is outside the zoo")
    try:
        config, digest, role = ModelConfig.read(file), file.get("sha256"), file.get("role")
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(f"its sha256 cannot be {shown(digest)}")
        if role not in (TUNED, BASELINE):
            raise ValueError(f"its role cannot be {shown(role)}")
    except ValueError as error:
        raise ZooError(f"{root / MANIFEST} has an invalid description of {shown(name)} ({error})") from error
    return ZooModel(path.parent, digest, config, role == BASELINE)


def _read_document(path: Path) -> Any:
    """Read a JSON file. Raises OSError, or ValueError with a short reason."""
    content = read_regular(path, _MOST_TEXT)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # nested too deeply
        raise ValueError(one_line(error)) from error


def find_by_mark(mark: str, places: list[Path], trust_module: bool = False) -> ZooModel:
    """The model whose weights' SHA-256 begins with `mark` (hex), in these zoos or in zoos directly below
    these folders. Raises ZooError."""
    for place in places:
        for root in (place, *sorted(path.parent for path in place.glob(f"*/{MANIFEST}"))):
            if not (root / MANIFEST).is_file():
                continue
            for model in list_models(root):
                if model.sha256.startswith(mark):
                    return replace(model, trust_module=trust_module)
    looked = " or ".join(map(str, places))
    raise ZooError(f"no model {mark} in {looked}; give the zoo that encoded the file with --zoo")


def prepare(model: nn.Module) -> nn.Module:
    """Prepare a trained model for coding, in place: evaluation mode, masked weights of the context model set
    to zero and, if it can code, entropy-coder tables built. Returns the model."""
    model.eval()
    for module in model.modules():
        mask = getattr(module, "mask", None)
        if isinstance(module, nn.Conv2d) and isinstance(mask, torch.Tensor):
            module.weight.data.mul_(mask)
    if can_code(model):
        model.update(force=True)  # type: ignore[operator]
    return model


def write_model(folder: Path, model: nn.Module, config: ModelConfig) -> None:
    """Write a prepared model's weights, tables and configuration to a new folder."""
    from safetensors.torch import save

    folder.mkdir(parents=True)
    # A copy: safetensors refuses weights that a model has under two names.
    state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    (folder / WEIGHTS).write_bytes(save(state))
    document = {"format": _FORMAT, **config.document()}
    (folder / CONFIG).write_text(json.dumps(document, indent=2) + "\n")


def write_compressai(folder: Path, model: nn.Module, stem: str) -> Path:
    """Write a prepared model in CompressAI's format: STEM-<sha8>.pth.tar, a pickled state dictionary with its
    tables. Raises ModelError if CompressAI cannot rebuild the model from it."""
    state = model.state_dict()
    try:
        type(model).from_state_dict(state)  # type: ignore[attr-defined]
    except (RuntimeError, KeyError) as error:
        raise ModelError(f"CompressAI cannot rebuild this width of {stem} from its weights alone") from error
    content = io.BytesIO()  # torch.save would put a file's name into the content
    torch.save(state, content)
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{digest[:8]}.pth.tar"
    path.write_bytes(content.getvalue())
    return path


def manifest_of(root: Path, about: dict[str, Any], models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The manifest of the files below `root`: `about` at the top level, and for each model folder ('q1',
    'q1/baseline') further entries beside its configuration."""
    files: dict[str, Any] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.name != MANIFEST):
        content, name = path.read_bytes(), path.relative_to(root).as_posix()
        files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        if path.name == WEIGHTS:
            config = json.loads((path.parent / CONFIG).read_text())
            del config["format"]
            files[name] |= {**config, **models[path.parent.relative_to(root).as_posix()]}
    return {"format": _FORMAT, **about, "files": files}


def read_model(weights: Path, config: Path, trust_module: bool = False) -> tuple[nn.Module, bytes]:
    """The model from two files of a zoo, and the mark of its coded files. Raises ZooError."""
    try:
        content, known = read_regular(weights, _MOST_WEIGHTS), ModelConfig.read(_read_document(config))
    except (OSError, ValueError) as error:
        raise ZooError(f"{config} and {weights.name} are not a model of a zoo ({error})") from error
    model = model_of(content, known, weights, trust_module)
    return model, mark_of(hashlib.sha256(content).hexdigest())


def model_of(content: bytes, config: ModelConfig, path: Path, trust_module: bool = False) -> nn.Module:
    """The model from the content of a weights file. Raises ZooError, naming `path`, if it does not fit, or if
    it needs a module that is not trusted or cannot be imported."""
    from safetensors.torch import load as load_tensors

    if config.own is None:
        _check_size(content, config, path)
    elif not trust_module:
        raise ZooError(
            f"{path} needs {config.own.name}, code outside of the zoo that loading runs; if you trust both, "
            "allow it with trust_module=True, or --trust-module"
        )
    try:
        model = build(config.own or config.architecture, config.width, config.latent_width)
        model.load_state_dict(load_tensors(content))
        if can_code(model):
            _check_tables(model)
    except Exception as error:  # CompressAI does not validate state dictionaries
        if config.own is not None and isinstance(error, ModelError):
            raise ZooError(f"{path} cannot be loaded: {error}") from error
        first = one_line(error)
        raise ZooError(f"{path} does not contain {config.name} of width {config.width} ({first})") from error
    return model.eval()


def _check_size(content: bytes, config: ModelConfig, path: Path) -> None:
    """Raise ZooError if the file is too small for the width, before a model is allocated: every architecture
    has at least 100 N^2 + 50 N M weights of 4 bytes."""
    width, latent = config.width, config.latent_width or config.width
    if len(content) < 4 * (100 * width * width + 50 * width * latent):
        raise ZooError(f"{path} does not contain {config.name} of width {width} (file too small)")


def _check_tables(model: nn.Module) -> None:
    """Raise ValueError unless the entropy-coder tables are valid, since the range coder does not check them:
    cumulative counts rise from 0 to 2^16, and the scales that select them are positive and increasing."""
    for name, module in model.named_modules():
        if not isinstance(module, EntropyModel):
            continue
        tables, lengths, offsets = module._quantized_cdf, module._cdf_length, module._offset
        scales = getattr(module, "scale_table", None)
        rows = module.channels if scales is None else scales.numel()
        if tables.ndim != 2 or len(tables) != rows or lengths.shape != (rows,) or offsets.shape != (rows,):
            raise ValueError(f"{name} does not have {rows} tables")
        if scales is not None and not bool((scales.diff() > 0).all() and scales[0] > 0):
            raise ValueError(f"the scales of {name} are not increasing")
        if bool((lengths < 3).any() or (lengths > tables.shape[1]).any()):
            raise ValueError(f"{name} has a table of invalid length")
        within = torch.arange(1, tables.shape[1]) < lengths[:, None]
        last = tables.gather(1, (lengths - 1).long()[:, None])
        rising = bool((tables.diff() > 0)[within].all())
        if not rising or bool((tables[:, 0] != 0).any() or (last != 1 << 16).any()):
            raise ValueError(f"{name} has a table that does not increase from 0 to 1")
