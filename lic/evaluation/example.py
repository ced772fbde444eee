"""One image coded by the baseline and the tuned model: figures 3 and 4 of Pakdaman and Gabbouj (2024)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lic.data.cache import PackedImages
from lic.evaluation.latents import Examined, correlation_sum, examine
from lic.paper import CORRELATION_RATIOS

#: Sides of the crops, in pixels.
CROP = 128


@dataclass(frozen=True)
class Example:
    """One image, H x W x 3 uint8, coded by both models; `crop` holds the rows and columns to show."""

    name: str
    original: NDArray[np.uint8] = field(repr=False)
    baseline: Examined
    tuned: Examined
    crop: tuple[slice, slice]

    @staticmethod
    def of(name: str, pixels: NDArray[np.uint8], baseline: nn.Module, tuned: nn.Module) -> Example:
        """Run an image, H x W x 3 uint8, through two models in evaluation mode on the CPU, and find the crop
        in which their reconstructions differ most. Raises ModelError if a model has no latent y."""
        before, after = examine(baseline, pixels), examine(tuned, pixels)
        return Example(name, pixels, before, after, most_different(before.decoded, after.decoded, CROP))

    @property
    def ratio(self) -> float:
        """Summed channel correlation of the tuned model over that of the baseline; NaN if the latter is 0."""
        before = correlation_sum(self.baseline.correlation)
        return correlation_sum(self.tuned.correlation) / before if before else float("nan")

    @property
    def paper_ratio(self) -> float | None:
        """The paper's value of `ratio` for this image, if it reports one."""
        return CORRELATION_RATIOS.get(self.name)

    def captioned(self) -> list[tuple[str, NDArray[np.uint8]]]:
        """The crops of the original and both reconstructions, with captions; rate, PSNR and MS-SSIM are those
        of the whole image."""
        shown = [(f"{self.name}: original", self.original[self.crop])]
        for name, model in (("baseline", self.baseline), ("tuned", self.tuned)):
            metrics = model.metrics
            ms_ssim = "-" if math.isnan(metrics["ms_ssim"]) else f"{metrics['ms_ssim']:.4f}"
            quality = f"{metrics['psnr']:.2f} dB, MS-SSIM {ms_ssim}"
            shown.append((f"{name}: {metrics['bpp']:.4f} bpp, {quality}", model.decoded[self.crop]))
        return shown


def image_names(images: PackedImages) -> list[str]:
    """The images' names without their endings."""
    return [str(PurePosixPath(image.name).with_suffix("")) for image in images.images]


def papers_images(images: PackedImages) -> dict[str, int]:
    """Name and number of the images that the paper shows, those of them that are there."""
    return {name: n for n, name in enumerate(image_names(images)) if name in CORRELATION_RATIOS}


def examples(
    images: PackedImages, numbers: Iterable[int], baseline: nn.Module, tuned: nn.Module
) -> list[Example]:
    """The images of these numbers through two models (Example.of). Raises ModelError."""
    names = image_names(images)
    return [Example.of(names[number], images[number], baseline, tuned) for number in numbers]


def most_different(
    first: NDArray[np.uint8], second: NDArray[np.uint8], side: int, step: int = 8
) -> tuple[slice, slice]:
    """The rows and columns of the side x side window (on a grid of `step` pixels; smaller in a smaller image)
    in which two images, H x W x 3, have the largest mean squared difference; the first of several."""
    squares = np.square(first.astype(np.int64) - second).sum(2)
    height, width = (min(side, length) for length in squares.shape)
    total = np.pad(squares, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    window = total[height:, width:] - total[:-height, width:] - total[height:, :-width]
    window = (window + total[:-height, :-width])[::step, ::step]
    row, column = np.unravel_index(int(window.argmax()), window.shape)
    top, left = int(row) * step, int(column) * step
    return slice(top, top + height), slice(left, left + width)
