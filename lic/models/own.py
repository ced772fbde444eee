"""Checks a model of the user's own on small images, before anything is trained."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

import torch
from torch import Tensor, nn

from lic.files import one_line
from lic.models.architectures import ModelError, OwnModel
from lic.models.build import LatentTap, aux_loss, build, latent_paths, mark_own
from lic.models.compressai_parts import CompressionModel

#: The images of the check, N x 3 x H x W: every multiple of 64 must be a possible side.
_TRAINED, _EVALUATED = (2, 3, 64, 64), (1, 3, 64, 128)

#: Minimum and maximum number of channels of y.
_CHANNELS = 2, 1024

#: Largest likelihood: 1, with some room for rounding.
_MOST_LIKELY = 1.001


@dataclasses.dataclass(frozen=True)
class Checked:
    """What the check found: the model with the paths of its latents, and the number of channels of y."""

    own: OwnModel
    channels: int


class _FaultError(Exception):
    """What is wrong with a model: the end of a sentence that begins with 'it'."""


def can_code(model: nn.Module) -> bool:
    """Whether a model codes real bitstreams through CompressAI's interface."""
    codes = all(callable(getattr(model, name, None)) for name in ("compress", "decompress"))
    return codes and isinstance(model, CompressionModel)


@functools.cache
def check_own(own: OwnModel) -> Checked:
    """Build a user's own model, and run a training step without update and an evaluation on small images.
    Raises ModelError, in one sentence, if the model cannot be searched."""
    model = build(own, 0)
    try:
        paths = _paths(model, own)
        found = dataclasses.replace(own, latents=json.dumps(paths, sort_keys=True))
        channels = _check_training(mark_own(model, found).train(), paths)
        _check_evaluation(model.eval())
    except _FaultError as fault:
        raise ModelError(f"model {own.name} cannot be used: it {fault}") from fault.__cause__
    return Checked(found, channels)


def _paths(model: nn.Module, own: OwnModel) -> dict[str, str]:
    """The paths of the modules whose outputs are latents, by latent."""
    modules = dict(model.named_modules())
    if own.paths:
        for latent, path in own.paths.items():
            if path not in modules:
                known = ", ".join(name for name, _ in model.named_children())
                raise _FaultError(f"has no module {path}, which --latents names for {latent}; it has {known}")
        return own.paths
    found: dict[str, str] = {}
    for latent, path in latent_paths(model):
        if latent in found:
            both = f"{found[latent]} and {path}"
            raise _FaultError(f"has several modules that may compute {latent} ({both}); give --latents")
        found[latent] = path
    if "y" not in found:
        raise _FaultError(
            "has no module g_a; name the modules whose outputs are the latents with "
            "--latents y=PATH, or y=PATH,z=PATH"
        )
    return found


def _check_training(model: nn.Module, paths: dict[str, str]) -> int:
    """Check losses and gradients; returns the number of channels of y."""
    images = torch.rand(_TRAINED, generator=torch.Generator().manual_seed(0))
    with LatentTap(model) as tap:
        output = _run(model, images)
        captured = tap.captured
    for latent, path in paths.items():
        _check_latent(latent, path, captured.get(latent))
    _check_output(output, images)
    rate = sum(-likelihoods.log2().sum() for likelihoods in output["likelihoods"].values())
    loss = 255**2 * nn.functional.mse_loss(output["x_hat"], images) + rate / images[:, 0].numel()
    weights = [part for part in model.parameters() if part.requires_grad]
    if not loss.requires_grad or not weights:
        raise _FaultError("returns no gradient: its loss does not depend on a parameter")
    latents = [captured[latent] for latent in paths]
    gradients = _attempt("fails in the backward pass", torch.autograd.grad, loss, [*latents, *weights],
                         allow_unused=True)  # fmt: skip
    for (latent, path), gradient in zip(paths.items(), gradients, strict=False):
        if gradient is None:
            raise _FaultError(f"has no gradient in {latent}, the output of {path}: the loss does not use it")
    if not all(gradient.isfinite().all() for gradient in gradients if gradient is not None):
        raise _FaultError("has a gradient that is not finite")
    _check_aux_loss(model)
    return int(captured["y"].shape[1])


