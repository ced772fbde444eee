"""MS-SSIM as a training loss: the values of pytorch_msssim, with a gradient that is always finite.

Wang, Simoncelli and Bovik (2003), 'Multiscale structural similarity for image quality assessment', with the
constants in common use (lic.evaluation.msssim measures 8-bit images with the same).
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

#: Exponents of the five scales, the finest first.
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

#: The Gaussian window, and the constants of luminance and of contrast for a peak of 1.
TAPS, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03

#: Minimum side in pixels: MS-SSIM halves the image four times and then applies its window.
SMALLEST = (TAPS - 1) * 2**4 + 1

#: The gradient takes the mean similarity of a scale to be at least this. Early in training it can be
#: negative; then MS-SSIM is 0, and has no finite gradient.
_LEAST = 1e-4


def ms_ssim(decoded: Tensor, original: Tensor) -> Tensor:
    """Mean MS-SSIM of two N x 3 x H x W batches in [0, 1], H and W at least `SMALLEST`: a scalar."""
    x, y, means = decoded, original, []
    for scale in range(len(WEIGHTS)):
        if scale:
            odd = [side % 2 for side in x.shape[2:]]
            x, y = (nn.functional.avg_pool2d(image, 2, padding=odd) for image in (x, y))
        mean_x, mean_y, squares, cross = _windowed(torch.stack([x, y, x * x + y * y, x * y]))
        of_means, squares_of_means = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
        similarity = (2 * (cross - of_means) + K2**2) / (squares - squares_of_means + K2**2)
        if scale == len(WEIGHTS) - 1:
            similarity = similarity * ((2 * of_means + K1**2) / (squares_of_means + K1**2))
        means.append(similarity.mean((-2, -1)))
    positive = _product(means, _LEAST)
    return (positive + (_product(means, 0.0) - positive).detach()).mean()


def _product(means: list[Tensor], least: float) -> Tensor:
    """The weighted product of the means of the scales, each taken to be at least `least`."""
    powers = [mean.clamp(min=least) ** weight for mean, weight in zip(means, WEIGHTS, strict=True)]
    return functools.reduce(torch.mul, powers)  # torch.prod's gradient waits for the GPU, as no graph may


def _windowed(images: Tensor) -> Tensor:
    """Gaussian-weighted means over all windows that lie inside, of ... x H x W: ... x H - 10 x W - 10.

    Sums of shifted images: a convolution may use TF32, in which the variances would vanish, and on a CPU it
    takes as long."""
    gauss = [math.exp(-((k - TAPS // 2) ** 2) / (2 * SIGMA**2)) for k in range(TAPS)]
    for axis in (-2, -1):
        size = images.shape[axis] - TAPS + 1
        shifted = [images.narrow(axis, k, size) for k in range(TAPS)]
        means = gauss[TAPS // 2] / sum(gauss) * shifted[TAPS // 2]
        for k in range(TAPS // 2):  # the window is symmetric
            means = torch.add(means, shifted[k] + shifted[-1 - k], alpha=gauss[k] / sum(gauss))
        images = means
    return images
