"""The objective of a trial: its rate change against the baselines of the same epoch, in percent.

Negative saves bits. By default it is the integrand of the BD-rate that is reported, on the selection images:
the change of rate at equal quality along the baselines' own curve. J = R + lambda D, the cost that is
trained, agrees with it to first order only if quality is the mean MSE; BD-rate takes every image's PSNR
alike. On the recorded trainings of two models the integrand predicts the Kodak BD-rate on fresh seeds best
(docs/search.md, `python -m tests.bench.objectives`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lic.evaluation.bdrate import Curve, CurveError, Interval, log_rate_at
from lic.evaluation.decibels import ms_ssim_to_db
from lic.recipe import MSE, Distortion
from search.base.space import BD_RATE_MSSIM, BD_RATE_PSNR, RD_COST, SearchPoint

_RESAMPLES = 1000

#: Largest value of a pixel.
_PEAK = 255.0

#: The objective whose quality is by a distortion, by the metrics of that.
_TRAINED: dict[tuple[str, ...], str] = {("mse",): BD_RATE_PSNR, ("ms_ssim",): BD_RATE_MSSIM}

#: Points of a curve. The straight line through two lies above the curve between them: whatever spends fewer
#: bits at a lower quality would seem to save some.
LEAST_POINTS = 3

#: Largest logarithm of a ratio of rates: nothing is told apart beyond.
_LARGEST = 100.0

#: What a training measured: means over the images of a set, such as 'val/bpp', or a value per image.
Metrics = Mapping[str, float]
Columns = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class RateChange:
    """A rate change in percent and its variance over the images (percent squared; None without per-image
    columns). `by_lambda`: the baselines' curve was of no use there, and lambda gave the slope instead."""

    value: float
    variance: float | None
    by_lambda: bool = False


@dataclass(frozen=True)
class Reading:
    """What a training measured after an epoch: the means, and the columns per image behind them."""

    metrics: Metrics
    columns: Columns


def quality_name(objective: str, image_set: str) -> str:
    """The metric that an objective takes for quality, in dB."""
    return f"{image_set}/{'ms_ssim_db' if objective == BD_RATE_MSSIM else 'psnr'}"


def has_value(objective: str, reading: Metrics, image_set: str, distortion: Distortion = MSE) -> bool:
    """Whether a reading holds what the objective needs of it."""
    needed = f"{image_set}/mse" if objective == RD_COST else quality_name(objective, image_set)
    similarity = f"{image_set}/ms_ssim" in reading or not distortion.ms_ssim
    return f"{image_set}/bpp" in reading and needed in reading and similarity


def compared_qualities(objective: str, quality: int, qualities: tuple[int, ...]) -> tuple[int, ...]:
    """The qualities whose baselines a training of this quality is compared with: a curve takes all."""
    return (quality,) if objective == RD_COST else qualities


def compared_baselines(
    objective: str,
    quality: int,
    qualities: tuple[int, ...],
    baseline: Callable[[int], tuple[Reading, bool]],
    image_set: str,
    distortion: Distortion = MSE,
) -> dict[int, Reading] | None:
    """The readings of the baselines that a training of this quality is compared with, by quality; None while
    one is missing. `baseline` gives a quality's reading at the epoch, empty if there is none, and whether
    that baseline failed: one that failed before the epoch, and is not its own, is left out."""
    found: dict[int, Reading] = {}
    for other in compared_qualities(objective, quality, qualities):
        reading, failed = baseline(other)
        if has_value(objective, reading.metrics, image_set, distortion):
            found[other] = reading
        elif not failed or other == quality:
            return None
    return found