def _check_latent(latent: str, path: str, value: Any) -> None:
    where = f"{latent}, the output of {path},"
    if value is None:
        raise _FaultError(f"does not call {path}, which should compute {latent}")
    if not isinstance(value, Tensor):
        raise _FaultError(f"has as {where} a {type(value).__name__}, not a tensor")
    low, high = _CHANNELS
    if value.ndim != 4 or len(value) != _TRAINED[0] or not low <= value.shape[1] <= high:
        raise _FaultError(
            f"has as {where} a tensor of shape {_size(value)} for {_TRAINED[0]} images; latents are N x C x "
            f"H x W with {low} to {high} channels C"
        )


def _check_output(output: Any, images: Tensor) -> None:
    """Check what forward returns: {'x_hat': images, 'likelihoods': {'y': ..., 'z': ...}}."""
    if not isinstance(output, dict) or not {"x_hat", "likelihoods"} <= output.keys():
        keys = f" with {', '.join(map(str, output))}" if isinstance(output, dict) else ""
        raise _FaultError(
            f"returns a {type(output).__name__}{keys} from forward, not a dict with x_hat and likelihoods"
        )
    decoded, likelihoods = output["x_hat"], output["likelihoods"]
    if not isinstance(decoded, Tensor) or decoded.shape != images.shape:
        what = _size(decoded) if isinstance(decoded, Tensor) else type(decoded).__name__
        raise _FaultError(f"returns as x_hat {what} for {_size(images)} images")
    if not isinstance(likelihoods, dict) or {"y"} != likelihoods.keys() - {"z"}:
        keys = ", ".join(map(str, likelihoods)) if isinstance(likelihoods, dict) else "no dict"
        raise _FaultError(f"returns as likelihoods {keys}; they must be a dict with y, or y and z")
    for name, value in likelihoods.items():
        if not isinstance(value, Tensor) or value.ndim != 4 or len(value) != len(images):
            what = _size(value) if isinstance(value, Tensor) else type(value).__name__
            raise _FaultError(f"returns as likelihoods of {name} {what}; they must be N x C x H x W")
        if not ((value > 0) & (value <= _MOST_LIKELY)).all():
            raise _FaultError(f"returns likelihoods of {name} outside (0, 1]")
    if not decoded.isfinite().all():
        raise _FaultError("returns an x_hat that is not finite")


def _check_aux_loss(model: nn.Module) -> None:
    """Check that the quantiles, if there are any, have a loss."""
    quantiles = [part for name, part in model.named_parameters() if name.endswith("quantiles")]
    if not quantiles:
        return
    loss = _attempt("has parameters named quantiles, but aux_loss fails", aux_loss, model)
    if not isinstance(loss, Tensor) or loss.ndim or not loss.isfinite() or not loss.requires_grad:
        raise _FaultError("has an aux_loss that is not a finite scalar tensor with a gradient")


@torch.no_grad()
def _check_evaluation(model: nn.Module) -> None:
    images = torch.rand(_EVALUATED, generator=torch.Generator().manual_seed(1))
    _check_output(_run(model, images), images)


def _run(model: nn.Module, images: Tensor) -> Any:
    kind = "training" if model.training else "evaluation"
    return _attempt(f"fails for {_size(images)} images in {kind}", model, images)


def _attempt(what: str, work: Any, *inputs: Any, **options: Any) -> Any:
    """The result of a call of the user's code. Raises _FaultError."""
    try:
        return work(*inputs, **options)
    except Exception as error:  # a user's model can raise anything
        raise _FaultError(f"{what} ({type(error).__name__}: {one_line(error)})") from error


def _size(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a scalar"
