"""Builds CompressAI's image models at any width, and captures their latents y and z before quantization."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from lic.models.architectures import ModelError, architecture, check_width, has_latent_width
from lic.models.compressai_parts import MODELS


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


def build(name: str, width: int, latent_width: int | None = None, seed: int = 0) -> nn.Module:
    """A new model with `width` channels N and `latent_width` latent channels M (default: N).

    The weights depend only on the arguments: torch's global generator is seeded.
    Raises ModelError for an unknown name, or a width that the architecture cannot have.
    """
    arch = architecture(name)
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


class LatentTap:
    """Captures y and z of each forward pass from the modules that compute them (g_a, h_a).

    Use as a context manager around forward passes; the model is not changed.
    """

    def __init__(self, model: nn.Module) -> None:
        self._captured: dict[str, Tensor] = {}
        self._handles = []
        for path, module in model.named_modules():
            transform = path.rpartition(".")[2]
            if transform in ("g_a", "h_a"):
                self._handles.append(module.register_forward_hook(self._hook(transform)))

    def _hook(self, transform: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            self._captured[transform] = output

        return keep

    def take(self) -> Latents:
        """Return and release the latents of the last forward pass, with their autograd graph."""
        if "g_a" not in self._captured:
            raise ModelError("the model has no analysis transform g_a, and so no latent y")
        latents = Latents(self._captured["g_a"], self._captured.get("h_a"))
        self._captured.clear()
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
def parameters_of(name: str, width: int, latent_width: int | None) -> tuple[Tensor, ...]:
    """The parameters of a model of this size, shapes without values (torch's meta device)."""
    return tuple(part.detach().to("meta") for part in build(name, width, latent_width).parameters())


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
