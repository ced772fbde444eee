"""MS-SSIM as a loss, against pytorch_msssim, which CompressAI trains with."""

from __future__ import annotations

import pytest
import pytorch_msssim
import torch
from torch import Tensor

from lic.losses.msssim import SMALLEST, ms_ssim


def pictures(height: int, width: int, noise: float) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(height + width)
    coarse = torch.rand(2, 3, height // 8 + 1, width // 8 + 1, generator=draw)
    original = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    return original, original + noise * torch.randn(original.shape, generator=draw)


@pytest.mark.parametrize(("height", "width"), [(SMALLEST, SMALLEST), (192, 256), (201, 333)])
@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_values_and_gradients_are_those_of_pytorch_msssim(height: int, width: int, noise: float) -> None:
    original, decoded = pictures(height, width, noise)
    decoded.requires_grad_()
    own, theirs = ms_ssim(decoded, original), pytorch_msssim.ms_ssim(decoded, original, data_range=1)
    torch.testing.assert_close(own, theirs, rtol=0, atol=2e-6)
    expected = torch.autograd.grad(theirs, decoded)[0]
    difference = torch.autograd.grad(own, decoded)[0] - expected
    assert float(difference.norm() / expected.norm()) < 1e-3


def test_in_double_precision_they_are_equal() -> None:
    original, decoded = (image.double() for image in pictures(192, 192, 0.05))
    theirs = pytorch_msssim.ms_ssim(decoded, original, data_range=1)
    torch.testing.assert_close(ms_ssim(decoded, original), theirs, rtol=0, atol=1e-6)  # their window is float


def test_a_negative_of_the_image_can_be_learnt_from() -> None:
    """Its structure is the opposite, so MS-SSIM is 0, where pytorch_msssim has no gradient to go on with."""
    original, _ = pictures(192, 192, 0.0)
    noise = torch.randn(original.shape, generator=torch.Generator().manual_seed(0))
    decoded = (0.5 + 0.05 * noise - 0.02 * original).requires_grad_()
    theirs = pytorch_msssim.ms_ssim(decoded, original, data_range=1)
    assert theirs == ms_ssim(decoded, original) == 0
    assert not torch.autograd.grad(theirs, decoded)[0].nan_to_num(0.0).any()
    for _ in range(40):
        (gradient,) = torch.autograd.grad(ms_ssim(decoded, original), decoded)
        assert gradient.isfinite().all()
        decoded = (decoded + 0.02 * gradient.sign()).detach().requires_grad_()
    assert ms_ssim(decoded, original) > 0.5
