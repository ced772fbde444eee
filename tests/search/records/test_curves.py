"""Rate changes and BD-rates over images and seeds, against their formulas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from lic.evaluation.bdrate import CurveError
from search.base.space import RD_COST, SearchPoint
from search.records.curves import (
    bd_rate_over_seeds,
    costs_beyond,
    curves_over_seeds,
    image_curve,
    interval_over_seeds,
    rate_change_over_seeds,
    rd_cost_change_over_seeds,
)


def test_the_interval_is_that_of_students_t() -> None:
    values = [-1.0, -2.0, -1.5, -0.5]
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    found = interval_over_seeds(values, 0.0, 24)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    shared = ttest_1samp(values, 0).confidence_interval(1 - 0.05 / 3)
    assert interval_over_seeds(values, 0.0, 24, looks=3).low == pytest.approx(shared.low)
    images = interval_over_seeds([-1.0], 0.5, 24)
    assert images.high - images.low == pytest.approx(2 * 0.5 * 2.0687, rel=1e-4)
    both = interval_over_seeds(values, 0.5, 24)
    assert both.high - both.value == pytest.approx(np.hypot(found.high - found.value, 0.5 * 2.0687), rel=1e-4)


def columns(bpp: Sequence[float], psnr: float = 30.0) -> dict[str, list[float]]:
    mse = 255**2 / 10 ** (psnr / 10)
    count = len(bpp)
    return {
        "kodak/bpp": list(bpp), "kodak/mse": [mse] * count, "kodak/psnr": [psnr] * count,
        "kodak/ms_ssim": [0.9 + psnr / 1000] * count,
    }  # fmt: skip


#: Bits per pixel of a point on four images on which its baseline takes 0.5.
SAVED = [0.45, 0.48, 0.47, 0.52]


def test_ms_ssim_becomes_db_after_the_mean_over_images() -> None:
    point = columns([0.5, 0.5]) | {"kodak/ms_ssim": [0.9, 0.98]}
    other = columns([0.7, 0.7]) | {"kodak/ms_ssim": [0.99, 0.99]}
    curve = image_curve([point, other], "kodak", "ms_ssim").over(slice(None))
    assert curve.quality[0] == pytest.approx(-10 * np.log10(1 - 0.94))
    assert image_curve([point, other], "kodak", "psnr").quality.shape == (2, 2)


def test_points_on_different_images_make_no_curve() -> None:
    with pytest.raises(CurveError, match="measured on 2 and 3 images"):
        image_curve([columns([0.5] * 2), columns([0.7] * 3)], "kodak", "psnr")


def test_the_images_of_all_seeds_stand_side_by_side() -> None:
    """A row per quality: the images of the first seed, then those of the second."""
    seeds = [
        (
            [columns([seed + 0.1, seed + 0.2]), columns([seed + 0.5, seed + 0.6])],
            [columns([seed + 0.3] * 2)] * 2,
        )
        for seed in (1, 2)
    ]
    anchor, test = curves_over_seeds(seeds, "kodak", "psnr")
    assert anchor.rate.tolist() == [[1.1, 1.2, 2.1, 2.2], [1.5, 1.6, 2.5, 2.6]]
    assert test.rate.tolist() == [[1.3, 1.3, 2.3, 2.3]] * 2


def test_the_cost_beyond_the_baseline_is_per_image() -> None:
    more, base = costs_beyond((columns([0.4, 0.5], 31.0), columns([0.5, 0.5])), "kodak", 0.01)
    mse = [255**2 / 10**3.1, 255**2 / 10**3]
    assert more == pytest.approx(np.array([-0.1, 0.0]) + 0.01 * (mse[0] - mse[1]))
    assert base.tolist() == [0.5, 0.5]


def test_of_one_seed_the_interval_is_that_of_the_images() -> None:
    """The jackknife of a mean is its standard error."""
    found = rate_change_over_seeds(
        RD_COST, SearchPoint(1), [(columns(SAVED), {1: columns([0.5] * 4)})], "kodak"
    )
    changes = 200 * (np.array(SAVED) - 0.5)
    expected = ttest_1samp(changes, 0).confidence_interval(0.95)
    assert found.value == pytest.approx(changes.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_single_image_and_seed_have_no_interval() -> None:
    found = rate_change_over_seeds(RD_COST, SearchPoint(1), [(columns([0.4]), {1: columns([0.5])})], "kodak")
    assert (found.low, found.value, found.high) == pytest.approx((-20.0,) * 3)


def test_seeds_are_averaged_each_against_its_own_baseline() -> None:
    runs = [(columns([0.45] * 4), {1: columns([0.5] * 4)}), (columns([0.6] * 4), {1: columns([0.625] * 4)})]
    found = rate_change_over_seeds(RD_COST, SearchPoint(1), runs, "kodak")
    assert found.value == pytest.approx((-10 - 4) / 2)
    expected = ttest_1samp([-10, -4], 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_bd_rate_over_seeds_is_their_mean_with_students_interval() -> None:
    rates, qualities = (0.2, 0.4, 0.8, 1.6), (28.0, 31.0, 34.0, 37.0)

    def curve(factor: float) -> list[dict[str, list[float]]]:
        return [columns([factor * rate] * 3, psnr) for rate, psnr in zip(rates, qualities, strict=True)]

    found = bd_rate_over_seeds([(curve(1.0), curve(0.96)), (curve(1.1), curve(1.1 * 0.98))], "kodak", "psnr")
    expected = ttest_1samp([-4, -2], 0).confidence_interval(0.95)
    assert (found.low, found.value, found.high) == pytest.approx(
        (expected.low, -3.0, expected.high), rel=1e-6
    )


def test_the_change_of_cost_is_in_percent_of_the_baselines_rate() -> None:
    pairs = [(columns([0.45] * 3), columns([0.5] * 3)), (columns([0.5] * 3), columns([0.5] * 3))]
    found = rd_cost_change_over_seeds(pairs, "kodak", 0.01)
    assert (
        found.value == pytest.approx(-5)
        and found.low == pytest.approx(-10)
        and found.high == pytest.approx(0)
    )
