"""Latents of one image: the correlation of their channels, what each costs, and where they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lic.data.cache import PackedImages, pack_files
from lic.evaluation.evaluate import batch_of, evaluate
from lic.evaluation.latents import channel_correlation, correlation_sum, covariance_sum, examine
from lic.models.architectures import ARCHITECTURES, starter_path
from lic.models.build import build
from lic.training.weights import load_weights


def test_the_correlation_is_numpys() -> None:
    draw = np.random.default_rng(0)
    latent = draw.normal(size=(7, 5, 9)) * draw.uniform(0.01, 100, (7, 1, 1)) + draw.normal(size=(7, 1, 1))
    expected = np.corrcoef(latent.reshape(7, -1))
    assert channel_correlation(latent) == pytest.approx(expected)
    pairs = sum(abs(expected[u, v]) for u in range(7) for v in range(7) if u != v)
    assert correlation_sum(channel_correlation(latent)) == pytest.approx(pairs)
    covariance = np.cov(latent.reshape(7, -1), bias=True)
    assert covariance_sum(latent) == pytest.approx(np.abs(covariance).sum())
    assert covariance_sum(latent / 2) == pytest.approx(covariance_sum(latent) / 4)


@pytest.mark.filterwarnings("error")
def test_a_constant_channel_goes_along_with_none() -> None:
    latent = np.random.default_rng(0).normal(size=(4, 6, 6)).astype(np.float32)
    latent[1], latent[2] = 0, np.float32(0.1)  # 0.1 has a mean that is not quite itself
    found = channel_correlation(latent)
    assert not found[1:3].any() and not found[:, 1:3].any()
    assert found[0, 3] == pytest.approx(np.corrcoef(latent[0].ravel(), latent[3].ravel())[0, 1])


def test_decorrelated_channels_have_the_smaller_sum() -> None:
    draw = np.random.default_rng(0)
    shared = draw.normal(size=(1, 16, 24))
    alike = draw.normal(size=(8, 16, 24)) + shared
    orthogonal = np.linalg.qr(alike.reshape(8, -1).T - alike.reshape(8, -1).mean(1))[0].T
    assert correlation_sum(channel_correlation(orthogonal.reshape(8, 16, 24))) < 1e-9
    assert correlation_sum(channel_correlation(alike)) > 8 * 7 * 0.3


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_gives_its_channels_bits(name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    model = build(name, 16).eval()
    found = examine(model, pixels)
    assert found.channel_bits.shape == (16,) and (found.channel_bits >= 0).all()
    assert found.channel_bits.sum() == pytest.approx(found.metrics["bpp_y"] * 64 * 128, rel=1e-4)
    with torch.no_grad():
        latent = model.get_submodule("g_a")(batch_of(pixels))[0].numpy()
    assert found.feature_map == pytest.approx(latent.sum(0), abs=1e-5)
    assert found.covariance_sum == pytest.approx(covariance_sum(latent), rel=1e-4)
    assert found.correlation == pytest.approx(np.corrcoef(latent.reshape(16, -1)), abs=1e-4)


def test_the_figures_are_those_of_the_evaluation(leaves: PackedImages, tmp_path: Path) -> None:
    """Of an image whose sides are no multiples of 64 too; the map covers the image, not its padding."""
    model = build("hyperprior", 32, 96)
    load_weights(model, starter_path("hyperprior", 32, 96))
    pixels = np.ascontiguousarray(leaves[0][:200, :333])
    Image.fromarray(pixels).save(tmp_path / "odd.png")
    table = evaluate(model, pack_files([tmp_path / "odd.png"], tmp_path, tmp_path / "cache"))
    found = examine(model.eval(), pixels)
    for name, value in found.metrics.items():
        assert value == pytest.approx(table[name][0], rel=1e-5), name
    assert found.channel_bits.sum() == pytest.approx(table["bpp_y"][0] * pixels[..., 0].size, rel=1e-4)
    mse = np.square(found.decoded.astype(float) - pixels).mean()
    assert mse == pytest.approx(table["mse"][0], rel=1e-5)
    # Padded by 28 above and below, by 25 and 26 at the sides: rows 1 to 14 and columns 1 to 22 of 16 x 24.
    assert found.feature_map.shape == (14, 22)
