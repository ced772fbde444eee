"""MS-SSIM against pytorch_msssim, whose figures CompressAI reports."""

from __future__ import annotations

import pytest
import pytorch_msssim
import torch

from lic.evaluation.msssim import ms_ssim
from lic.losses.msssim import SMALLEST


@pytest.mark.parametrize(("height", "width"), [(SMALLEST, SMALLEST), (192, 256), (201, 333), (512, 176)])
@pytest.mark.parametrize("noise", [0.0, 3.0, 60.0])
def test_equals_pytorch_msssim(height: int, width: int, noise: float) -> None:
    draw = torch.Generator().manual_seed(height + width)
    coarse = torch.rand(2, 3, height // 8 + 1, width // 8 + 1, generator=draw)
    original = torch.nn.functional.interpolate(255 * coarse, size=(height, width), mode="bicubic").clamp(
        0, 255
    )
    decoded = (original + noise * torch.randn(original.shape, generator=draw)).clamp(0, 255).round()
    theirs = pytorch_msssim.ms_ssim(decoded, original.round(), data_range=255, size_average=False)
    torch.testing.assert_close(ms_ssim(decoded, original.round()), theirs, rtol=0, atol=2e-5)
    last = torch.channels_last
    again = ms_ssim(decoded.contiguous(memory_format=last), original.round().contiguous(memory_format=last))
    torch.testing.assert_close(again, theirs, rtol=0, atol=2e-5)


def test_identical_images_are_alike() -> None:
    images = 255 * torch.rand(1, 3, 200, 180)
    assert float(ms_ssim(images, images)) == pytest.approx(1, abs=1e-5)
