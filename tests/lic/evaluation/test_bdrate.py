"""Bjontegaard figures against published points and against what must hold for any curve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lic.evaluation.bdrate import (
    Curve,
    CurveError,
    ImageCurve,
    bd_quality,
    bd_rate,
    bd_rate_interval,
    point_bd_rate,
)

# CompressAI's published Kodak points (results/image/kodak/compressai-*_mse_cuda.json), q1 to q6.
HYPERPRIOR = Curve.of(
    [0.131293, 0.208893, 0.319858, 0.478356, 0.668688, 0.938826],
    [27.581537, 29.196703, 30.972162, 32.838183, 34.526264, 36.743348],
)
ANCHOR = Curve.of(
    [0.119595, 0.183797, 0.270952, 0.417375, 0.594469, 0.805735],
    [28.582352, 29.969273, 31.342784, 33.390309, 35.118869, 36.704096],
)
ATTENTION = Curve.of(
    [0.115577, 0.174479, 0.269033, 0.426961, 0.595289, 0.805888],
    [28.431023, 29.765926, 31.321335, 33.363861, 34.949431, 36.621813],
)


def test_published_points() -> None:
    assert bd_rate(HYPERPRIOR, ANCHOR) == pytest.approx(-22.75, abs=0.01)
    assert bd_rate(ANCHOR, ATTENTION) == pytest.approx(1.78, abs=0.01)
    assert bd_quality(HYPERPRIOR, ANCHOR) > 0 > bd_quality(ANCHOR, ATTENTION)


@settings(deadline=None, max_examples=50)
@given(st.floats(0.7, 1.4))
def test_a_scaled_rate_is_its_own_bd_rate(factor: float) -> None:
    scaled = Curve(ANCHOR.rate * factor, ANCHOR.quality)
    assert bd_rate(ANCHOR, scaled) == pytest.approx(100 * (factor - 1), abs=1e-6)
    for rate, quality in zip(scaled.rate, scaled.quality, strict=True):
        assert point_bd_rate(ANCHOR, rate, quality) == pytest.approx(100 * (factor - 1), abs=1e-6)


def test_a_point_past_the_ends_follows_the_end_slope() -> None:
    slope = np.diff(np.log(ANCHOR.rate[-2:]))[0] / np.diff(ANCHOR.quality[-2:])[0]
    rate = ANCHOR.rate[-1] * np.exp(slope * 1.5)
    assert point_bd_rate(ANCHOR, rate, ANCHOR.quality[-1] + 1.5) == pytest.approx(0, abs=1e-9)
    slope = np.diff(np.log(ANCHOR.rate[:2]))[0] / np.diff(ANCHOR.quality[:2])[0]
    rate = ANCHOR.rate[0] * np.exp(-slope * 0.5)
    assert point_bd_rate(ANCHOR, rate, ANCHOR.quality[0] - 0.5) == pytest.approx(0, abs=1e-9)


def test_points_on_different_images_are_refused_by_their_numbers() -> None:
    """numpy would raise its own error of shapes, or of an index, in the midst of the resampling."""
    rate, quality = np.outer(ANCHOR.rate, [0.9, 1.1, 1.0]), np.outer(ANCHOR.quality, [1.0, 1.0, 1.0])
    whole = ImageCurve.of(rate.tolist(), quality.tolist())
    assert bd_rate_interval(whole, whole).value == pytest.approx(0)
    with pytest.raises(CurveError, match="measured on 2 and 3 images"):
        ImageCurve.of([*rate.tolist()[:-1], [1.0, 2.0]], quality.tolist())
    with pytest.raises(CurveError, match="on no images"):
        ImageCurve.of([], [])
    with pytest.raises(CurveError, match="one curve was measured on 3 images, the other on 2"):
        bd_rate_interval(whole, ImageCurve(rate[:, :2], quality[:, :2]))


def test_rates_that_only_rounding_tells_apart_are_refused() -> None:
    """PCHIP runs over their logarithms, which are the same."""
    near = np.nextafter(5.0, 6.0)
    assert near > 5.0 and np.log10(near) == np.log10(5.0)
    with pytest.raises(CurveError, match="not monotone"):
        bd_quality(Curve.of([1.0, 5.0, near], [30.0, 35.0, 36.0]), Curve.of([1.0, 5.0], [30.0, 35.0]))


def test_bad_curves_are_refused_by_name() -> None:
    with pytest.raises(CurveError, match=r"not monotone: from 0\.2000 to 0\.3000 bpp"):
        Curve.of([0.1, 0.2, 0.3], [30, 32, 31])
    with pytest.raises(CurveError, match="not finite"):
        Curve.of([0.1, 0.2], [30, float("nan")])
    with pytest.raises(CurveError, match="two points"):
        Curve.of([0.1], [30])
    far = Curve(ANCHOR.rate * 40, ANCHOR.quality + 30)
    with pytest.raises(CurveError, match="share 0 % of their range of quality"):
        bd_rate(ANCHOR, far)
    with pytest.raises(CurveError, match="range of rate"):
        bd_quality(ANCHOR, far)


def test_the_front_leaves_out_what_others_beat() -> None:
    assert np.array_equal(Curve.front(ANCHOR.rate[::-1], ANCHOR.quality[::-1]).rate, ANCHOR.rate)
    front = Curve.front([0.1, 0.2, 0.2, 0.3, 0.4], [30, 31, 32, 31.5, 33])
    assert list(front.rate) == [0.1, 0.2, 0.4]
    assert list(front.quality) == [30, 32, 33]
    with pytest.raises(CurveError, match="two points"):
        Curve.front([0.1, 0.2], [31, 30])


def _images(curve: Curve, factor: float, seed: int) -> ImageCurve:
    """24 images whose rates scatter around the curve, the same way for every factor."""
    spread = np.random.default_rng(seed).lognormal(0, 0.5, 24)
    rate = factor * curve.rate[:, None] * spread
    return ImageCurve(rate, np.repeat(curve.quality[:, None], 24, axis=1))


def test_the_interval_is_paired() -> None:
    """When every image gains the same, resampling the images changes nothing, however they differ."""
    interval = bd_rate_interval(_images(ANCHOR, 1, 0), _images(ANCHOR, 0.95, 0), resamples=100)
    assert interval.value == pytest.approx(-5, abs=1e-6)
    assert (interval.low, interval.high) == pytest.approx((-5, -5), abs=1e-6)


def test_the_interval_covers_the_true_gain() -> None:
    """Images gain 5 % with scatter: about 95 % of the intervals hold it."""
    held = 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        anchor = _images(ANCHOR, 1, 0)
        gains = 0.95 * (1 + draw.normal(0, 0.03, 24))
        test = ImageCurve(anchor.rate * gains, anchor.quality)
        weights = anchor.rate[0] / anchor.rate[0].sum()
        truth = 100 * (0.95 - 1)
        interval = bd_rate_interval(anchor, test, resamples=200, seed=seed)
        assert interval.low <= interval.value <= interval.high
        assert interval.value == pytest.approx(100 * (np.sum(weights * gains) - 1), abs=0.2)
        held += interval.low <= truth <= interval.high
    assert 48 <= held <= 60
