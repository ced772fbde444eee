"""The objective: rate changes worked out by hand, what takes their place, and their variance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from lic.evaluation.bdrate import Curve, CurveError, log_rate_at, point_bd_rate
from lic.evaluation.decibels import ms_ssim_to_db
from lic.recipe import Distortion
from search.base.space import BD_RATE_MSSIM, BD_RATE_PSNR, RD_COST, SearchPoint
from search.decide.objective import (
    RateChange,
    Reading,
    has_value,
    means_of,
    quality_name,
    rate_change,
    rd_cost_change,
)

QUALITIES = (1, 3, 5, 6)


def decibels(mse: float) -> float:
    return float(10 * np.log10(255**2 / mse))


def reading(bpp: float, psnr: float, ms_ssim: float = 0.95) -> Reading:
    """Of a set on which every image is alike."""
    metrics = {"val/bpp": bpp, "val/psnr": psnr, "val/mse": 255**2 / 10 ** (psnr / 10)}
    return Reading({**metrics, "val/ms_ssim": ms_ssim, "val/ms_ssim_db": ms_ssim_to_db(ms_ssim)}, {})


BASELINES = {q: reading(0.1 * 1.5**q, 26 + 1.4 * q - 0.03 * q * q, 1 - 0.2 / 1.4**q) for q in QUALITIES}


def change(objective: str, own: Reading, baselines: dict[int, Reading] | None = None) -> RateChange:
    return rate_change(objective, SearchPoint(3), own, baselines or BASELINES, "val")


def curve_of(name: str, baselines: dict[int, Reading]) -> Curve:
    points = [(r.metrics["val/bpp"], r.metrics[f"val/{name}"]) for r in baselines.values()]
    return Curve.of(*zip(*points, strict=True))


@pytest.mark.parametrize(("objective", "name"), [(BD_RATE_PSNR, "psnr"), (BD_RATE_MSSIM, "ms_ssim_db")])
@pytest.mark.parametrize(("bits", "better"), [(0.96, 0.0), (1.0, 0.3), (1.02, -0.2), (1.0, -6.0), (1.0, 9.0)])
def test_it_is_bd_rates_integrand(objective: str, name: str, bits: float, better: float) -> None:
    """Inside the curve of the baselines, and beyond its ends."""
    base = BASELINES[3].metrics
    ms_ssim = 1 - 10 ** (-(base["val/ms_ssim_db"] + better) / 10)
    own = reading(base["val/bpp"] * bits, base["val/psnr"] + better, ms_ssim)
    found = change(objective, own)
    expected = point_bd_rate(curve_of(name, BASELINES), base["val/bpp"] * bits, base[f"val/{name}"] + better)
    assert found.value == pytest.approx(expected)
    assert (found.by_lambda, found.variance) == (False, None)


def test_the_sign_is_bd_rates() -> None:
    base = BASELINES[3].metrics
    for objective in (BD_RATE_PSNR, BD_RATE_MSSIM, RD_COST):
        assert change(objective, BASELINES[3]).value == pytest.approx(0, abs=1e-9)
        saves = reading(0.95 * base["val/bpp"], base["val/psnr"], base["val/ms_ssim"])
        assert change(objective, saves).value == pytest.approx(-5)
    # At equal bits a point halfway to the next baseline's quality, on a straight curve: half of log rate.
    straight = {q: reading(0.1 * 2**q, 30.0 + q) for q in (1, 3, 5)}
    assert change(BD_RATE_PSNR, reading(0.8, 34.0), straight).value == pytest.approx(-50)


def test_the_cost_is_that_of_its_own_quality_alone() -> None:
    own, base = reading(0.31, 29.5), BASELINES[3]
    expected = rd_cost_change(own.metrics, base.metrics, "val", SearchPoint(3).lmbda)
    assert change(RD_COST, own) == RateChange(expected, None)
    assert change(RD_COST, own, {3: base}).value == expected
    mse = own.metrics["val/mse"] - base.metrics["val/mse"]
    by_hand = 100 * (0.31 - base.metrics["val/bpp"] + SearchPoint(3).lmbda * mse) / base.metrics["val/bpp"]
    assert expected == pytest.approx(by_hand)


#: The own baseline is beaten by that of a lower rate.
BEATEN = {
    **BASELINES,
    1: reading(0.9 * BASELINES[3].metrics["val/bpp"], BASELINES[3].metrics["val/psnr"] + 1),
}

#: No baseline is both better and larger than another.
FALLING = {q: reading(0.1 * q, 33.0 - q) for q in QUALITIES}


@pytest.mark.parametrize("baselines", [{3: BASELINES[3]}, BEATEN], ids=["one rate", "beaten"])
def test_without_a_curve_lambda_gives_the_slope(baselines: dict[int, Reading]) -> None:
    """To first order it is then the change of the cost."""
    base = baselines[3].metrics
    for bits, better in ((1.001, 0.0), (1.0, 0.004), (0.999, -0.003)):
        own = reading(base["val/bpp"] * bits, base["val/psnr"] + better)
        found = change(BD_RATE_PSNR, own, baselines)
        assert found.by_lambda
        cost = rd_cost_change(own.metrics, base, "val", SearchPoint(3).lmbda)
        assert found.value == pytest.approx(cost, rel=0.02)
    own = reading(base["val/bpp"] * 0.9, base["val/psnr"] - 0.5)
    slope = SearchPoint(3).lmbda * base["val/mse"] * math.log(10) / 10 / base["val/bpp"]
    expected = 100 * (0.9 * math.exp(slope * 0.5) - 1)
    assert change(BD_RATE_PSNR, own, baselines).value == pytest.approx(expected)


def test_a_step_down_the_curve_of_two_saves_nothing() -> None:
    """As measured on Kodak: two baselines far apart, and a trial further down the curve. The straight line
    between them took it for a gain of 2.4 %, though it costs 5 % of the rate."""
    ends = {2: reading(0.2971, 28.5814), 5: reading(0.7239, 31.4649)}
    found = rate_change(BD_RATE_PSNR, SearchPoint(5), reading(0.5871, 30.85), ends, "val")
    assert found.by_lambda and 0 < found.value < 5


def test_the_first_of_a_falling_curve_has_lambdas_slope_as_well() -> None:
    """Its front is one point, which makes no curve, whoever asks."""
    for quality in QUALITIES:
        assert rate_change(BD_RATE_PSNR, SearchPoint(quality), reading(0.2, 30.0), FALLING, "val").by_lambda


def test_ms_ssim_without_a_curve_falls_back_on_the_cost() -> None:
    own = reading(0.31, 29.5, 0.93)
    cost = rd_cost_change(own.metrics, BASELINES[3].metrics, "val", SearchPoint(3).lmbda)
    found = change(BD_RATE_MSSIM, own, {3: BASELINES[3]})
    assert found == RateChange(cost, None, by_lambda=True)


TRAINED_ON_MS_SSIM = Distortion.of("ms-ssim")


def test_trained_on_ms_ssim_it_has_lambdas_slope() -> None:
    """And to first order it is then the change of the cost, R + lambda (1 - MS-SSIM)."""
    point, base = SearchPoint(3, lmbda=8.73), BASELINES[3].metrics
    for bits, better in ((1.001, 0.0), (1.0, 1e-5), (0.999, -1e-5)):
        own = reading(base["val/bpp"] * bits, base["val/psnr"], base["val/ms_ssim"] + better)
        found = rate_change(BD_RATE_MSSIM, point, own, {3: BASELINES[3]}, "val", TRAINED_ON_MS_SSIM)
        assert found.by_lambda
        more = (bits - 1) * base["val/bpp"] - 8.73 * better
        assert found.value == pytest.approx(100 * more / base["val/bpp"], rel=0.02)


@pytest.mark.parametrize("distortion", ["ms-ssim", "0.5*mse+2*ms-ssim"])
def test_the_cost_is_that_of_the_distortion_that_was_trained(distortion: str) -> None:
    weights = Distortion.of(distortion)
    point, own, base = SearchPoint(3, lmbda=0.5), photographs(3, 4.0, seed=1), photographs(3, 0.0, seed=0)
    found = rate_change(RD_COST, point, seen(own), {3: seen(base)}, "val", weights)
    costs = [
        c["val/bpp"] + 0.5 * (weights.mse * c["val/mse"] + weights.ms_ssim * (1 - c["val/ms_ssim"]))
        for c in (own, base)
    ]
    changes = 100 * (costs[0] - costs[1]) / base["val/bpp"].mean()
    assert found.value == pytest.approx(changes.mean())
    assert found.variance == pytest.approx(changes.var() / len(changes))
    alone = rate_change(BD_RATE_PSNR, point, seen(own), {3: seen(base)}, "val", weights)
    assert (alone.value, alone.by_lambda) == (found.value, True)  # lambda gives PSNR no slope there
    without = {k: v for k, v in seen(own).metrics.items() if "ms_ssim" not in k}
    assert has_value(BD_RATE_PSNR, without, "val") and has_value(RD_COST, without, "val")
    assert not has_value(RD_COST, without, "val", weights)
    assert not has_value(BD_RATE_PSNR, without, "val", weights)


def test_a_beaten_baseline_of_another_rate_leaves_the_curve() -> None:
    others = {
        **BASELINES,
        5: reading(BASELINES[6].metrics["val/bpp"] * 1.1, BASELINES[6].metrics["val/psnr"]),
    }
    without = {q: r for q, r in BASELINES.items() if q != 5}
    own = reading(0.31, 29.5)
    assert change(BD_RATE_PSNR, own, others) == change(BD_RATE_PSNR, own, without)


def test_what_a_reading_needs_to_have_a_value() -> None:
    whole = reading(0.3, 30.0).metrics
    for objective, needed in ((BD_RATE_PSNR, "psnr"), (BD_RATE_MSSIM, "ms_ssim_db"), (RD_COST, "mse")):
        assert has_value(objective, whole, "val")
        assert has_value(objective, {"val/bpp": 0.3, f"val/{needed}": 1.0}, "val")
        assert not has_value(objective, {k: v for k, v in whole.items() if k != f"val/{needed}"}, "val")
        assert not has_value(objective, {k: v for k, v in whole.items() if k != "val/bpp"}, "val")
        assert not has_value(objective, whole, "kodak") and not has_value(objective, {}, "val")
    assert quality_name(BD_RATE_MSSIM, "kodak") == "kodak/ms_ssim_db"
    assert quality_name(BD_RATE_PSNR, "val") == quality_name("", "val") == "val/psnr"


def photographs(quality: int, saved: float, seed: int, count: int = 48) -> dict[str, NDArray[np.float64]]:
    """Columns of as many images of one codec; easy and hard ones, alike for every codec."""
    hard = np.random.default_rng(0).lognormal(0, 0.4, count)
    own = np.random.default_rng([quality, seed]).normal(size=(3, count))
    mse = 200 * hard / 1.7**quality * np.exp(0.03 * own[1])
    return {
        "val/bpp": 0.1 * 1.5**quality * hard * (1 - saved / 100) * np.exp(0.05 * own[0]),
        "val/mse": mse,
        "val/ms_ssim": 1 - 0.15 * hard**0.5 / 1.5**quality * np.exp(0.03 * own[2]),
    }


def seen(columns: dict[str, NDArray[np.float64]], images: NDArray[np.int64] | slice = slice(None)) -> Reading:
    lists = {name: values.tolist() for name, values in columns.items()}
    return Reading(means_of(lists, "val", images) if isinstance(images, slice) else {}, lists)


@pytest.mark.parametrize("objective", [BD_RATE_PSNR, BD_RATE_MSSIM, RD_COST])
@pytest.mark.parametrize("alone", [False, True], ids=["curve", "one rate"])
def test_the_variance_is_that_of_a_paired_bootstrap(objective: str, alone: bool) -> None:
    """Of the own baseline's images and the trial's, the curve's slope held."""
    own = photographs(3, 4.0, seed=1)
    others = {q: photographs(q, 0.0, seed=0) for q in ((3,) if alone else QUALITIES)}
    readings = {q: seen(columns) for q, columns in others.items()}
    found = rate_change(objective, SearchPoint(3), seen(own), readings, "val")
    assert found.variance is not None and found.by_lambda == (alone and objective != RD_COST)

    draw, name = np.random.default_rng(2), quality_name(objective, "val")
    base, lmbda = readings[3].metrics, SearchPoint(3).lmbda
    slope = lmbda * 255**2 * 10 ** (-base["val/psnr"] / 10) * math.log(10) / 10 / base["val/bpp"]
    if not alone and objective != RD_COST:
        points = [(r.metrics["val/bpp"], r.metrics[name]) for r in readings.values()]
        curve = Curve.of(*zip(*points, strict=True))
        slope = log_rate_at(curve, means_of(seen(own).columns, "val", slice(None))[name])[1]
    by_cost = objective == RD_COST or (alone and objective == BD_RATE_MSSIM)
    drawn = []
    for _ in range(6000):
        images = draw.integers(0, 48, 48)
        mine, theirs = (means_of(seen(c).columns, "val", images) for c in (own, others[3]))
        if by_cost:
            more = mine["val/bpp"] - theirs["val/bpp"] + lmbda * (mine["val/mse"] - theirs["val/mse"])
            drawn.append(100 * more / base["val/bpp"])
        else:
            log_ratio = math.log(mine["val/bpp"] / theirs["val/bpp"])
            drawn.append(100 * (log_ratio - slope * (mine[name] - theirs[name])))
    assert math.sqrt(found.variance) == pytest.approx(np.std(drawn), rel=0.05)


