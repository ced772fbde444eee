"""Evaluates rate and distortion of a model on a set of images, one row per image."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lic.data.cache import PackedImages
from lic.evaluation.decibels import ms_ssim_to_db
from lic.evaluation.msssim import ms_ssim
from lic.losses.criterion import PEAK
from lic.losses.msssim import SMALLEST
from lic.models.acceleration import matrix_units
from lic.models.compressai_parts import compute_padding

#: The supported CompressAI models halve the size six times from the image to z.
STRIDE = 64

#: Pixels to evaluate in one batch of images of equal size.
_BATCH_PIXELS = {"cpu": 1 << 19, "cuda": 1 << 24}

COLUMNS = ("image", "pixels", "bpp", "bpp_y", "bpp_z", "mse", "psnr", "ms_ssim", "ms_ssim_db")


@dataclass(frozen=True)
class OperatingPoint:
    """A codec's operating point on an image set: means over the images.

    bpp (and its parts) in bits per pixel from the entropy estimate; mse on the 0..255 scale;
    psnr in dB, averaged over images; ms_ssim averaged over images and only then turned into
    dB, both as CompressAI reports them; NaN where one image has none.
    """

    bpp: float
    bpp_y: float
    bpp_z: float
    mse: float
    psnr: float
    ms_ssim: float
    ms_ssim_db: float


def psnr(mse: float) -> float:
    """PSNR in dB of an MSE on the 0..255 scale; identical images (MSE 0) give infinity."""
    return 10 * math.log10(PEAK**2 / mse) if mse else math.inf


def similarity(decoded: Tensor, original: Tensor) -> list[float]:
    """MS-SSIM of each image of two N x 3 x H x W batches on the 0..255 scale; NaN below 161 pixels."""
    if min(original.shape[2:]) < SMALLEST:
        return [math.nan] * len(original)
    return ms_ssim(decoded, original).tolist()


def aggregate(table: pd.DataFrame) -> OperatingPoint:
    """The mean row of a table of `evaluate`."""
    means = table[["bpp", "bpp_y", "bpp_z", "mse", "psnr", "ms_ssim"]].mean(skipna=False)
    values = {str(name): float(value) for name, value in means.items()}
    return OperatingPoint(**values, ms_ssim_db=ms_ssim_to_db(values["ms_ssim"]))


@torch.no_grad()
def evaluate(
    model: nn.Module,
    images: PackedImages,
    device: str = "cpu",
    crop: int | None = None,
    with_ms_ssim: bool = True,
) -> pd.DataFrame:
    """The per-image table of `COLUMNS`, in the order of `images`.

    The reconstruction is rounded to 8 bits before measuring; bpp is the entropy estimate. An image whose
    sides are not multiples of 64 is padded as in CompressAI's evaluation, and cropped afterwards. `crop`
    first takes the central crop x crop pixels. MS-SSIM is NaN if not requested, or if the image is smaller
    than 161 pixels.
    """
    training = model.training
    model.eval()
    rows: dict[int, dict[str, float | str]] = {}
    with matrix_units(tf32=False):  # measured in fp32, whatever the training precision
        for numbers, batch in _batches(images, device, crop):
            for number, row in zip(numbers, _measure(model, batch, with_ms_ssim), strict=True):
                rows[number] = {"image": images.images[number].name, **row}
    model.train(training)
    return pd.DataFrame([rows[number] for number in range(len(images))], columns=list(COLUMNS))


@torch.no_grad()
def measure_image(model: nn.Module, pixels: NDArray[np.uint8]) -> dict[str, float]:
    """The row of `evaluate` of one image, H x W x 3 uint8, for a model in evaluation mode on the CPU."""
    return _measure(model, batch_of(pixels), True)[0]


def batch_of(pixels: NDArray[np.uint8]) -> Tensor:
    """An image, H x W x 3 uint8, as a batch of one: 1 x 3 x H x W float32 in [0, 1], contiguous."""
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))[None].float().div_(PEAK)


def padding_of(height: int, width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The padding of an image for a model, as in CompressAI's evaluation, and the inverse cropping."""
    pads: tuple[tuple[int, ...], tuple[int, ...]] = compute_padding(height, width, min_div=STRIDE)
    return pads


def _batches(images: PackedImages, device: str, crop: int | None) -> Iterator[tuple[list[int], Tensor]]:
    """Batches of images of equal size: their numbers, and N x 3 x H x W float32 in [0, 1] in channels-last
    memory format, which is faster on every device without a backward pass."""
    by_size = defaultdict(list)
    for number, image in enumerate(images.images):
        size = (image.height, image.width)
        by_size[tuple(min(side, crop or side) for side in size)].append(number)
    for (height, width), numbers in by_size.items():
        at_once = max(1, _BATCH_PIXELS[torch.device(device).type] // (height * width))
        for start in range(0, len(numbers), at_once):
            part = numbers[start : start + at_once]
            pixels = np.stack([_centre(images[number], height, width) for number in part])
            yield part, torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device).float().div_(PEAK)


def _centre(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _measure(model: nn.Module, batch: Tensor, with_ms_ssim: bool) -> list[dict[str, float]]:
    return measures(batch, *reconstruct(model, batch), with_ms_ssim)


def reconstruct(model: nn.Module, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Run a model on a batch, N x 3 x H x W in [0, 1]. Returns the decoded images, of the same shape with
    integer values from 0 to 255, and the likelihoods of the latents, including the padding's."""
    height, width = batch.shape[2:]
    padding, cropping = padding_of(height, width)
    output = model(nn.functional.pad(batch, padding, mode="constant", value=0))
    decoded = nn.functional.pad(output["x_hat"], cropping).clamp(0, 1).mul(PEAK).round()
    return decoded, output["likelihoods"]


def measures(
    batch: Tensor, decoded: Tensor, likelihoods: dict[str, Tensor], with_ms_ssim: bool
) -> list[dict[str, float]]:
    """The rows of `evaluate`, without names, for a batch and the result of `reconstruct`."""
    count, _, height, width = batch.shape
    original = batch.mul(PEAK).round()
    bpp = {
        name: (likelihood.log().flatten(1).sum(1) / (-math.log(2) * height * width)).tolist()
        for name, likelihood in likelihoods.items()
    }
    mse = (decoded - original).square().flatten(1).mean(1).tolist()
    similarities = similarity(decoded, original) if with_ms_ssim else [math.nan] * count
    rows = []
    for i in range(count):
        bpp_z = bpp["z"][i] if "z" in bpp else 0.0
        rows.append(
            {
                "pixels": height * width,
                "bpp": bpp["y"][i] + bpp_z,
                "bpp_y": bpp["y"][i],
                "bpp_z": bpp_z,
                "mse": mse[i],
                "psnr": psnr(mse[i]),
                "ms_ssim": similarities[i],
                "ms_ssim_db": ms_ssim_to_db(similarities[i]),
            }
        )
    return rows
