"""The channel decorrelation loss of Pakdaman and Gabbouj (2024), equations (9) and (10)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lic.recipe import Scale

#: The paper's training geometry, at which the two scales agree.
PAPER_BATCH, PAPER_PATCH_PIXELS, PAPER_CHANNELS = 16, 256 * 256, 128


class _Decorrelation(torch.autograd.Function):
    """Computes L and its gradient together. With X = Fc, N x C at a position, and S the signs of X'X, L is
    the inner product of X and X S, and its gradient is 2 X S. The mean of the gradient over the batch is 0,
    like that of X, so the centring needs no gradient. The C x C products are read twice instead of five
    times. Without the diagonal, S has zeros there."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, diagonal: bool) -> Tensor:
        centred = features - features.mean(dim=0, keepdim=True)
        by_position = centred.permute(2, 3, 0, 1).flatten(0, 1)
        signs = torch.bmm(by_position.transpose(1, 2), by_position).sign_()
        if not diagonal:
            signs.diagonal(dim1=1, dim2=2).zero_()
        product = torch.bmm(by_position, signs)
        ctx.shape = features.shape[2:]
        ctx.save_for_backward(product)
        return (by_position * product).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (product,) = ctx.saved_tensors
        found: Tensor = (2 * gradient * product).unflatten(0, ctx.shape).permute(2, 3, 0, 1)
        return found, None


def decorrelation(features: Tensor, diagonal: bool = True) -> Tensor:
    """L(F) of equations (9) and (10): a scalar, for F of shape N x C x H x W.

    F is centred over the batch at each position; the loss is the plain sum, over positions and
    over all ordered channel pairs, of the absolute cross products. The paper includes the diagonal.

    Memory: the largest tensor is the H*W x C x C cross products, 4 H W C^2 bytes in float32 (16.8 MB for
    y at the paper's 16 x 16 x 128); it is freed on return.
    """
    penalty: Tensor = _Decorrelation.apply(features, diagonal)
    return penalty


def scale_factor(batch: int, patch_pixels: int, channels: int, scale: Scale) -> float:
    """Factor of the plain sum: 1 for 'paper'; for 'reference' the ratio that scales L of another batch, patch
    and channel count to the order of magnitude that it has in the paper's geometry."""
    if scale == "paper":
        return 1.0
    return PAPER_BATCH / batch * PAPER_PATCH_PIXELS / patch_pixels * (PAPER_CHANNELS / channels) ** 2
