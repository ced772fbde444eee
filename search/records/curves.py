"""Curves and rate changes from per-image metrics, over images and training seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from lic.evaluation.bdrate import ImageCurve, Interval, bd_rate, bd_rate_interval
from lic.evaluation.decibels import ms_ssim_to_db
from lic.recipe import MSE, Distortion
from search.base.space import SearchPoint
from search.decide.objective import (
    Columns,
    Reading,
    image_costs,
    means_of,
    rate_change,
    rate_change_interval,
)

#: Groups of images that a jackknife leaves out in turn, at most.
_GROUPS = 64

#: Half the width of a 95 % interval in standard deviations of a normal distribution.
_NORMAL = 1.96

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


def interval_over_seeds(values: Sequence[float], image_sigma: float, images: int, looks: int = 1) -> Interval:
    """The mean of a figure over seeds with its 95 % interval over seeds and images; `image_sigma` is the
    standard deviation that the mean has from the choice of `images` images.

    Student's t over the seeds and over the images, their half-widths added in quadrature; over the images
    alone if there is one seed. A bootstrap over two or three seeds covers no more than their range. Of
    `looks` intervals, one after each seed, each has the share 1 / looks of the 5 % (Bonferroni), so that all
    of them hold the true figure in 95 % of cases, and so does the one at which the looking ends
    (`python -m tests.bench.racing`)."""
    count, tail = len(values), 0.05 / looks / 2
    of_seeds = t.ppf(1 - tail, count - 1) * np.std(values, ddof=1) / np.sqrt(count) if count > 1 else 0.0
    of_images = t.ppf(1 - tail, images - 1) * image_sigma if images > 1 else 0.0
    mean, half = float(np.mean(values)), float(np.hypot(of_seeds, of_images))
    return Interval(mean, mean - half, mean + half)


def rate_change_over_seeds(
    objective: str,
    point: SearchPoint,
    runs: Sequence[tuple[Columns, Mapping[int, Columns]]],
    image_set: str,
    looks: int = 1,
    distortion: Distortion = MSE,
) -> Interval:
    """The mean rate change in percent of a point over seeds and images, by this objective, with its 95 %
    interval (`interval_over_seeds`). `runs` holds, for every seed, the columns of the point and those of the
    baselines by quality. What the choice of images adds is by jackknife, with the same images for every
    seed."""
    count = len(runs[0][0][f"{image_set}/bpp"])

    def changes(images: NDArray[np.int64] | slice) -> list[float]:
        found = []
        for own, baselines in runs:
            readings = {q: Reading(means_of(base, image_set, images), {}) for q, base in baselines.items()}
            reading = Reading(means_of(own, image_set, images), {})
            found.append(rate_change(objective, point, reading, readings, image_set, distortion).value)
        return found

    groups = np.array_split(np.arange(count), min(count, _GROUPS)) if count > 1 else []
    without = [np.mean(changes(np.delete(np.arange(count), group))) for group in groups]
    sigma = np.std(without) * np.sqrt(len(groups) - 1) if groups else 0.0
    return interval_over_seeds(changes(slice(None)), float(sigma), count, looks)


def bd_rate_over_seeds(
    seeds: Sequence[tuple[Sequence[Columns], Sequence[Columns]]], image_set: str, column: str, looks: int = 1
) -> Interval:
    """The mean BD-rate in percent over seeds with its 95 % interval (`interval_over_seeds`). `seeds` has the
    baselines and the points of each seed, in the same order of qualities. What the choice of images adds is
    by bootstrap, of the curves through the means over the seeds. Raises CurveError."""
    curves = [tuple(image_curve(part, image_set, column) for part in seed) for seed in seeds]
    every = slice(None)
    values = [bd_rate(anchor.over(every), test.over(every)) for anchor, test in curves]
    anchor, test = (
        ImageCurve(
            np.mean([curve.rate for curve in part], axis=0),
            np.mean([curve.quality for curve in part], axis=0),
            part[0].combine,
        )
        for part in zip(*curves, strict=True)
    )
    of_images = bd_rate_interval(anchor, test)
    sigma = (of_images.high - of_images.low) / 2 / _NORMAL
    return interval_over_seeds(values, sigma, anchor.rate.shape[1], looks)


def rd_cost_change_over_seeds(pairs: Sequence[Pair], image_set: str, lmbda: float) -> Interval:
    """The mean change of J in percent of the rate of a point over seeds and images, with its 95 %
    interval."""
    changes, rates = zip(*(costs_beyond(pair, image_set, lmbda) for pair in pairs), strict=True)
    return rate_change_interval(np.array(changes), np.array(rates))