def test_without_columns_there_is_no_variance() -> None:
    own, base = photographs(3, 4.0, seed=1), {q: seen(photographs(q, 0.0, seed=0)) for q in QUALITIES}
    whole = seen(own)
    for objective in (BD_RATE_PSNR, BD_RATE_MSSIM, RD_COST):
        bare = Reading(whole.metrics, {})
        assert rate_change(objective, SearchPoint(3), bare, base, "val").variance is None
        value = rate_change(objective, SearchPoint(3), whole, base, "val").value
        assert rate_change(objective, SearchPoint(3), bare, base, "val").value == value


def test_the_means_of_a_choice_of_images() -> None:
    columns = {
        "val/bpp": [0.2, 0.4, 0.6], "val/mse": [10.0, 20.0, 40.0], "val/ms_ssim": [0.9, 0.95, 0.99],
        "kodak/bpp": [9.0, 9.0, 9.0],
    }  # fmt: skip
    found = means_of(columns, "val", np.array([0, 2, 2]))
    assert found.keys() == {"val/bpp", "val/mse", "val/psnr", "val/ms_ssim", "val/ms_ssim_db"}
    assert found["val/bpp"] == pytest.approx(1.4 / 3)
    assert found["val/mse"] == pytest.approx(30)
    assert found["val/psnr"] == pytest.approx((decibels(10) + 2 * decibels(40)) / 3)  # a mean of decibels
    assert found["val/ms_ssim_db"] == pytest.approx(ms_ssim_to_db(0.96))  # and decibels of a mean
    given = means_of({**columns, "val/psnr": [30.0, 31.0, 35.0]}, "val", slice(None))
    assert given["val/psnr"] == pytest.approx(32)
    assert "val/ms_ssim_db" not in means_of({"val/bpp": [1.0], "val/mse": [0.0]}, "val", slice(None))


