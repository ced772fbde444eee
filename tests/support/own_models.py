"""Models of a user's own, as small as possible: CompressAI's kind with other attribute names, and another."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.models import CompressionModel
from torch import Tensor, nn


def down(channels: int, out: int, steps: int) -> nn.Sequential:
    """Halves the size `steps` times."""
    sizes = [channels, *[out] * steps]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Conv2d(before, after, 5, 2, 2), nn.LeakyReLU()]
    return nn.Sequential(*layers[:-1])


def up(channels: int, out: int, steps: int) -> nn.Sequential:
    """Doubles the size `steps` times."""
    sizes = [*[channels] * steps, out]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.ConvTranspose2d(before, after, 5, 2, 2, 1), nn.LeakyReLU()]
    return nn.Sequential(*layers[:-1])


class Factorized(CompressionModel):  # type: ignore[misc]  # CompressAI has no type hints
    """A factorized prior on a latent at an eighth of the size."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.encoder, self.decoder = down(3, channels, 3), up(channels, 3, 3)
        self.prior = EntropyBottleneck(channels)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y_hat, likelihoods = self.prior(self.encoder(x))
        return {"x_hat": self.decoder(y_hat), "likelihoods": {"y": likelihoods}}

    def compress(self, x: Tensor) -> dict[str, Any]:
        y = self.encoder(x)
        return {"strings": [self.prior.compress(y)], "shape": y.shape[2:]}

    def decompress(self, strings: list[list[bytes]], shape: tuple[int, int]) -> dict[str, Tensor]:
        return {"x_hat": self.decoder(self.prior.decompress(strings[0], shape)).clamp(0, 1)}


class MeanScale(CompressionModel):  # type: ignore[misc]  # CompressAI has no type hints
    """A mean-scale hyperprior, its parts under other names."""

    def __init__(self, N: int = 8, M: int = 8) -> None:  # noqa: N803  (the field's names)
        super().__init__()
        self.transforms = nn.ModuleDict({"analysis": down(3, M, 4), "synthesis": up(M, 3, 4)})
        self.hyper = nn.ModuleDict({"analysis": down(M, N, 2), "synthesis": up(N, 2 * M, 2)})
        self.prior_z, self.prior_y = EntropyBottleneck(N), GaussianConditional(None)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.transforms["analysis"](x)
        z_hat, of_z = self.prior_z(self.hyper["analysis"](y))
        scales, means = self.hyper["synthesis"](z_hat).chunk(2, 1)
        y_hat, of_y = self.prior_y(y, scales, means=means)
        return {"x_hat": self.transforms["synthesis"](y_hat), "likelihoods": {"y": of_y, "z": of_z}}

    def compress(self, x: Tensor) -> dict[str, Any]:
        y = self.transforms["analysis"](x)
        z = self.hyper["analysis"](y)
        of_z = self.prior_z.compress(z)
        scales, means = self.hyper["synthesis"](self.prior_z.decompress(of_z, z.shape[2:])).chunk(2, 1)
        of_y = self.prior_y.compress(y, self.prior_y.build_indexes(scales), means=means)
        return {"strings": [of_y, of_z], "shape": z.shape[2:]}

    def decompress(self, strings: list[list[bytes]], shape: tuple[int, int]) -> dict[str, Tensor]:
        scales, means = self.hyper["synthesis"](self.prior_z.decompress(strings[1], shape)).chunk(2, 1)
        y_hat = self.prior_y.decompress(strings[0], self.prior_y.build_indexes(scales), means=means)
        return {"x_hat": self.transforms["synthesis"](y_hat).clamp(0, 1)}


def mean_scale(size: int) -> MeanScale:
    """A function that returns a model."""
    return MeanScale(size, size)


class Plain(nn.Module):
    """Not of CompressAI's kind: no compress, no aux_loss; a mask as a buffer, and two names for a weight."""

    gain: Tensor

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.g_a, self.g_s = down(3, channels, 4), up(channels, 3, 4)
        self.prior = EntropyBottleneck(channels)
        self.again = self.g_s[0]
        self.register_buffer("gain", torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> dict[str, Any]:
        y_hat, likelihoods = self.prior(self.g_a(x) * self.gain)
        return {"x_hat": self.g_s(y_hat), "likelihoods": {"y": likelihoods}}


class Faulty(Plain):
    """`Plain` with one fault, by name."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.h_a = {"flat": nn.Flatten(), "unused": nn.Tanh()}.get(fault, nn.Identity())
        if fault == "twice":
            self.part = nn.ModuleDict({"g_a": nn.Identity()})
        if fault == "no loss of quantiles":
            self.aux_loss = None
        if fault == "raises at once":
            raise RuntimeError("out of\npaper")

    def forward(self, x: Tensor) -> Any:
        y = self.g_a(x)
        if self.fault != "silent":
            self.h_a(y)
        if self.fault in ("detached", "no gradient"):
            y = y.detach()
        y_hat, likelihoods = self.prior(y)
        x_hat = self.g_s(y_hat)
        of = {"y": likelihoods, "z": likelihoods}
        if self.fault == "no gradient":
            return {"x_hat": x_hat.detach(), "likelihoods": {"y": likelihoods.detach()}}
        if self.fault == "whole images only" and not self.training:
            raise ValueError("needs a square image")
        return {
            "tuple": (x_hat, of),
            "cropped": {"x_hat": x_hat[..., 1:], "likelihoods": of},
            "logarithms": {"x_hat": x_hat, "likelihoods": {"y": likelihoods.log(), "z": likelihoods}},
            "other names": {"x_hat": x_hat, "likelihoods": {"latent": likelihoods}},
            "steep": {"x_hat": (x_hat - x_hat).sqrt(), "likelihoods": of},
        }.get(self.fault, {"x_hat": x_hat, "likelihoods": of})
