"""The training criterion, equation (8): R(y) + R(z) + lambda_d (D + alpha L), D of a choice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lic.losses.msssim import ms_ssim
from lic.losses.regularizers import COVARIANCE, Regularizer, latent_penalty, regularizer_of
from lic.models.build import Latents
from lic.ranks import ALONE, Ranks
from lic.recipe import MSE, Distortion, Scale, TrainingConfig

PEAK = 255.0

#: The terms of the criterion, in the order in which training reports them.
TERMS = ("rate_y", "rate_z", "mse", "decorrelation", "alpha_L_over_D", "loss")


def rate(likelihoods: Tensor, pixels: int) -> Tensor:
    """Rate of the likelihoods in bits per pixel."""
    return torch.log(likelihoods.float()).sum() / (-math.log(2) * pixels)


@dataclass(frozen=True)
class Criterion:
    """R(y) + R(z) + lambda_d (D + alpha L), R in bits per pixel; D is `distortion`, by default the MSE on the
    0..255 scale.

    With strategy '' (alpha = 0) the loss is CompressAI's RateDistortionLoss, bit for bit with the MSE, and L
    is not computed. `regularizer` is L (lic.losses.regularizers). `lmbda` and `alpha` may be scalar tensors,
    so that all qualities and weights share compiled code. On several `ranks`, each has its part of the batch;
    the terms are those of the part, except L, which is that of the whole batch.
    """

    lmbda: float | Tensor
    alpha: float | Tensor = 0.0
    strategy: str = ""
    scale: Scale = "reference"
    regularizer: Regularizer = COVARIANCE
    distortion: Distortion = MSE
    ranks: Ranks = ALONE

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of what it returns, in the order in which training reports them."""
        return (*TERMS, "ms_ssim") if self.distortion.ms_ssim else TERMS

    @staticmethod
    def of(config: TrainingConfig, device: torch.device, ranks: Ranks = ALONE) -> Criterion:
        """The criterion of a training run, with its constants on the device; its alpha is that of the
        configuration in the unit of the distortion (lic.recipe.Distortion). Raises ModelError."""
        distortion = Distortion.of(config.distortion)
        weights = [config.lmbda, config.alpha * distortion.unit]
        lmbda, alpha = torch.tensor(weights, device=device).unbind()
        if not config.alpha:
            return Criterion(lmbda, alpha, distortion=distortion)
        regularizer = regularizer_of(config.regularizer)
        return Criterion(lmbda, alpha, config.strategy, config.scale, regularizer, distortion, ranks)

    def __call__(
        self, output: dict[str, Tensor | dict[str, Tensor]], latents: Latents, target: Tensor
    ) -> dict[str, Tensor]:
        """The `terms` by name, each a scalar; rate_z is 0 without z. `target` is N x 3 x H x W in [0, 1]."""
        batch, _, height, width = target.shape
        likelihoods, reconstruction = output["likelihoods"], output["x_hat"]
        assert isinstance(likelihoods, dict) and isinstance(reconstruction, Tensor)
        rates = {name: rate(value, batch * height * width) for name, value in likelihoods.items()}
        mse = PEAK**2 * nn.functional.mse_loss(reconstruction.float(), target)
        similarity = {}
        if self.distortion.ms_ssim:
            similarity = {"ms_ssim": ms_ssim(reconstruction.float(), target)}
        distortion = self.distortion(mse, *similarity.values())
        zero = mse.new_zeros(())
        terms = {
            "rate_y": rates["y"],
            "rate_z": rates.get("z", zero),
            "mse": mse,
            "decorrelation": zero,
            "alpha_L_over_D": zero,
            "loss": self.lmbda * distortion + sum(rates.values()),
            **similarity,
        }
        if self.strategy:
            penalty = latent_penalty(
                latents, self.strategy, height * width, self.scale, self.regularizer, self.ranks
            )
            terms["decorrelation"] = penalty
            terms["alpha_L_over_D"] = self.alpha * penalty.detach() / self.ranks.mean(distortion.detach())
            terms["loss"] = terms["loss"] + self.lmbda * self.alpha * penalty
        return terms
