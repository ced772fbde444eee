"""Weights in files: what a training can begin with, read and compared with its model, and written."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lic import atomic_io
from lic.files import one_line, read_regular
from lic.models.architectures import ARCHITECTURES, ModelError
from lic.models.build import build
from lic.training.trainer import CheckpointError, read_checkpoint

#: How the names of buffers end, none of which is trained: the entropy coder's tables, and constants that a
#: model makes itself and that other versions of CompressAI have not or have more of.
_BUFFERS = (
    "_quantized_cdf", "_offset", "_cdf_length", "scale_table", ".scale_bound", ".bound", ".pedestal", ".mask",
    ".target",
)  # fmt: skip

#: Values of a tensor that is a transform's weights; smaller ones can hold what half precision cannot.
_LARGE = 1024

#: The largest file that is read, in bytes, and the widest model whose architecture is looked for.
_MOST_BYTES, _MOST_CHANNELS = 1 << 33, 1024

#: How a file of torch.save begins: a zip archive, or, of a torch before 1.6, a pickle.
_TORCH = (b"PK", b"\x80\x02")

#: Where a training's checkpoint has the weights: CompressAI's, this program's, CompressAI-Trainer's.
_INSIDE = ("state_dict", "model", "model_state_dict")

#: What torch puts before every name: DataParallel, torch.compile.
_PREFIXES = ("module.", "_orig_mod.")


def save_weights(model: nn.Module, path: Path, half: bool = False) -> None:
    """Write the parameters as safetensors; with `half` the large in half precision: half the file, and good
    enough to begin a training with."""
    from safetensors.torch import save_file

    state = {
        key: (value.half() if half and value.numel() >= _LARGE else value).detach().cpu().contiguous()
        for key, value in model.named_parameters()
    }
    with atomic_io.replacing(path) as partial:
        save_file(state, partial)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The parameters by name, on the CPU, in a file of safetensors (`save_weights`, a zoo) or of torch.save:
    a bare state dictionary, as CompressAI publishes its models, or the checkpoint of a training, CompressAI's
    or this program's. Nothing is run that is in the file. Raises ModelError."""
    try:
        content = read_regular(path, _MOST_BYTES)
    except FileNotFoundError as error:
        raise ModelError(f"there are no weights at {path}") from error
    except OSError as error:
        raise ModelError(f"the weights at {path} cannot be read ({error.strerror})") from error
    found = _of_torch(content, path) if content.startswith(_TORCH) else _of_safetensors(content, path)
    weights = {_bare(key): value for key, value in found.items() if not key.endswith(_BUFFERS)}
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ModelError(f"{path} holds no weights: neither a state dictionary nor a training's checkpoint")
    return weights


def _of_safetensors(content: bytes, path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a type that torch has not
        raise ModelError(
            f"{path} is not a weights file: neither safetensors ({one_line(error)}) nor one of torch.save"
        ) from error


def _of_torch(content: bytes, path: Path) -> dict[str, Any]:
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or forged file can raise anything at all
        first = one_line(str(error).strip().partition("\n")[0] or error)
        raise ModelError(f"{path} is not a readable weights file ({first})") from error
    if isinstance(found, dict) and {"config", "step", "model", "optimiser"} <= found.keys():
        try:
            found = read_checkpoint(path)  # which compares the checksum as well
        except CheckpointError as error:
            raise ModelError(str(error)) from error
    if isinstance(found, dict):
        inside = [found[key] for key in _INSIDE if isinstance(found.get(key), dict)]
        found = inside[0] if inside else found
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def _bare(key: str) -> str:
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a file that `read_weights` reads, also one with the names of CompressAI's older versions. Raises
    ModelError if it cannot be read or is not of this model, with what it seems to be of."""
    weights, needed = read_weights(path), dict(model.named_parameters())
    if needed.keys() - weights.keys():
        weights = _renamed(weights, needed)
    if wrong := _misfit(weights, needed):
        raise ModelError(
            f"the weights at {path} are of another architecture or width: {wrong}; {_described(weights)}"
        )
    for key, value in weights.items():
        if not value.isfinite().all():
            raise ModelError(f"the weights at {path} are of no use: '{key}' has values that are not finite")
    # nn.Module's own loader: CompressAI's insists on the entropy-coder tables.
    nn.Module.load_state_dict(model, weights, strict=False)


def _renamed(weights: dict[str, Tensor], needed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an older CompressAI under the names that this one has for them."""
    from compressai.models.utils import remap_old_keys
    from compressai.zoo.pretrained import load_pretrained

    renamed = load_pretrained(weights)
    for bottleneck in {key.removesuffix(".quantiles") for key in needed if key.endswith(".quantiles")}:
        renamed = remap_old_keys(bottleneck, renamed)
    return dict(renamed)


def _misfit(weights: dict[str, Tensor], needed: Mapping[str, Tensor]) -> str:
    """Why the weights are not those that a model needs; empty if they are."""
    for key, value in needed.items():
        if key in weights and weights[key].shape != value.shape:
            return f"'{key}' is {_size(weights[key])} there and {_size(value)} in the model"
    if lacking := [key for key in needed if key not in weights]:
        return f"'{lacking[0]}' is not among them"
    if more := [key for key in weights if key not in needed]:
        return f"'{min(more)}' is none of the model's"  # a file's own order is that of a hash
    return ""


def _size(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "one number"


def widths_of(weights: dict[str, Tensor]) -> tuple[int, int] | None:
    """Channels N and latent channels M of the model that has these weights: those of the first and the last
    convolutions of its analysis transform g_a; None if it has none."""
    blocks: dict[int, int] = {}
    for key, value in weights.items():
        transform, number, *_ = f"{key}..".split(".")
        if transform == "g_a" and number.isdigit() and value.ndim == 4:
            blocks[int(number)] = max(blocks.get(int(number), 0), value.shape[0])
    return (blocks[min(blocks)], blocks[max(blocks)]) if blocks else None


def _described(weights: dict[str, Tensor]) -> str:
    """What weights seem to be of."""
    widths = widths_of(weights)
    if widths is None or max(widths) > _MOST_CHANNELS:
        return "they are of no architecture that is known here"
    size = f"width {widths[0]}" + (f" and latent width {widths[1]}" if widths[1] != widths[0] else "")
    seen = []
    for name in ARCHITECTURES:
        with contextlib.suppress(ModelError):  # it cannot be of these widths
            if not _misfit(weights, dict(build(name, *widths).named_parameters())):
                seen.append(name)
    return f"they seem to be of {' or '.join(seen) or 'an architecture not known here'}, {size}"
