"""Random crops as a pure function of seed and step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lic.data.cache import PackedImages
from lic.data.images import ImageError


class RandomCrops:
    """Batches of random crops, flipped left to right at random.

    `batch(step)` depends on the images, the seed and the step alone, so a run resumed at step k
    sees the batches it would have seen. Images smaller than the patch are left out.
    """

    def __init__(self, images: PackedImages, patch: int, batch: int, seed: int) -> None:
        self.images, self.patch, self.size, self.seed = images, patch, batch, seed
        fits = [min(image.height, image.width) >= patch for image in images.images]
        self.usable = np.flatnonzero(fits)
        if not len(self.usable):
            raise ImageError(
                f"none of the {len(images)} training images holds a patch of {patch} x {patch} "
                "pixels; use larger images or a smaller --patch"
            )

    def batch(self, step: int) -> Tensor:
        """Batch number `step`: N x 3 x P x P float32 in [0, 1], contiguous.

        (A channels-last batch crashes the backward pass of cheng2020 on the CPU in torch 2.15.)
        """
        draw = np.random.default_rng((self.seed, step))
        crops = torch.empty((self.size, 3, self.patch, self.patch), dtype=torch.uint8)
        rows = crops.numpy()
        for row, number in enumerate(draw.choice(self.usable, self.size)):
            image = self.images.planes(number)
            top = draw.integers(image.shape[1] - self.patch + 1)
            left = draw.integers(image.shape[2] - self.patch + 1)
            rows[row] = image[:, top : top + self.patch, left : left + self.patch]
            if draw.integers(2):
                crops[row] = crops[row].flip(-1)  # torch's is several times as fast as NumPy's
        # In one pass over the memory, which is what takes the time; torch would need two.
        return torch.from_numpy(np.divide(rows, 255, dtype=np.float32))
