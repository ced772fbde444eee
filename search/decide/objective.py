"""The objective of a trial: its rate change against the baseline of the same rate and epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lic.evaluation.bdrate import Interval

_RESAMPLES = 1000


def rd_cost(figures: Mapping[str, float], image_set: str, lmbda: float) -> float:
    """J = R + lambda_d D, in bits per pixel, of a reading that holds '<image_set>/bpp' and
    '<image_set>/mse' (mean squared error on the 0..255 scale)."""
    return figures[f"{image_set}/bpp"] + lmbda * figures[f"{image_set}/mse"]


def image_costs(columns: Mapping[str, Sequence[float]], image_set: str, lmbda: float) -> NDArray[np.float64]:
    """J of every image, from columns named as `rd_cost`'s figures."""
    return np.asarray(columns[f"{image_set}/bpp"]) + lmbda * np.asarray(columns[f"{image_set}/mse"])


def rate_change(
    trial: Mapping[str, float], baseline: Mapping[str, float], image_set: str, lmbda: float
) -> float:
    """100 (J - J0) / R0 in percent, J = R + lambda_d D; negative saves bits.

    Both readings are of the same epoch and seed, as `rd_cost` needs them.
    Along a codec's own RD curve dR/dD = -lambda_d, so to first order this is the change of bit
    rate at equal quality.
    """
    difference = rd_cost(trial, image_set, lmbda) - rd_cost(baseline, image_set, lmbda)
    return 100 * difference / baseline[f"{image_set}/bpp"]


def rate_change_variance(
    trial: Mapping[str, Sequence[float]],
    baseline: Mapping[str, Sequence[float]],
    image_set: str,
    lmbda: float,
) -> float:
    """Variance of `rate_change` over a paired bootstrap of the images, in percent squared.

    The columns are per image. A bootstrap of a mean needs no drawing: its variance is that of the
    images' differences over their number (Efron and Tibshirani 1993, section 5.4).
    """
    difference = image_costs(trial, image_set, lmbda) - image_costs(baseline, image_set, lmbda)
    rate = np.mean(baseline[f"{image_set}/bpp"])
    return float((100 / rate) ** 2 * difference.var() / len(difference))


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
