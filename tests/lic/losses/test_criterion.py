"""The criterion against CompressAI's own."""

from __future__ import annotations

import pytest
import torch
from compressai.losses import RateDistortionLoss

from lic.losses.criterion import Criterion
from lic.losses.decorrelation import decorrelation
from lic.models.build import LatentTap, build
from lic.recipe import LAMBDAS


@pytest.mark.parametrize("name", ["hyperprior", "cheng", "bmshj2018-factorized"])
@pytest.mark.parametrize("lmbda", [LAMBDAS[1], LAMBDAS[6]])
def test_alpha_zero_is_compressais_loss_exactly(name: str, lmbda: float) -> None:
    model = build(name, 8)
    images = torch.rand(4, 3, 64, 64)
    with LatentTap(model) as tap:
        output = model(images)
        terms = Criterion(lmbda)(output, tap.take(), images)
    theirs = RateDistortionLoss(lmbda=lmbda)(output, images)
    assert torch.equal(terms["loss"], theirs["loss"])
    assert torch.equal(terms["mse"], 255**2 * theirs["mse_loss"])
    assert torch.equal(terms["rate_y"] + terms["rate_z"], theirs["bpp_loss"] + 0)


def test_terms_make_up_the_loss() -> None:
    model, images = build("hyperprior", 8), torch.rand(4, 3, 64, 64)
    criterion = Criterion(0.0067, alpha=3e-7, strategy="y+z", scale="paper")
    with LatentTap(model) as tap:
        output = model(images)
        latents = tap.take()
        terms = criterion(output, latents, images)
    assert set(terms) == {"rate_y", "rate_z", "mse", "decorrelation", "alpha_L_over_D", "loss"}
    assert latents.z is not None
    torch.testing.assert_close(terms["decorrelation"], decorrelation(latents.y) + decorrelation(latents.z))
    torch.testing.assert_close(
        terms["loss"],
        terms["rate_y"] + terms["rate_z"] + 0.0067 * (terms["mse"] + 3e-7 * terms["decorrelation"]),
    )
    torch.testing.assert_close(terms["alpha_L_over_D"], 3e-7 * terms["decorrelation"] / terms["mse"])
