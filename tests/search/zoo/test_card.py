"""The figures of a zoo, from tables of a verification made by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lic.codec.verification import means
from lic.evaluation.bdrate import Interval
from lic.zoo import BASELINE, TUNED
from search.zoo.card import ZooMetrics

SIZES = {"a.png": (768, 512), "small.png": (150, 150), "b.png": (512, 768)}


def verified(saving: float, small: bool) -> pd.DataFrame:
    """Both roles on three rates and images; the tuned models take (1 - saving) of the bits."""
    rows: list[dict[str, Any]] = []
    for role in (BASELINE, TUNED):
        for quality in (1, 3, 5):
            for number, (name, (width, height)) in enumerate(SIZES.items()):
                none = small and name == "small.png"
                bpp = 0.1 * 1.5**quality * (1 + 0.1 * number) * (1 - saving if role == TUNED else 1)
                rows.append({
                    "quality": quality, "role": role, "image": name,
                    "height": height if small else 512, "width": width if small else 512,
                    "bytes": bpp * height * width / 8, "ideal_bits": bpp * height * width, "bpp": bpp,
                    "psnr": 28.0 + quality, "ms_ssim": math.nan if none else 1 - 0.1 / 1.5**quality,
                    "estimated_bpp": bpp, "encoding_time": 1.0,
                })  # fmt: skip
    return pd.DataFrame(rows)


def test_an_image_too_small_for_ms_ssim_takes_that_figure_alone() -> None:
    """It was left out of the mean, and out of one of the two curves."""
    table = verified(0.04, small=True)
    assert means(table)["ms_ssim"].isna().all() and np.isfinite(means(table)["psnr"]).all()
    figures = ZooMetrics("photographs", means(table), table)
    found = figures.real_bd_rate("psnr")
    assert isinstance(found, Interval) and found.value == pytest.approx(-4)
    reason = "MS-SSIM needs images of at least 161 pixels on each side; small.png is 150 x 150"
    assert figures.real_bd_rate("ms_ssim") == reason
    assert figures.of_model(3, TUNED)["ms_ssim"] is None


def test_where_all_images_have_ms_ssim_both_figures_are_there() -> None:
    table = verified(0.04, small=False)
    for measure in ("psnr", "ms_ssim"):
        found = ZooMetrics("photographs", means(table), table).real_bd_rate(measure)
        assert isinstance(found, Interval) and found.value == pytest.approx(-4)
