"""The regularizers L of the latents in the loss R + lambda (D + alpha L), by name.

In all formulas F is a latent of N images, C channels and P positions. `covariance` is the paper's; each of
`off-diagonal`, `pooled` and `correlation` changes the one before it (docs/loss.md).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lic.files import one_line
from lic.losses.decorrelation import decorrelation, scale_factor
from lic.models.architectures import ModelError
from lic.models.build import Latents
from lic.models.importing import imported
from lic.ranks import ALONE, Ranks
from lic.recipe import REGULARIZERS, Scale

#: Variance below which a channel counts as constant: its correlations are 0.
_CONSTANT = 1e-8

#: VICReg: the standard deviation below which a channel costs, the term under the root, and the weights of
#: variance and covariance (Bardes et al. 2022, section 4.2).
_STANDARD_DEVIATION, _UNDER_ROOT, _VARIANCE, _COVARIANCE = 1.0, 1e-4, 25.0, 1.0


def covariance(features: Tensor) -> Tensor:
    """Equation (9) of Pakdaman and Gabbouj (2024): the sum over positions and all ordered pairs of channels,
    the diagonal included, of |sum_n F'[n, u, p] F'[n, v, p]|, F' centred over the batch at each position.

    With channels of unit variance L is about P C (N + C sqrt(2 N / pi)) if they are independent, and P C^2 N
    if they are equal. alpha L is weighed against D, some 10 to 200 squared grey levels.
    """
    return decorrelation(features)


def off_diagonal(features: Tensor) -> Tensor:
    """`covariance` without the diagonal, the variances.

    With channels of unit variance L is about P C^2 sqrt(2 N / pi) if they are independent, and P C^2 N if
    they are equal.
    """
    return decorrelation(features, diagonal=False)


def pooled(features: Tensor) -> Tensor:
    """`off_diagonal` with one covariance matrix for batch and positions: the sum over all ordered pairs of
    different channels of |sum_np F'[n, u, p] F'[n, v, p]|, F' centred over batch and positions.

    With channels of unit variance L is about C^2 sqrt(2 N P / pi) if they are independent, and P C^2 N if
    they are equal.
    """
    return _off_diagonal(_products(features)).abs().sum()


def correlation(features: Tensor) -> Tensor:
    """The sum over all ordered pairs of different channels of the squared correlation, pooled over batch and
    positions: the redundancy reduction term of Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230, equation
    1), of a single view. Does not change if a channel is scaled or shifted.

    L is about C^2 / (N P) if the channels are independent, and C^2 if they are equal. A constant channel has
    no correlation.
    """
    products = _products(features)
    inverse = products.diagonal().clamp_min(_CONSTANT * features[:, 0].numel()).rsqrt()
    return _off_diagonal(products * inverse[:, None] * inverse).square().sum()


def vicreg(features: Tensor) -> Tensor:
    """Variance and covariance terms of VICReg (Bardes et al. 2022, arXiv 2105.04906): 25 v + c, v the mean
    over channels of max(0, 1 - sqrt(Var + 1e-4)), and c the sum over pairs of different channels of the
    squared covariance, divided by C. Batch and positions are the samples.

    With channels of unit variance L is about C / (N P) if they are independent, and C if they are equal;
    up to 25 more if they have no variance: unlike the others it does not let the latents shrink.
    """
    found = _products(features) / (features[:, 0].numel() - 1)
    deviations = (found.diagonal() + _UNDER_ROOT).sqrt()
    hinge = (_STANDARD_DEVIATION - deviations).relu().mean()
    return _VARIANCE * hinge + _COVARIANCE * _off_diagonal(found).square().sum() / len(found)


def _products(features: Tensor) -> Tensor:
    """The C x C sums over batch and positions of the products of centred channels."""
    samples = features.transpose(0, 1).flatten(1)
    centred = samples - samples.mean(1, keepdim=True)
    return centred @ centred.T


def _off_diagonal(matrix: Tensor) -> Tensor:
    return matrix - matrix.diagonal().diag()


@dataclass(frozen=True)
class Regularizer:
    """A regularizer: `loss` of N x C x H x W features, and `weight` of N H W samples and C channels, which is
    the ratio of `covariance` to this loss for equal channels of unit variance. With it alpha keeps its order
    of magnitude in the scale 'reference'. Without it, the loss is used as it is in both scales."""

    loss: Callable[[Tensor], Tensor]
    weight: Callable[[int, int], float] | None = None

    def factor(self, features: Tensor, patch_pixels: int, scale: Scale) -> float:
        """The factor of the loss in a scale."""
        batch, channels, height, width = features.shape
        if self.weight is None or scale == "paper":
            return 1.0
        return scale_factor(batch, patch_pixels, channels, scale) * self.weight(
            batch * height * width, channels
        )


COVARIANCE = Regularizer(covariance, lambda _samples, _channels: 1.0)

_BY_NAME = {
    "covariance": COVARIANCE,
    "off-diagonal": Regularizer(off_diagonal, lambda _samples, _channels: 1.0),
    "pooled": Regularizer(pooled, lambda _samples, _channels: 1.0),
    "correlation": Regularizer(correlation, lambda samples, _channels: float(samples)),
    "vicreg": Regularizer(vicreg, lambda samples, channels: float(samples * channels)),
}
assert _BY_NAME.keys() == REGULARIZERS.keys()


@functools.cache
def regularizer_of(name: str) -> Regularizer:
    """The regularizer of this name, or the function `MODULE:FUNCTION`. Raises ModelError."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    if ":" not in name:
        raise ModelError(f"unknown regularizer {name}; choose from {', '.join(_BY_NAME)}, or MODULE:FUNCTION")
    return Regularizer(imported(name, "regularizer"))