def test_log_rate_and_its_slope_along_a_curve() -> None:
    curve = Curve.of([0.1, 0.2, 0.4, 0.9], [28.0, 30.0, 32.0, 34.5])
    for quality in (27.0, 28.0, 29.3, 31.0, 34.5, 36.0):
        log_rate, slope = log_rate_at(curve, quality)
        assert point_bd_rate(curve, 0.3, quality) == pytest.approx(100 * (0.3 / math.exp(log_rate) - 1))
        up, down = (log_rate_at(curve, quality + step)[0] for step in (1e-5, -1e-5))
        if 28.0 < quality < 34.5:
            assert slope == pytest.approx((up - down) / 2e-5, rel=1e-4)
    assert log_rate_at(curve, 27.0) == (
        pytest.approx(math.log(0.1) - math.log(2) / 2),
        pytest.approx(math.log(2) / 2),
    )
    with pytest.raises(CurveError):
        curve_of("psnr", {3: BASELINES[3]})


def test_a_broken_training_has_a_finite_rate_change() -> None:
    """Far below a curve that is steep because its rates hardly differ in quality."""
    steep = {q: reading(0.1 * 1.5**q, 30 + 0.001 * q) for q in QUALITIES}
    for objective, baselines in ((BD_RATE_PSNR, steep), (BD_RATE_PSNR, {3: reading(1e-9, 30.0)})):
        found = change(objective, reading(0.3, -20.0), baselines)
        assert 1e40 < found.value < math.inf
