"""Reads, checks and writes weights files, which training can start from."""

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
from lic.models.build import build, own_of
from lic.training.trainer import CheckpointError, read_checkpoint

#: Suffixes of buffer names, which are not trained: the entropy coder's tables, and constants that a model
#: creates itself and that differ between versions of CompressAI.
_BUFFERS = (
    "_quantized_cdf", "_offset", "_cdf_length", "scale_table", ".scale_bound", ".bound", ".pedestal", ".mask",
    ".target",
)  # fmt: skip

#: Minimum number of values of a tensor to store in float16; small tensors may hold values outside its range.
_LARGE = 1024

#: Maximum size of a file in bytes, and maximum width of a model whose architecture is guessed.
_MOST_BYTES, _MOST_CHANNELS = 1 << 33, 1024

#: First bytes of a file of torch.save: a zip archive or, before torch 1.6, a pickle.
_TORCH = (b"PK", b"\x80\x02")

#: Keys of the weights in checkpoints of CompressAI, this program and CompressAI-Trainer.
_INSIDE = ("state_dict", "model", "model_state_dict")

#: Prefixes that DataParallel and torch.compile add to names.
_PREFIXES = ("module.", "_orig_mod.")


def save_weights(model: nn.Module, path: Path, half: bool = False) -> None:
    """Write the parameters as safetensors; with `half`, large tensors in float16, which is precise enough as
    initial weights."""
    from safetensors.torch import save_file

    state = {
        key: (value.half() if half and value.numel() >= _LARGE else value).detach().cpu().contiguous()
        for key, value in model.named_parameters()
    }
    with atomic_io.replacing(path) as partial:
        save_file(state, partial)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read parameters by name, on the CPU, from a file of safetensors (`save_weights`, a zoo) or torch.save:
    a state dictionary, as CompressAI publishes its models, or a training checkpoint of CompressAI or this
    program. Never executes code from the file. Raises ModelError."""
    try:
        content = read_regular(path, _MOST_BYTES)
    except FileNotFoundError as error:
        raise ModelError(f"no weights at {path}") from error
    except OSError as error:
        raise ModelError(f"the weights at {path} cannot be read ({error.strerror})") from error
    found = _of_torch(content, path) if content.startswith(_TORCH) else _of_safetensors(content, path)
    weights = {_bare(key): value for key, value in found.items() if not key.endswith(_BUFFERS)}
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ModelError(f"{path} contains no weights: neither a state dictionary nor a training checkpoint")
    return weights


def _of_safetensors(content: bytes, path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a type that torch lacks
        raise ModelError(
            f"{path} is not a weights file: neither safetensors ({one_line(error)}) nor of torch.save"
        ) from error


def _of_torch(content: bytes, path: Path) -> dict[str, Any]:
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or forged file can raise anything
        first = one_line(str(error).strip().partition("\n")[0] or error)
        raise ModelError(f"{path} is not a readable weights file ({first})") from error
    if isinstance(found, dict) and {"config", "step", "model", "optimiser"} <= found.keys():
        try:
            found = read_checkpoint(path)  # verifies the checksum as well
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
    """Load a weights file into a model; names of older CompressAI versions are accepted. Raises ModelError if
    it cannot be read or does not fit the model, with the architecture that it seems to belong to."""
    weights, needed = read_weights(path), dict(model.named_parameters())
    if own_of(model) is not None:
        needed = model.state_dict()
        needed = {key: value for key, value in needed.items() if not key.endswith(_BUFFERS)}
    if needed.keys() - weights.keys():
        weights = _renamed(weights, needed)
    if wrong := _misfit(weights, needed):
        raise ModelError(
            f"the weights at {path} have another architecture or width: {wrong}; {_described(weights)}"
        )
    for key, value in weights.items():
        if not value.isfinite().all():
            raise ModelError(f"the weights at {path} are unusable: '{key}' has values that are not finite")
    # nn.Module's own loader: CompressAI's insists on the entropy-coder tables.
    nn.Module.load_state_dict(model, weights, strict=False)


def _renamed(weights: dict[str, Tensor], needed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of an older CompressAI to current names."""
    from compressai.models.utils import remap_old_keys
    from compressai.zoo.pretrained import load_pretrained

    renamed = load_pretrained(weights)
    for bottleneck in {key.removesuffix(".quantiles") for key in needed if key.endswith(".quantiles")}:
        renamed = remap_old_keys(bottleneck, renamed)
    return dict(renamed)


def _misfit(weights: dict[str, Tensor], needed: Mapping[str, Tensor]) -> str:
    """Why the weights do not fit a model; empty if they do."""
    for key, value in needed.items():
        if key in weights and weights[key].shape != value.shape:
            return f"'{key}' is {_size(weights[key])} in the file and {_size(value)} in the model"
    if lacking := [key for key in needed if key not in weights]:
        return f"'{lacking[0]}' is missing"
    if more := [key for key in weights if key not in needed]:
        return f"'{min(more)}' is not in the model"  # min: the order in a file is arbitrary
    return ""


def _size(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "one number"


def widths_of(weights: dict[str, Tensor]) -> tuple[int, int] | None:
    """Channels N and latent channels M of the model with these weights: the output channels of the first and
    the last convolution of the analysis transform g_a; None if there is none."""
    blocks: dict[int, int] = {}
    for key, value in weights.items():
        transform, number, *_ = f"{key}..".split(".")
        if transform == "g_a" and number.isdigit() and value.ndim == 4:
            blocks[int(number)] = max(blocks.get(int(number), 0), value.shape[0])
    return (blocks[min(blocks)], blocks[max(blocks)]) if blocks else None


def _described(weights: dict[str, Tensor]) -> str:
    """Describes the architecture that the weights seem to belong to."""
    widths = widths_of(weights)
    if widths is None or max(widths) > _MOST_CHANNELS:
        return "their architecture is unknown"
    size = f"width {widths[0]}" + (f" and latent width {widths[1]}" if widths[1] != widths[0] else "")
    seen = []
    for name in ARCHITECTURES:
        with contextlib.suppress(ModelError):  # the architecture cannot have these widths
            if not _misfit(weights, dict(build(name, *widths).named_parameters())):
                seen.append(name)
    return f"they seem to belong to {' or '.join(seen) or 'an unknown architecture'}, {size}"