def rate_change(
    objective: str,
    point: SearchPoint,
    own: Reading,
    baselines: Mapping[int, Reading],
    image_set: str,
    distortion: Distortion = MSE,
) -> RateChange:
    """The rate change of a training of this point against the baselines, by quality, of the same seed and
    epoch; `rd-cost` needs that of its own quality alone.

    100 (R / R_base(Q) - 1) along the curve through the baselines that no other beats
    (lic.evaluation.bdrate.point_bd_rate). Early in a training the baseline of its own rate can be beaten,
    and one rate or two make no curve: then R_base(Q) = R0 exp(s (Q - Q0)) with the slope that lambda gives,
    s = -lambda (dD / dQ) / R0. Where Q is not by the distortion that was trained, lambda gives no such slope;
    J takes its place.
    """
    base = baselines[point.quality]
    if objective != RD_COST:
        try:
            return _along_curve(objective, own, base, list(baselines.values()), image_set)
        except CurveError:
            if objective == _TRAINED.get(distortion.names):
                return _along_lambda(objective, point.lmbda, own, base, image_set)
    value = rd_cost_change(own.metrics, base.metrics, image_set, point.lmbda, distortion)
    variance = None
    if all(_measured(own, base, image_set, name) for name in distortion.names):
        variance = rd_cost_variance(own.columns, base.columns, image_set, point.lmbda, distortion)
    return RateChange(value, variance, by_lambda=objective != RD_COST)


def _along_curve(
    objective: str, own: Reading, base: Reading, baselines: Sequence[Reading], image_set: str
) -> RateChange:
    """Raises CurveError if there is no curve, or the own baseline is no point of it."""
    rate, name = f"{image_set}/bpp", quality_name(objective, image_set)
    points = [(found.metrics[rate], found.metrics[name]) for found in baselines]
    curve = Curve.front(*zip(*points, strict=True))
    if base.metrics[rate] not in curve.rate:
        raise CurveError("another baseline is better in rate and quality")
    if len(curve.rate) < LEAST_POINTS:
        raise CurveError("two baselines make a straight line")
    log_rate, slope = log_rate_at(curve, own.metrics[name])
    value = _percent(math.log(own.metrics[rate]) - log_rate)
    return RateChange(value, _variance(objective, own, base, image_set, slope))


def _along_lambda(objective: str, lmbda: float, own: Reading, base: Reading, image_set: str) -> RateChange:
    rate, name = f"{image_set}/bpp", quality_name(objective, image_set)
    most = 1.0 if objective == BD_RATE_MSSIM else _PEAK**2  # D at 0 dB
    distortion = most * 10 ** (-base.metrics[name] / 10)
    slope = lmbda * distortion * math.log(10) / 10 / base.metrics[rate]
    log_ratio = math.log(own.metrics[rate] / base.metrics[rate])
    value = _percent(log_ratio - slope * (own.metrics[name] - base.metrics[name]))
    return RateChange(value, _variance(objective, own, base, image_set, slope), by_lambda=True)


def _percent(log_ratio: float) -> float:
    """The rate change in percent of a logarithm of a ratio. A broken training can be so far from the
    baselines' curve that the ratio is no number any more."""
    return 100 * math.expm1(min(log_ratio, _LARGEST))


def _variance(objective: str, own: Reading, base: Reading, image_set: str, slope: float) -> float | None:
    """Over a paired bootstrap of the images, to first order (Efron and Tibshirani 1993, section 5.4): that of
    the images' shares of ln R - ln R0 - s (Q - Q0) over their number."""
    column = "ms_ssim" if objective == BD_RATE_MSSIM else "mse"
    if not _measured(own, base, image_set, column):
        return None
    shares = [_shares(reading.columns, image_set, column) for reading in (own, base)]
    difference = (shares[0][0] - shares[1][0]) - slope * (shares[0][1] - shares[1][1])
    return float(100**2 * difference.var() / len(difference))


