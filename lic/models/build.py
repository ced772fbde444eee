"""Builds CompressAI's image models at any width, and models of the user's own, and captures their latents y
and z before quantization."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from lic.files import one_line
from lic.models.architectures import ModelError, OwnModel, check_width, has_latent_width, registered
from lic.models.compressai_parts import MODELS, EntropyBottleneck
from lic.models.importing import imported

#: The latents by the names of the modules that compute them in CompressAI's models.
_LATENTS = {"g_a": "y", "h_a": "z"}


@dataclass(frozen=True)
class Latents:
    """Latents before quantization: y is N x M x H/16 x W/16, z is N x N' x H/64 x W/64."""

    y: Tensor
    z: Tensor | None


def _elic_groups(latent_width: int) -> list[int]:
    """ELIC's uneven channel groups: CompressAI's if they fit, else groups in ELIC's proportions."""
    if latent_width >= 192:
        return [16, 16, 32, 64, latent_width - 128]
    first = [max(1, latent_width * share // 20) for share in (1, 1, 2, 4)]
    return [*first, latent_width - sum(first)]


def build(name: str | OwnModel, width: int, latent_width: int | None = None, seed: int = 0) -> nn.Module:
    """A new model with `width` channels N and `latent_width` latent channels M (default: N); the size of a
    user's own depends on its arguments only.

    The weights depend only on the arguments: torch's global generator is seeded.
    Raises ModelError for an unknown name, a width that the architecture cannot have, or if a user's own
    cannot be built.
    """
    if isinstance(name, OwnModel):
        return _build_own(name, seed)
    arch = registered(name)
    check_width(name, width, latent_width)
    latent = width if latent_width is None else latent_width
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"N": width}
    if has_latent_width(name):
        sizes["M"] = latent
    if arch.startswith("elic"):
        sizes["groups"] = _elic_groups(latent)
    model: nn.Module = MODELS[arch](**sizes)
    return model


def _build_own(own: OwnModel, seed: int) -> nn.Module:
    make = imported(own.name, "model")
    torch.manual_seed(seed)
    try:
        model = make(**json.loads(own.arguments))
    except Exception as error:  # a user's class can raise anything
        raise ModelError(
            f"model {own} cannot be built ({type(error).__name__}: {one_line(error)})"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {own} is a {type(model).__name__}, not a torch.nn.Module")
    return mark_own(model, own)


def mark_own(model: nn.Module, own: OwnModel) -> nn.Module:
    """Record in a model of the user's own what it is, for `own_of`. Returns the model."""
    model.__dict__["_lictune_own"] = own
    return model


def own_of(model: nn.Module) -> OwnModel | None:
    """What a model of the user's own was built from; None for CompressAI's."""
    return model.__dict__.get("_lictune_own")


def latent_paths(model: nn.Module) -> list[tuple[str, str]]:
    """The names of latents, 'y' or 'z', and the paths of the modules whose outputs they are: those given for
    a user's own, else the modules named g_a and h_a."""
    own = own_of(model)
    if own is not None and own.paths:
        return list(own.paths.items())
    named = ((path.rpartition(".")[2], path) for path, _ in model.named_modules())
    return [(_LATENTS[name], path) for name, path in named if name in _LATENTS]


def latent_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules of `latent_paths`, each with the name of its latent. Raises AttributeError if a user's own
    lacks one."""
    return [(latent, model.get_submodule(path)) for latent, path in latent_paths(model)]


def aux_loss(model: nn.Module) -> Tensor:
    """The loss of the entropy bottlenecks' quantiles: the model's own, or CompressAI's definition."""
    if hasattr(model, "aux_loss"):
        own: Tensor = model.aux_loss()  # type: ignore[operator]
        return own
    bottlenecks = [part for part in model.modules() if isinstance(part, EntropyBottleneck)]
    return torch.stack([part.loss() for part in bottlenecks]).sum()


class LatentTap:
    """Captures y and z of each forward pass from the modules that compute them (latent_modules).

    Use as a context manager around forward passes; the model is not changed.
    """

    def __init__(self, model: nn.Module) -> None:
        #: The outputs in the last forward pass, by latent.
        self.captured: dict[str, Tensor] = {}
        self._handles = [
            module.register_forward_hook(self._hook(latent)) for latent, module in latent_modules(model)
        ]

    def _hook(self, latent: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            self.captured[latent] = output

        return keep

    def take(self) -> Latents:
        """Return and release the latents of the last forward pass, with their autograd graph."""
        if "y" not in self.captured:
            raise ModelError("the model has no analysis transform g_a, and so no latent y")
        latents = Latents(self.captured["y"], self.captured.get("z"))
        self.captured.clear()
        return latents

    def __enter__(self) -> LatentTap:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()


@functools.cache
def parameters_of(name: str | OwnModel, width: int, latent_width: int | None) -> tuple[Tensor, ...]:
    """The parameters of a model of this size, shapes without values (torch's meta device)."""
    return tuple(part.detach().to("meta") for part in build(name, width, latent_width).parameters())


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