def check_regularizer(name: str) -> None:
    """Call a regularizer on small latents like y and z. Raises ModelError unless it returns a finite scalar
    with a gradient."""
    penalty = regularizer_of(name).loss
    for side in (4, 1):
        features = torch.randn(4, 8, side, side, generator=torch.Generator().manual_seed(0))
        features.requires_grad_()
        wrong = _fault(penalty, features)
        if wrong:
            size = "x".join(map(str, features.shape))
            raise ModelError(f"regularizer {name} cannot be used: for {size} latents it {wrong}")


def _fault(penalty: Callable[[Tensor], Tensor], features: Tensor) -> str:
    """What is wrong with the result of a penalty; empty if nothing."""
    try:
        found = penalty(features)
        if not isinstance(found, Tensor):
            return f"returns a {type(found).__name__}, not a scalar tensor"
        if found.ndim:
            return f"returns a tensor of shape {tuple(found.shape)}, not a scalar"
        if not found.isfinite():
            return f"returns {found.item()}, not a finite number"
        gradient = torch.autograd.grad(found, features, allow_unused=True)[0] if found.requires_grad else None
    except Exception as error:  # a user's function can raise anything
        return f"fails ({type(error).__name__}: {one_line(error)})"
    if gradient is None:
        return "returns a number that has no gradient in the latents"
    return "" if gradient.isfinite().all() else "has a gradient that is not finite"


def latent_penalty(
    latents: Latents,
    strategy: str,
    patch_pixels: int,
    scale: Scale,
    regularizer: Regularizer = COVARIANCE,
    ranks: Ranks = ALONE,
) -> Tensor:
    """L of the strategy's latents, scaled: 'y', 'z', or the sum of both for 'y+z'. On several ranks, of the
    latents of all."""
    total = latents.y.new_zeros(())
    for name in strategy.split("+"):
        features = latents.y if name == "y" else latents.z
        if features is None:
            raise ModelError(f"strategy '{strategy}' needs the hyper-latent z, which the model lacks")
        features = ranks.gather(features)
        factor = regularizer.factor(features, patch_pixels, scale)
        total = total + factor * regularizer.loss(features)
    return total