def _shares(columns: Columns, image_set: str, column: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of every image its share of ln R and of the quality in dB, both to first order around the means."""
    rate, of_image = np.asarray(columns[f"{image_set}/bpp"]), np.asarray(columns[f"{image_set}/{column}"])
    if column == "mse":
        return rate / rate.mean(), _psnr(of_image)
    return rate / rate.mean(), of_image * 10 / math.log(10) / max(1 - of_image.mean(), 1e-9)


def _psnr(mse: NDArray[np.float64]) -> NDArray[np.float64]:
    """PSNR in dB of every image."""
    return 10 * np.log10(_PEAK**2 / np.maximum(mse, 1e-9))


def _measured(own: Reading, base: Reading, image_set: str, column: str) -> bool:
    columns = [reading.columns.get(f"{image_set}/{column}") for reading in (own, base)]
    return all(found is not None for found in columns)


def rd_cost(figures: Metrics, image_set: str, lmbda: float, distortion: Distortion = MSE) -> float:
    """J = R + lambda_d D, in bits per pixel, of a reading that holds '<image_set>/bpp', '<image_set>/mse'
    (mean squared error on the 0..255 scale) and, if it has a weight in D, '<image_set>/ms_ssim'."""
    found: float = distortion(figures.get(f"{image_set}/mse"), figures.get(f"{image_set}/ms_ssim"))
    return figures[f"{image_set}/bpp"] + lmbda * found


def image_costs(
    columns: Columns, image_set: str, lmbda: float, distortion: Distortion = MSE
) -> NDArray[np.float64]:
    """J of every image, from columns named as `rd_cost`'s figures."""
    values = {name: np.asarray(columns[f"{image_set}/{name}"]) for name in ("bpp", *distortion.names)}
    found: NDArray[np.float64] = distortion(values.get("mse"), values.get("ms_ssim"))
    return values["bpp"] + lmbda * found


def rd_cost_change(
    trial: Metrics, baseline: Metrics, image_set: str, lmbda: float, distortion: Distortion = MSE
) -> float:
    """100 (J - J0) / R0 in percent, J = R + lambda_d D; negative saves bits.

    Both readings are of the same epoch and seed, as `rd_cost` needs them.
    Along a codec's own RD curve dR/dD = -lambda_d, so to first order this is the change of bit
    rate at equal mean D.
    """
    costs = [rd_cost(reading, image_set, lmbda, distortion) for reading in (trial, baseline)]
    difference = costs[0] - costs[1]
    return 100 * difference / baseline[f"{image_set}/bpp"]


def rd_cost_variance(
    trial: Columns, baseline: Columns, image_set: str, lmbda: float, distortion: Distortion = MSE
) -> float:
    """Variance of `rd_cost_change` over a paired bootstrap of the images, in percent squared.

    The columns are per image. A bootstrap of a mean needs no drawing: its variance is that of the
    images' differences over their number (Efron and Tibshirani 1993, section 5.4).
    """
    costs = [image_costs(columns, image_set, lmbda, distortion) for columns in (trial, baseline)]
    difference = costs[0] - costs[1]
    rate = np.mean(baseline[f"{image_set}/bpp"])
    return float((100 / rate) ** 2 * difference.var() / len(difference))


def means_of(columns: Columns, image_set: str, images: NDArray[np.int64] | slice) -> dict[str, float]:
    """The metrics of a choice of images, from their columns bpp, mse or psnr, and ms_ssim."""
    own = {name: values for name, values in columns.items() if name.startswith(f"{image_set}/")}
    taken = {name: np.asarray(values)[images] for name, values in own.items()}
    found = {name: float(values.mean()) for name, values in taken.items()}
    if f"{image_set}/psnr" not in found:
        found[f"{image_set}/psnr"] = float(_psnr(taken[f"{image_set}/mse"]).mean())
    if f"{image_set}/ms_ssim" in found:
        found[f"{image_set}/ms_ssim_db"] = ms_ssim_to_db(found[f"{image_set}/ms_ssim"])
    return found


def rate_change_interval(changes: NDArray[np.float64], rates: NDArray[np.float64]) -> Interval:
    """Mean over seeds of 100 mean(change) / mean(rate), in percent, with its 95 % interval over seeds and
    images: `changes` of J and `rates` of the baseline are seeds x images. A two-level bootstrap: seeds are
    drawn with repetition, and images, the same for every seed; over the images alone if there is one seed."""
    draw = np.random.default_rng(0)
    seeds, images = changes.shape
    drawn = []
    for _ in range(_RESAMPLES):
        chosen = np.ix_(draw.integers(seeds, size=seeds), draw.integers(images, size=images))
        drawn.append(float(np.mean(100 * changes[chosen].mean(1) / rates[chosen].mean(1))))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(np.mean(100 * changes.mean(1) / rates.mean(1))), float(low), float(high))
