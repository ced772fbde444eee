"""The evaluation against CompressAI's own measurement of one image."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from compressai.ops import compute_padding
from compressai.utils.eval_model.__main__ import inference, inference_entropy_estimation
from PIL import Image

from lic.data.cache import PackedImages, pack_files
from lic.data.folders import find_images
from lic.evaluation.decibels import ms_ssim_to_db
from lic.evaluation.evaluate import aggregate, evaluate, measure_image
from lic.models.architectures import starter_path
from lic.models.build import build
from lic.training.weights import load_weights


def _model() -> torch.nn.Module:
    model = build("hyperprior", 32, 96)
    load_weights(model, starter_path("hyperprior", 32, 96))
    return model.eval()


@pytest.fixture
def odd_images(leaves: PackedImages, tmp_path: Path) -> PackedImages:
    """Two sizes, one no multiple of 64, in mixed order."""
    for number, (height, width) in enumerate([(192, 256), (200, 333), (192, 256)]):
        Image.fromarray(np.asarray(leaves[number])[:height, :width]).save(tmp_path / f"{number}.png")
    return pack_files(find_images(tmp_path), tmp_path, tmp_path / "cache")


def test_equals_compressais_measurement(odd_images: PackedImages) -> None:
    """Its estimate; of the padded image where a side is no multiple of 64, with the bits spread over
    the image's own pixels and the quality of its real decoder, which crops as we do."""
    model = _model()
    table = evaluate(model, odd_images)
    assert list(table["image"]) == ["0.png", "1.png", "2.png"]
    model.update(force=True)  # type: ignore[operator]
    for number, row in enumerate(table.to_dict("records")):
        image = torch.from_numpy(np.array(odd_images[number]).transpose(2, 0, 1) / np.float32(255))
        padding, _ = compute_padding(*image.shape[1:], min_div=64)
        padded = torch.nn.functional.pad(image, padding)
        with torch.no_grad():
            estimate, decoded = inference_entropy_estimation(model, padded), inference(model, image)
        bits = estimate["bpp"] * padded.numel() / image.numel()
        assert row["bpp"] == pytest.approx(bits, rel=1e-4)
        assert row["psnr"] == pytest.approx(decoded["psnr-rgb"], abs=1e-3)
        assert row["ms_ssim"] == pytest.approx(decoded["ms-ssim-rgb"], abs=1e-4)
        assert row["bpp_y"] + row["bpp_z"] == pytest.approx(row["bpp"])
        assert row["psnr"] == pytest.approx(10 * math.log10(255**2 / row["mse"]))


def test_crops_the_centre_and_leaves_ms_ssim_out(odd_images: PackedImages, tmp_path: Path) -> None:
    model = _model()
    table = evaluate(model, odd_images, crop=128, with_ms_ssim=False)
    assert set(table["pixels"]) == {128 * 128}
    assert table["ms_ssim"].isna().all()
    folder = tmp_path / "cropped"
    folder.mkdir()
    Image.fromarray(odd_images[1][36:164, 102:230]).save(folder / "1.png")
    by_hand = evaluate(model, pack_files([folder / "1.png"], folder, tmp_path / "cache"))
    assert by_hand["psnr"][0] == pytest.approx(table["psnr"][1], abs=1e-4)


def test_the_mode_of_the_model_is_kept(odd_images: PackedImages) -> None:
    model = build("hyperprior", 8).train()
    evaluate(model, odd_images, crop=64)
    assert model.training


def test_aggregates_as_compressai_does() -> None:
    """PSNR is averaged over images; MS-SSIM is averaged before it becomes dB."""
    table = pd.DataFrame(
        {"bpp": [1.0, 2.0], "bpp_y": [0.9, 1.8], "bpp_z": [0.1, 0.2], "mse": [10.0, 1000.0],
         "psnr": [38.0, 18.0], "ms_ssim": [0.99, 0.9]}
    )  # fmt: skip
    point = aggregate(table)
    assert (point.bpp, point.mse, point.psnr) == (1.5, 505.0, 28.0)
    assert point.ms_ssim_db == pytest.approx(-10 * math.log10(1 - 0.945))
    assert ms_ssim_to_db(1.0) == ms_ssim_to_db(1.0000001) == math.inf


def test_what_was_not_measured_is_not_perfect() -> None:
    """An image too small for MS-SSIM has none in dB either, alone and in the mean."""
    assert math.isnan(ms_ssim_to_db(math.nan)) and type(ms_ssim_to_db(0.9)) is float
    several = ms_ssim_to_db(np.array([0.9, math.nan, 1.0]))
    assert several == pytest.approx([10, math.nan, math.inf], nan_ok=True)
    row = measure_image(build("bmshj2018-factorized", 8).eval(), np.zeros((150, 200, 3), np.uint8))
    assert math.isnan(row["ms_ssim"]) and math.isnan(row["ms_ssim_db"]) and row["psnr"] > 0
    columns = ("bpp", "bpp_y", "bpp_z", "mse", "psnr", "ms_ssim")
    point = aggregate(pd.DataFrame({name: [0.5, math.nan if name == "ms_ssim" else 0.5] for name in columns}))
    assert math.isnan(point.ms_ssim) and math.isnan(point.ms_ssim_db) and point.psnr == 0.5
