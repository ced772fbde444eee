"""The criterion against CompressAI's own."""

from __future__ import annotations

import pytest
import torch
from compressai.losses import RateDistortionLoss

from lic.losses.criterion import Criterion
from lic.losses.decorrelation import decorrelation
from lic.models.build import LatentTap, build
from lic.recipe import LAMBDAS, LAMBDAS_MS_SSIM, TrainingConfig


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


@pytest.mark.parametrize("name", ["hyperprior", "bmshj2018-factorized"])
@pytest.mark.parametrize("lmbda", [LAMBDAS_MS_SSIM[1], LAMBDAS_MS_SSIM[6]])
def test_ms_ssim_is_compressais_loss(name: str, lmbda: float) -> None:
    """Of a model that has learnt nothing, and of a good reconstruction."""
    model, images = build(name, 8), torch.rand(2, 3, 192, 256)
    criterion = Criterion.of(TrainingConfig(lmbda=lmbda, distortion="ms-ssim"), torch.device("cpu"))
    with LatentTap(model) as tap:
        output = model(images)
        latents = tap.take()
    for reconstruction in (output["x_hat"], images + 0.05 * torch.randn(images.shape)):
        output["x_hat"] = reconstruction
        terms = criterion(output, latents, images)
        theirs = RateDistortionLoss(lmbda=lmbda, metric="ms-ssim")(output, images)
        assert tuple(terms) == criterion.terms
        torch.testing.assert_close(terms["ms_ssim"], theirs["ms_ssim_loss"], rtol=0, atol=2e-6)
        torch.testing.assert_close(terms["loss"], theirs["loss"], rtol=0, atol=2e-6 * lmbda)


def test_a_sum_weighs_both_and_alpha_means_the_same() -> None:
    model, images = build("hyperprior", 8), torch.rand(2, 3, 192, 192)
    with LatentTap(model) as tap:
        output = model(images)
        latents = tap.take()

    def terms(distortion: str) -> dict[str, torch.Tensor]:
        config = TrainingConfig(lmbda=2.0, alpha=1e-6, strategy="y", distortion=distortion)
        return Criterion.of(config, torch.device("cpu"))(output, latents, images)

    mse, ms_ssim, both = terms("mse"), terms("ms-ssim"), terms("0.25*mse+2*ms-ssim")
    rate = mse["rate_y"] + mse["rate_z"]
    away, penalty = 1 - ms_ssim["ms_ssim"], 1e-6 * mse["decorrelation"]
    torch.testing.assert_close(mse["loss"], rate + 2 * (mse["mse"] + penalty))
    torch.testing.assert_close(ms_ssim["loss"], rate + 2 * (away + penalty / 1290))
    torch.testing.assert_close(both["loss"], rate + 2 * (0.25 * mse["mse"] + 2 * 1290 * away + penalty))
    torch.testing.assert_close(ms_ssim["alpha_L_over_D"], penalty / 1290 / away)


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
