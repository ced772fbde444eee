"""Random crops as a pure function of seed and step."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lic.data.cache import PackedImages
from lic.data.images import ImageError

#: Maximum fraction of a device's free memory for resident images.
_MEMORY = 0.25


class RandomCrops:
    """Batches of random crops, flipped left to right at random.

    `batch(step)` depends only on the images, the seed and the step, so a run resumed at step k sees the
    same batches. Images smaller than the patch are not used. `resident` keeps the images in the memory of
    `device`, if they take at most a quarter of its free memory, and crops there. With `rows`, only those of
    each batch are cut.
    """

    def __init__(
        self,
        images: PackedImages,
        patch: int,
        batch: int,
        seed: int,
        device: str = "cpu",
        resident: bool = False,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self.images, self.patch, self.size, self.seed = images, patch, batch, seed
        self.rows = slice(None) if rows is None else rows
        self.device = torch.device(device)
        fits = [min(image.height, image.width) >= patch for image in images.images]
        self.usable = np.flatnonzero(fits)
        if not len(self.usable):
            raise ImageError(
                f"all {len(images)} training images are smaller than the patch, {patch} x {patch} pixels; "
                "use larger images or a smaller --patch"
            )
        self._pixels = _on_device(images, self.device) if resident else None

    def batch(self, step: int) -> Tensor:
        """Batch number `step`: N x 3 x P x P float32 in [0, 1], on the device; contiguous on the CPU.

        (A channels-last batch crashes the backward pass of cheng2020 on the CPU in torch 2.15.)
        """
        windows = self._windows(step)[self.rows]
        if self._pixels is not None:
            crops = self._gather(self._pixels, windows).float().div_(255.0)
            return crops.contiguous() if self.device.type == "cpu" else crops
        cut = self._cut(windows)
        if self.device.type == "cpu":
            # One pass over the memory, which dominates the time; torch would need two.
            return torch.from_numpy(np.divide(cut.numpy(), 255, dtype=np.float32))
        return self._sent(cut).float().div_(255.0)

    def _windows(self, step: int) -> NDArray[np.int64]:
        """The crops of a batch as N x 4: image, top, left, whether flipped."""
        draw, windows = np.random.default_rng((self.seed, step)), np.empty((self.size, 4), dtype=np.int64)
        for row, number in enumerate(draw.choice(self.usable, self.size)):
            image = self.images.images[number]
            top = draw.integers(image.height - self.patch + 1)
            left = draw.integers(image.width - self.patch + 1)
            windows[row] = number, top, left, draw.integers(2)
        return windows

    def _cut(self, windows: NDArray[np.int64]) -> Tensor:
        """The crops as N x 3 x P x P uint8, cut on the host."""
        crops = torch.empty((len(windows), 3, self.patch, self.patch), dtype=torch.uint8)
        rows = crops.numpy()
        for row, (number, top, left, flipped) in enumerate(windows):
            rows[row] = self.images.planes(number)[:, top : top + self.patch, left : left + self.patch]
            if flipped:
                crops[row] = crops[row].flip(-1)  # several times as fast as NumPy's flip
        return crops

    def _gather(self, pixels: Tensor, windows: NDArray[np.int64]) -> Tensor:
        """The same crops, gathered from `pixels` on its device; channels come last in memory."""
        listed, (numbers, top, left, flipped) = self.images.images, windows.T
        width = np.array([listed[number].width for number in numbers])
        first = np.array([listed[number].offset for number in numbers]) // 3 + top * width + left
        sent = self._sent(torch.from_numpy(np.stack([first, width, flipped])))
        start, line, mirrored = sent[:, :, None, None]
        side = torch.arange(self.patch, device=self.device)
        across = torch.where(mirrored.bool(), self.patch - 1 - side, side)
        return pixels[start + line * side[:, None] + across].permute(0, 3, 1, 2)

    def _sent(self, tensor: Tensor) -> Tensor:
        """Copy a host tensor to the device without blocking the host."""
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)


@functools.lru_cache(maxsize=1)
def _on_device(images: PackedImages, device: torch.device) -> Tensor | None:
    """All pixels of the images, concatenated, x 3 uint8, on the device; None if they take too much of its
    memory. The training runs of a process share them."""
    size = sum(image.height * image.width * 3 for image in images.images)
    if device.type == "cuda" and size > _MEMORY * torch.cuda.mem_get_info(device)[0]:
        return None
    pixels = [torch.from_numpy(images[number].reshape(-1, 3).copy()) for number in range(len(images))]
    return torch.cat(pixels).to(device)
