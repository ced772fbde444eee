"""MS-SSIM of 8-bit images, with the values of pytorch_msssim in a fraction of the time.

Wang, Simoncelli and Bovik (2003), 'Multiscale structural similarity for image quality assessment', with the
constants in common use: five scales, an 11-tap Gaussian window of sigma 1.5, K = (0.01, 0.03).

SSIM needs windowed means of x, y, x^2 + y^2 and xy, by a separable window. Blocks of adjacent columns act
as the channels of a convolution, and fill a CPU's vector units, which the three channels of an image do not:
down the columns it is a depthwise convolution, along the rows a full one, whose weights are a banded matrix
from two blocks to one. Its many products by zero cost less than a transposition of the images.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lic.files import one_line
from lic.losses.criterion import PEAK
from lic.losses.msssim import K1, K2, SIGMA, SMALLEST, TAPS, WEIGHTS

#: Number of columns filtered together: a multiple of any CPU's vector length, and at least TAPS - 1.
_LANES = 16

#: The stabilising constants of luminance and of contrast.
_C1, _C2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2


def ms_ssim(decoded: Tensor, original: Tensor) -> Tensor:
    """MS-SSIM of each image of two N x 3 x H x W batches on the 0..255 scale: N values, means over the
    channels. Both sides must be `SMALLEST` pixels or more."""
    x, y = decoded.contiguous(), original.contiguous()
    product = torch.ones((), device=x.device)
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            x, y = _halved(x), _halved(y)
        mean_x, mean_y, squares, cross = _windowed(torch.stack([x, y, x.square().add_(y.square()), x * y]))
        of_means = mean_x * mean_y
        squares_of_means = mean_x.square_().add_(mean_y.square_())
        cross.sub_(of_means).mul_(2).add_(_C2)
        similarity = cross.div_(squares.sub_(squares_of_means).add_(_C2))
        if scale == len(WEIGHTS) - 1:
            similarity *= of_means.mul_(2).add_(_C1) / squares_of_means.add_(_C1)
        product = product * similarity.mean((-2, -1)).relu() ** weight
    return product.mean(1)


def unmeasurable(images: Iterable[tuple[str, int, int]]) -> str:
    """Why MS-SSIM is undefined for these images, given by name, height and width; empty if it is defined."""
    small = [(name, height, width) for name, height, width in images if min(height, width) < SMALLEST]
    if not small:
        return ""
    name, height, width = small[0]
    others = f", and {len(small) - 1} more are as small" if len(small) > 1 else ""
    needs = f"MS-SSIM needs images of at least {SMALLEST} pixels on each side"
    return f"{needs}; {one_line(name, 80)} is {width} x {height}{others}"


def _halved(image: Tensor) -> Tensor:
    """The means of 2 x 2 pixels, of N x C x H x W; an odd side is padded by zeros as in pytorch_msssim."""
    odd = [side % 2 for side in image.shape[2:]]
    if any(odd):
        return nn.functional.avg_pool2d(image, 2, padding=odd)
    rows = image[:, :, ::2] + image[:, :, 1::2]
    return rows[..., ::2].add(rows[..., 1::2]).mul_(0.25)


def _windowed(images: Tensor) -> Tensor:
    """Gaussian-weighted means over all windows that lie inside, of ... x H x W: ... x H' x W'."""
    width = images.shape[-1]
    planes = images.flatten(0, -3)
    if width % _LANES:
        planes = nn.functional.pad(planes, (0, -width % _LANES))
    lanes = planes.unflatten(2, (-1, _LANES)).permute(0, 3, 1, 2)
    down = nn.functional.conv2d(lanes, _window(planes.device), groups=_LANES)
    # The block that the padding puts before the first is dropped; the one after the last completes that.
    means = nn.functional.conv2d(down, _banded(planes.device), padding=(0, 1)).permute(0, 2, 3, 1).flatten(2)
    found: Tensor = means[..., _LANES : _LANES + width - TAPS + 1].unflatten(0, images.shape[:-2])
    return found


@functools.cache
def _window(device: torch.device) -> Tensor:
    """The window down the columns: _LANES x 1 x TAPS x 1."""
    return _gauss().view(1, 1, TAPS, 1).repeat(_LANES, 1, 1, 1).to(device)


@functools.cache
def _banded(device: torch.device) -> Tensor:
    """The window along the rows, from the columns of two adjacent blocks to those of the first: _LANES x
    _LANES x 1 x 2, channels last."""
    band = torch.zeros(_LANES, 2 * _LANES)
    for column in range(_LANES):
        band[column, column : column + TAPS] = _gauss()
    weights = band.view(_LANES, 1, 2, _LANES).permute(0, 3, 1, 2)
    return weights.contiguous(memory_format=torch.channels_last).to(device)


def _gauss() -> Tensor:
    taps = torch.arange(TAPS, dtype=torch.float32) - TAPS // 2
    gauss = torch.exp(-taps.square() / (2 * SIGMA**2))
    return gauss / gauss.sum()
