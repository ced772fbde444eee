"""Bjontegaard deltas between rate-distortion curves, at a single point, and with confidence intervals."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator

from lic.errors import LictuneError

#: Minimum fraction of their joint quality (or rate) range that two curves must share.
MIN_OVERLAP = 0.5


class CurveError(LictuneError):
    """A curve, or pair of curves, has no Bjontegaard delta; the message says why."""


@dataclass(frozen=True)
class Curve:
    """A rate-distortion curve: `rate` in bits per pixel, `quality` in dB, sorted by rate.

    Raises CurveError unless it has two or more finite points along which quality rises with
    rate: other curves have no inverse, and no meaningful delta.
    """

    rate: NDArray[np.float64]
    quality: NDArray[np.float64]

    @staticmethod
    def of(rate: ArrayLike, quality: ArrayLike) -> Curve:
        """The curve through the points, given in any order."""
        rates, qualities = np.asarray(rate, float), np.asarray(quality, float)
        order = np.argsort(rates)
        return Curve(rates[order], qualities[order])

    @staticmethod
    def front(rate: ArrayLike, quality: ArrayLike) -> Curve:
        """The curve through the Pareto-optimal points: drops points with more bits and no more quality than
        another. A monotone curve keeps all its points."""
        rates, qualities = np.asarray(rate, float), np.asarray(quality, float)
        order = np.lexsort((-qualities, rates))
        best_before = np.maximum.accumulate(np.r_[-np.inf, qualities[order][:-1]])
        kept = order[qualities[order] > best_before]
        return Curve(rates[kept], qualities[kept])

    def __post_init__(self) -> None:
        if len(self.rate) < 2 or len(self.rate) != len(self.quality):
            raise CurveError(f"a rate-distortion curve needs two points or more, not {len(self.rate)}")
        if not (np.isfinite(self.rate).all() and np.isfinite(self.quality).all()):
            raise CurveError("the rate-distortion curve has a point that is not finite")
        if self.rate[0] <= 0:
            raise CurveError(f"the rate-distortion curve has a rate of {self.rate[0]:.4g} bpp")
        # Compare logarithms, which are interpolated: different rates can have equal logarithms.
        falls = np.flatnonzero((np.diff(np.log10(self.rate)) <= 0) | (np.diff(self.quality) <= 0))
        if len(falls):
            i = falls[0]
            raise CurveError(
                f"the rate-distortion curve is not monotone: from {self.rate[i]:.4f} to "
                f"{self.rate[i + 1]:.4f} bpp quality goes from {self.quality[i]:.3f} to "
                f"{self.quality[i + 1]:.3f} dB"
            )


def overlap(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Length of the common range over the length of the joint range."""
    common = min(first.max(), second.max()) - max(first.min(), second.min())
    return float(max(0.0, common) / (max(first.max(), second.max()) - min(first.min(), second.min())))


def bd_rate(anchor: Curve, test: Curve) -> float:
    """Mean difference of rate at equal quality, in percent of the anchor's (negative saves bits).

    Bjontegaard (VCEG-M33) with PCHIP interpolation. Raises CurveError for too small an overlap.
    """
    _check_overlap(anchor.quality, test.quality, "quality")
    return float(_delta("bd_rate", anchor, test))


def bd_quality(anchor: Curve, test: Curve) -> float:
    """Mean difference of quality at equal rate, in dB (positive is better): BD-PSNR and the like."""
    _check_overlap(np.log(anchor.rate), np.log(test.rate), "rate")
    return float(_delta("bd_psnr", anchor, test))


def _check_overlap(anchor: NDArray[np.float64], test: NDArray[np.float64], what: str) -> None:
    share = overlap(anchor, test)
    if share < MIN_OVERLAP:
        raise CurveError(
            f"the two curves share {100 * share:.0f} % of their range of {what}; "
            f"a Bjontegaard delta needs {100 * MIN_OVERLAP:.0f} %"
        )


def _delta(measure: str, anchor: Curve, test: Curve) -> float:
    import bjontegaard  # and with it matplotlib

    delta: float = getattr(bjontegaard, measure)(
        anchor.rate,
        anchor.quality,
        test.rate,
        test.quality,
        method="pchip",
        require_matching_points=False,
        min_overlap=0,  # checked above, with an error instead of a warning
    )
    return delta


