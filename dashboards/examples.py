"""Two images through the baseline and the tuned model of one rate: figures 3 and 4 of the paper."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lic.data.sets import ImageSet, test_set
from lic.latents import Examined, correlation_sum, examine
from lic.models import build
from search.folder import OpenedSearch, final_weights
from search.plan import template_of
from search.records import TrialRecord
from search.results import best_per_rate

#: The paper's images, and its ratios of the summed correlation, tuned to baseline, on them (figure 4).
PAPER_RATIOS = {"kodim07": 0.51, "kodim08": 0.42}

#: Sides of the crops, in pixels.
CROP = 128

#: Larger images are shown only where the set has no others, so that the report stays quick.
_MANY_PIXELS = 1 << 20


class ExamplesError(ValueError):
    """Why there are no examples to show; one sentence."""


@dataclass(frozen=True)
class Example:
    """One image, H x W x 3 uint8, through both models; `crop` is the rows and columns to look at."""

    name: str
    original: NDArray[np.uint8] = field(repr=False)
    baseline: Examined
    tuned: Examined
    crop: tuple[slice, slice]

    @property
    def ratio(self) -> float:
        """The summed correlation of the tuned model's channels to the baseline's; NaN where that is 0."""
        before = correlation_sum(self.baseline.correlation)
        return correlation_sum(self.tuned.correlation) / before if before else float("nan")

    @property
    def paper_ratio(self) -> float | None:
        """What the paper has for `ratio` of this image."""
        return PAPER_RATIOS.get(self.name)


@dataclass(frozen=True)
class Examples:
    """The rate that is shown: its kept trial, its baseline, the trial's rate change on the test set in
    percent, and the images."""

    tuned: TrialRecord
    baseline: TrialRecord
    rate_change: float
    images: list[Example]


def examples(search: OpenedSearch) -> Examples:
    """Examples of the rate whose kept trial has the lowest rate change on the test set. Raises ExamplesError
    where no trial is kept, or its checkpoint, the baseline's or the images are gone."""
    change, tuned = _shown(search)
    baseline = search.records.baselines[tuned.quality]
    try:
        chosen = _images(search)
        before, after = _model(search, baseline), _model(search, tuned)
        found = [_example(name, pixels, before, after) for name, pixels in chosen]
    except (OSError, ValueError, RuntimeError) as error:
        raise ExamplesError(str(error).partition("\n")[0]) from error
    return Examples(tuned, baseline, change, found)


def _shown(search: OpenedSearch) -> tuple[float, TrialRecord]:
    records, found = search.records, []
    for record in best_per_rate(records).values():
        change = records.rate_change(record, records.epochs, records.test_set)
        if record.alpha and change is not None:
            found.append((change, record.name, record))
    if not found:
        raise ExamplesError("no rate has a kept trial yet")
    change, _, record = min(found)
    return change, record


def _images(search: OpenedSearch) -> list[tuple[str, NDArray[np.uint8]]]:
    """The paper's two images where the search was reported on them, else the first two of its set that are
    not too large. Raises ImageError, ExamplesError."""
    test_images = _test_set(search)
    packed = test_images.images
    names = [str(PurePosixPath(image.name).with_suffix("")) for image in packed.images]
    numbers = list(range(len(names)))
    if test_images.name.startswith("kodak") and PAPER_RATIOS.keys() <= set(names):
        numbers = [names.index(name) for name in PAPER_RATIOS]
    else:
        pixels = [image.height * image.width for image in packed.images]
        numbers.sort(key=lambda number: max(pixels[number], _MANY_PIXELS))
    return [(names[number], packed[number]) for number in numbers[:2]]


def _test_set(search: OpenedSearch) -> ImageSet:
    """The images that the search was reported on, and no others. Raises ImageError, ExamplesError."""
    config, name = template_of(search.settings).images, search.records.test_set
    # A set that was generated because there was no network is not to be fetched now.
    test = "deadleaves" if config.test == "auto" and name.startswith("deadleaves") else config.test
    found = test_set(config.kodak, test, config.test_images, Path(config.cache))
    recorded = search.environment.get("test_fingerprint", found.images.fingerprint)
    if found.name != name or found.images.fingerprint != recorded:
        raise ExamplesError(f"the images of {name} that it was measured on are not there any more")
    return found


def _model(search: OpenedSearch, record: TrialRecord) -> nn.Module:
    settings = search.settings
    model = build(settings.model, settings.width, settings.latent_width)
    model.load_state_dict(final_weights(search, record))
    return model.eval()


def _example(name: str, pixels: NDArray[np.uint8], before: nn.Module, after: nn.Module) -> Example:
    baseline, tuned = examine(before, pixels), examine(after, pixels)
    return Example(name, pixels, baseline, tuned, most_different(baseline.decoded, tuned.decoded, CROP))


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


def captioned(example: Example) -> list[tuple[str, NDArray[np.uint8]]]:
    """The crops of the original and of both reconstructions, with captions: bits, PSNR and MS-SSIM are those
    of the whole image."""
    shown = [(f"{example.name}: original", example.original[example.crop])]
    for name, model in (("baseline", example.baseline), ("tuned", example.tuned)):
        figures = model.figures
        quality = f"{figures['psnr']:.2f} dB, MS-SSIM {figures['ms_ssim']:.4f}"
        shown.append((f"{name}: {figures['bpp']:.4f} bpp, {quality}", model.decoded[example.crop]))
    return shown
