"""MS-SSIM of 8-bit images, with the values of pytorch_msssim in less than half the time.

Wang, Simoncelli and Bovik (2003), 'Multiscale structural similarity for image quality assessment', with the
constants in common use: five scales, an 11-tap Gaussian window of sigma 1.5, K = (0.01, 0.03).

SSIM needs windowed means of x, y, x^2 + y^2 and xy. The separable window runs along the columns: they are
adjacent in memory and fill a CPU's vector units, which the three channels of an image do not.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lic.files import one_line
from lic.losses.criterion import PEAK
from lic.losses.msssim import K1, K2, SIGMA, SMALLEST, TAPS, WEIGHTS

#: Number of columns filtered together: a multiple of any CPU's vector length.
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
            odd = [side % 2 for side in x.shape[2:]]
            x, y = (nn.functional.avg_pool2d(image, 2, padding=odd) for image in (x, y))
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


def _windowed(images: Tensor) -> Tensor:
    """Gaussian-weighted means over all windows that lie inside, of ... x H x W: ... x W' x H', transposed."""
    height, width = images.shape[-2:]
    down = _down(images.flatten(0, -3))
    means = _down(down.transpose(1, 2))[:, : width - TAPS + 1, : height - TAPS + 1]
    found: Tensor = means.unflatten(0, images.shape[:-2])
    return found


def _down(planes: Tensor) -> Tensor:
    """Apply the window along the height of N x H x W: N x (H - 10) x W, the width padded to whole lanes.
    Columns act as the channels of a depthwise filter, adjacent in memory."""
    count, height, width = planes.shape
    filled = planes
    if width % _LANES or not planes.is_contiguous():
        # The content of the padding columns does not matter: lanes are independent.
        filled = planes.new_empty(count, height, width + -width % _LANES)
        filled[..., :width] = planes
    lanes = filled.view(count, height, -1, _LANES).permute(0, 3, 1, 2)
    means = nn.functional.conv2d(lanes, _window(planes.device), groups=_LANES)
    return means.permute(0, 2, 3, 1).flatten(2)


@functools.cache
def _window(device: torch.device) -> Tensor:
    taps = torch.arange(TAPS, dtype=torch.float32) - TAPS // 2
    gauss = torch.exp(-taps.square() / (2 * SIGMA**2))
    return (gauss / gauss.sum()).view(1, 1, TAPS, 1).repeat(_LANES, 1, 1, 1).to(device)
