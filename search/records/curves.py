"""Curves and rate changes from per-image metrics, over images and training seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lic.evaluation.bdrate import ImageCurve, Interval
from lic.evaluation.decibels import ms_ssim_to_db
from search.decide.objective import (
    Columns,
    Reading,
    image_costs,
    means_of,
    rate_change,
    rate_change_interval,
)

#: Resamples of a bootstrap.
_RESAMPLES = 500

#: The metrics of a training run and of its baseline with the same seed.
Pair = tuple[Columns, Columns]


def image_curve(points: Sequence[Columns], image_set: str, column: str) -> ImageCurve:
    """The per-image curve through these training runs by a distortion column, psnr or ms_ssim (converted to
    dB). Raises CurveError."""
    rate, quality = ([point[f"{image_set}/{name}"] for point in points] for name in ("bpp", column))
    return ImageCurve.of(rate, quality, *((ms_ssim_to_db,) if column == "ms_ssim" else ()))


def curves_over_seeds(
    seeds: Sequence[tuple[Sequence[Columns], Sequence[Columns]]], image_set: str, column: str
) -> tuple[ImageCurve, ImageCurve]:
    """The curves of the baselines and of the points, with the images of all seeds as blocks (see
    ImageCurve.by_block). `seeds` has the baselines and the points of each seed, in the same order of
    qualities. Raises CurveError."""
    anchors = [columns for seed, _ in seeds for columns in seed]
    tests = [columns for _, seed in seeds for columns in seed]
    anchor, test = (image_curve(part, image_set, column).by_block(len(seeds)) for part in (anchors, tests))
    return anchor, test


def costs_beyond(pair: Pair, image_set: str, lmbda: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Difference of J to the baseline per image, and the baseline's bits per pixel."""
    own, base = pair
    more = image_costs(own, image_set, lmbda) - image_costs(base, image_set, lmbda)
    return more, np.asarray(base[f"{image_set}/bpp"])


def rate_change_over_seeds(
    objective: str, quality: int, runs: Sequence[tuple[Columns, Mapping[int, Columns]]], image_set: str
) -> Interval:
    """The mean rate change in percent of a point over seeds and images, by this objective, with its 95 %
    interval. `runs` holds, for every seed, the columns of the point and those of the baselines by quality. A
    two-level bootstrap: seeds are drawn with repetition, and images, the same for every seed; over the
    images alone if there is one seed."""
    draw = np.random.default_rng(0)
    count = len(runs[0][0][f"{image_set}/bpp"])

    def mean(seeds: NDArray[np.int64], images: NDArray[np.int64] | slice) -> float:
        found = []
        for seed in seeds:
            own, baselines = runs[seed]
            readings = {q: Reading(means_of(base, image_set, images), {}) for q, base in baselines.items()}
            reading = Reading(means_of(own, image_set, images), {})
            found.append(rate_change(objective, quality, reading, readings, image_set).value)
        return float(np.mean(found))

    drawn = [
        mean(draw.integers(len(runs), size=len(runs)), draw.integers(count, size=count))
        for _ in range(_RESAMPLES)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(mean(np.arange(len(runs)), slice(None)), float(low), float(high))


def rd_cost_change_over_seeds(pairs: Sequence[Pair], image_set: str, lmbda: float) -> Interval:
    """The mean change of J in percent of the rate of a point over seeds and images, with its 95 %
    interval."""
    changes, rates = zip(*(costs_beyond(pair, image_set, lmbda) for pair in pairs), strict=True)
    return rate_change_interval(np.array(changes), np.array(rates))
