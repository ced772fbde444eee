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
        crops = np.empty((self.size, 3, self.patch, self.patch), dtype=np.uint8)
        for row, number in enumerate(draw.choice(self.usable, self.size)):
            image = self.images[number]
            top = draw.integers(image.shape[0] - self.patch + 1)
            left = draw.integers(image.shape[1] - self.patch + 1)
            crop = image[top : top + self.patch, left : left + self.patch]
            crops[row] = (crop[:, ::-1] if draw.integers(2) else crop).transpose(2, 0, 1)
        return torch.from_numpy(crops).float().div_(255.0)
