"""The training criterion, equation (8): R(y) + R(z) + lambda_d (D + alpha L)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lic.losses.regularizers import COVARIANCE, Regularizer, latent_penalty, regularizer_of
from lic.models.build import Latents
from lic.recipe import Scale, TrainingConfig

PEAK = 255.0

#: The terms of the criterion, in the order in which training reports them.
TERMS = ("rate_y", "rate_z", "mse", "decorrelation", "alpha_L_over_D", "loss")


def rate(likelihoods: Tensor, pixels: int) -> Tensor:
    """Rate of the likelihoods in bits per pixel."""
    return torch.log(likelihoods.float()).sum() / (-math.log(2) * pixels)


@dataclass(frozen=True)
class Criterion:
    """R(y) + R(z) + lambda_d (D + alpha L); D is the MSE on the 0..255 scale, R in bits per pixel.

    With strategy '' (alpha = 0) the loss is CompressAI's RateDistortionLoss bit for bit, and L is not
    computed. `regularizer` is L (lic.losses.regularizers). `lmbda` and `alpha` may be scalar tensors, so that
    all qualities and weights share compiled code.
    """

    lmbda: float | Tensor
    alpha: float | Tensor = 0.0
    strategy: str = ""
    scale: Scale = "reference"
    regularizer: Regularizer = COVARIANCE

    @staticmethod
    def of(config: TrainingConfig, device: torch.device) -> Criterion:
        """The criterion of a training run, with its constants on the device. Raises ModelError."""
        lmbda, alpha = torch.tensor([config.lmbda, config.alpha], device=device).unbind()
        if not config.alpha:
            return Criterion(lmbda, alpha)
        return Criterion(lmbda, alpha, config.strategy, config.scale, regularizer_of(config.regularizer))

    def __call__(
        self, output: dict[str, Tensor | dict[str, Tensor]], latents: Latents, target: Tensor
    ) -> dict[str, Tensor]:
        """`TERMS` by name, each a scalar; rate_z is 0 without z. `target` is N x 3 x H x W in [0, 1]."""
        batch, _, height, width = target.shape
        likelihoods, reconstruction = output["likelihoods"], output["x_hat"]
        assert isinstance(likelihoods, dict) and isinstance(reconstruction, Tensor)
        rates = {name: rate(value, batch * height * width) for name, value in likelihoods.items()}
        mse = PEAK**2 * nn.functional.mse_loss(reconstruction.float(), target)
        zero = mse.new_zeros(())
        terms = {
            "rate_y": rates["y"],
            "rate_z": rates.get("z", zero),
            "mse": mse,
            "decorrelation": zero,
            "alpha_L_over_D": zero,
            "loss": self.lmbda * mse + sum(rates.values()),
        }
        if self.strategy:
            penalty = latent_penalty(latents, self.strategy, height * width, self.scale, self.regularizer)
            terms["decorrelation"] = penalty
            terms["alpha_L_over_D"] = self.alpha * penalty.detach() / mse.detach()
            terms["loss"] = terms["loss"] + self.lmbda * self.alpha * penalty
        return terms
