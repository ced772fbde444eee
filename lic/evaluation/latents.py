"""Analyses one image in one model: the latent y, the correlation between its channels, and the bits of each.

Figure 4 of Pakdaman and Gabbouj (2024) shows these for a model trained with and without decorrelation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lic.evaluation.evaluate import batch_of, measures, padding_of, reconstruct
from lic.models.build import LatentTap

#: A channel whose variation relative to its largest magnitude is below this counts as constant.
_CONSTANT = 1e-6


@dataclass(frozen=True)
class Examined:
    """One image, H x W pixels, through one model.

    `decoded` is H x W x 3 uint8. `metrics` are those of lic.evaluation.evaluate.COLUMNS, without the name,
    for the whole image. `feature_map`, h x w, is the sum of all M channels of y before quantization, at the
    positions that cover the image. `correlation`, M x M, is `channel_correlation` of the same, and
    `covariance_sum` its `covariance_sum`; NaN where it was not measured.
    `channel_bits` has the bits of each of the M channels by the entropy estimate; their sum is bpp_y H W.
    """

    decoded: NDArray[np.uint8] = field(repr=False)
    metrics: dict[str, float]
    feature_map: NDArray[np.float32] = field(repr=False)
    correlation: NDArray[np.float64] = field(repr=False)
    channel_bits: NDArray[np.float64] = field(repr=False)
    covariance_sum: float = math.nan


@torch.no_grad()
def examine(model: nn.Module, pixels: NDArray[np.uint8]) -> Examined:
    """One forward pass of an image, H x W x 3 uint8, through a model in evaluation mode on the CPU.
    Raises ModelError if the model has no latent y."""
    batch = batch_of(pixels)
    with LatentTap(model) as tap:
        decoded, likelihoods = reconstruct(model, batch)
        latent = tap.take().y
    covering = _inside(latent[0].numpy(), pixels.shape[0], pixels.shape[1])
    bits = likelihoods["y"].log().sum((0, 2, 3)).double() / -math.log(2)
    return Examined(
        decoded[0].permute(1, 2, 0).to(torch.uint8).numpy(),
        measures(batch, decoded, likelihoods, True)[0],
        covering.sum(0),
        channel_correlation(covering),
        bits.numpy(),
        covariance_sum(covering),
    )


def _inside(latent: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """The part of y, M x h x w, that covers the H x W image, without positions that see only padding."""
    left, right, top, bottom = padding_of(height, width)[0]
    rows = _covering(top, height, (top + height + bottom) // latent.shape[1])
    columns = _covering(left, width, (left + width + right) // latent.shape[2])
    return latent[:, rows, columns]


def _covering(start: int, length: int, stride: int) -> slice:
    return slice(start // stride, -(-(start + length) // stride))


def channel_correlation(latent: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Pearson's correlation between the channels of a latent, M x h x w, over its h w positions: M x M.

    For a constant channel the row and column are 0, including the diagonal.
    """
    values, centred = _samples(latent)
    deviation = np.sqrt(np.square(centred).mean(1))
    alive = deviation > _CONSTANT * np.abs(values).max(1)
    scaled = np.where(alive, 1 / np.where(alive, deviation, 1), 0)[:, None] * centred
    correlation: NDArray[np.float64] = scaled @ scaled.T / values.shape[1]
    return correlation


def correlation_sum(correlation: NDArray[np.float64]) -> float:
    """The sum of absolute correlations over all ordered pairs of different channels."""
    return float(np.abs(correlation).sum() - np.abs(np.diag(correlation)).sum())


def covariance_sum(latent: NDArray[np.floating[Any]]) -> float:
    """The sum of absolute covariances over all ordered pairs of channels of a latent, M x h x w, the diagonal
    included, over its h w positions: equation (9) of Pakdaman and Gabbouj (2024) with the positions of one
    image in place of a batch. It is quadratic in the latent's scale."""
    _, centred = _samples(latent)
    return float(np.abs(centred @ centred.T).sum() / centred.shape[1])


def _samples(latent: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The values of each channel of a latent, M x h w, and the same less their mean."""
    values = latent.reshape(len(latent), -1).astype(np.float64)
    return values, values - values.mean(1, keepdims=True)
