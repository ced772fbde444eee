"""The channel decorrelation loss of Pakdaman and Gabbouj (2024), equations (9) and (10)."""

from __future__ import annotations

import torch
from torch import Tensor

from lic.architectures import ModelError
from lic.models import Latents
from lic.recipe import Scale

#: The paper's training geometry, at which the two scales agree.
PAPER_BATCH, PAPER_PATCH_PIXELS, PAPER_CHANNELS = 16, 256 * 256, 128


def decorrelation(features: Tensor) -> Tensor:
    """L(F) of equations (9) and (10): a scalar, for F of shape N x C x H x W.

    F is centred over the batch at each position; the loss is the plain sum, over positions and
    over all ordered channel pairs (diagonal included), of the absolute cross products.

    Memory: the largest tensors are the H*W x C x C cross products and their absolute values,
    4 H W C^2 bytes each in float32 (16.8 MB for y at the paper's 16 x 16 x 128).
    """
    centred = features - features.mean(dim=0, keepdim=True)
    by_position = centred.permute(2, 3, 0, 1).flatten(0, 1)
    return torch.bmm(by_position.transpose(1, 2), by_position).abs().sum()


def scale_factor(batch: int, patch_pixels: int, channels: int, scale: Scale) -> float:
    """What the plain sum is multiplied by: 1 for 'paper', for 'reference' the ratio that gives
    another geometry an L of the order it has at the paper's."""
    if scale == "paper":
        return 1.0
    return PAPER_BATCH / batch * PAPER_PATCH_PIXELS / patch_pixels * (PAPER_CHANNELS / channels) ** 2


def latent_decorrelation(latents: Latents, strategy: str, patch_pixels: int, scale: Scale) -> Tensor:
    """L of the strategy's latents, scaled: 'y', 'z', or the sum of both for 'y+z'."""
    total = latents.y.new_zeros(())
    for name in strategy.split("+"):
        features = latents.y if name == "y" else latents.z
        if features is None:
            raise ModelError(f"strategy '{strategy}' needs the hyper-latent z; the model has none")
        factor = scale_factor(features.shape[0], patch_pixels, features.shape[1], scale)
        total = total + factor * decorrelation(features)
    return total
