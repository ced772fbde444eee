"""Curves and rate changes from per-image metrics, over images and training seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lic.evaluation.bdrate import ImageCurve, Interval
from lic.evaluation.decibels import ms_ssim_to_db
from search.decide.objective import image_costs, rate_change_interval

#: Metrics per image of a training run, by name, such as 'kodak/bpp'.
Columns = Mapping[str, Sequence[float]]

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


def rate_change_over_seeds(pairs: Sequence[Pair], image_set: str, lmbda: float) -> Interval:
    """The mean rate change in percent of a point over seeds and images, with its 95 % interval."""
    changes, rates = zip(*(costs_beyond(pair, image_set, lmbda) for pair in pairs), strict=True)
    return rate_change_interval(np.array(changes), np.array(rates))