def point_bd_rate(baseline: Curve, rate: float, quality: float) -> float:
    """BD-rate's integrand at one point: 100 (rate / R_base(quality) - 1), in percent.

    R_base is the PCHIP interpolation of log rate over quality through the baseline curve, extended
    past its ends along the slope of the end interval.
    """
    log_rate = PchipInterpolator(baseline.quality, np.log(baseline.rate))
    inside = float(np.clip(quality, baseline.quality[0], baseline.quality[-1]))
    end = slice(0, 2) if quality < inside else slice(-2, None)
    slope = float(np.diff(np.log(baseline.rate[end]))[0] / np.diff(baseline.quality[end])[0])
    base = float(log_rate(inside)) + slope * (quality - inside)
    return float(100 * np.expm1(np.log(rate) - base))


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval, in percent."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ImageCurve:
    """A codec's points on the same images: `rate` and `quality` are points x images.

    `combine` turns the mean quality over images into the curve's quality (MS-SSIM is averaged
    before it becomes dB).
    """

    rate: NDArray[np.float64]
    quality: NDArray[np.float64]
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]] = lambda mean: mean

    @staticmethod
    def of(
        rate: Sequence[Sequence[float]],
        quality: Sequence[Sequence[float]],
        combine: Callable[[NDArray[np.float64]], NDArray[np.float64]] = lambda mean: mean,
    ) -> ImageCurve:
        """The curve through points measured per image. Raises CurveError if there is no point, or if the
        points were measured on different numbers of images."""
        counts = sorted({len(row) for row in (*rate, *quality)})
        if len(counts) != 1:
            raise CurveError(f"its points were measured on {' and '.join(map(str, counts)) or 'no'} images")
        return ImageCurve(np.array(rate, float), np.array(quality, float), combine)

    def over(self, images: Sequence[int] | NDArray[np.int64] | slice) -> Curve:
        """The curve of means over a choice of images (with repetition)."""
        return Curve.of(self.rate[:, images].mean(axis=1), self.combine(self.quality[:, images].mean(axis=1)))

    def by_block(self, blocks: int) -> ImageCurve:
        """Merge the points of several codecs, given one after the other (such as one per training seed), into
        one curve: its columns are the images of the first codec, then of the second, and so on."""
        rate, quality = (
            table.reshape(blocks, -1, table.shape[1]).transpose(1, 0, 2).reshape(len(table) // blocks, -1)
            for table in (self.rate, self.quality)
        )
        return ImageCurve(rate, quality, self.combine)


def bd_rate_interval(
    anchor: ImageCurve, test: ImageCurve, resamples: int = 1000, seed: int = 0, blocks: int = 1
) -> Interval:
    """BD-rate with its 95 % interval by paired bootstrap over the images.

    Each resample draws images with replacement, the same for both codecs. With several `blocks`, the columns
    repeat the same images once per block (training seed); blocks are resampled as well, with the same images
    in each. Raises CurveError as `bd_rate` does, if the two curves have different numbers of images, or if
    more than 5 % of the resamples have no BD-rate.
    """
    if anchor.rate.shape[1] != test.rate.shape[1]:
        raise CurveError(
            f"one curve was measured on {anchor.rate.shape[1]} images, the other on {test.rate.shape[1]}"
        )
    value = bd_rate(anchor.over(slice(None)), test.over(slice(None)))
    draw = np.random.default_rng(seed)
    count = anchor.rate.shape[1] // blocks
    drawn = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(resamples):
            images = draw.integers(count, size=count)
            if blocks > 1:
                images = (draw.integers(blocks, size=blocks)[:, None] * count + images).ravel()
            try:
                drawn.append(bd_rate(anchor.over(images), test.over(images)))
            except CurveError:
                continue
    if len(drawn) < 0.95 * resamples:
        raise CurveError(f"{resamples - len(drawn)} of {resamples} resamples of the images have no BD-rate")
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(value, float(low), float(high))
