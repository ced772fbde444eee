"""Dead leaves images: a standard statistical model of natural images, used where no images are given.

Disks and textured shapes with a power-law radius occlude one another (Lee, Mumford and Huang 2001,
'Occlusion models for natural images'); with radii of density r^-3 the picture is scale invariant,
as photographs are. Colours come from the opponent statistics of natural images (Ruderman, Cronin
and Chiao 1998): a wide luminance axis and two narrow chromatic axes in log space.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lic import atomic_io
from lic.data.cache import PackedImages, pack
from lic.data.images import ImageError

_VERSION = 1

#: Orthonormal axes of log RGB (luminance, yellow-blue, red-green) and their standard deviations.
_AXES = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]]) / np.sqrt([[3], [6], [2]])
_DEVIATIONS = np.array([0.75, 0.18, 0.06])


def dead_leaves(seed: int, height: int = 256, width: int = 384) -> NDArray[np.uint8]:
    """One image, height x width x 3 uint8, a function of the seed and the size."""
    draw = np.random.default_rng((_VERSION, seed))
    # Painted at twice the size and averaged down, so that edges are as soft as in photographs.
    rows, columns = 2 * height, 2 * width
    canvas = np.zeros((rows, columns, 3), dtype=np.float32)
    empty = np.ones((rows, columns), dtype=bool)
    smallest, largest = 10.0, 0.6 * rows
    while np.count_nonzero(empty) > 0.002 * empty.size:
        for share in draw.random(50):
            # Inverse distribution function of the density r^-3 between the two radii.
            radius = smallest / np.sqrt(1 - share * (1 - (smallest / largest) ** 2))
            _paint_leaf(draw, canvas, empty, radius)
    canvas[empty] = 0.25
    canvas = canvas.reshape(height, 2, width, 2, 3).mean(axis=(1, 3))
    gamma = np.clip(canvas, 0, 1) ** (1 / 2.2)
    grain = draw.normal(0, 0.004, gamma.shape)
    picture: NDArray[np.uint8] = np.clip(np.rint(255 * (gamma + grain)), 0, 255).astype(np.uint8)
    return picture


def _paint_leaf(
    draw: np.random.Generator, canvas: NDArray[np.float32], empty: NDArray[np.bool_], radius: float
) -> None:
    """Paint one leaf below those already painted (front to back: only empty pixels are painted)."""
    rows, columns = empty.shape
    y, x = draw.uniform(-radius, rows + radius), draw.uniform(-radius, columns + radius)
    top, bottom = max(0, int(y - radius)), min(rows, int(y + radius) + 1)
    left, right = max(0, int(x - radius)), min(columns, int(x + radius) + 1)
    shape, lobes, phase = draw.random(), draw.integers(3, 7), draw.uniform(0, 2 * np.pi)
    colour = np.exp(-1.2 + (draw.normal(0, 1, 3) * _DEVIATIONS) @ _AXES)
    angle, wavelength = draw.uniform(0, np.pi), draw.uniform(4, max(6.0, radius))
    contrast, shading = abs(draw.normal(0, 0.2)), draw.normal(0, 0.3, 2)
    if top >= bottom or left >= right:
        return
    window = empty[top:bottom, left:right]
    if not window.any():
        return
    down, across = np.mgrid[top:bottom, left:right].astype(np.float32)
    down, across = (down - y) / radius, (across - x) / radius
    edge = 1.0
    if shape > 0.5:  # a lobed leaf instead of a disk
        edge = 0.8 + 0.2 * np.cos(lobes * np.arctan2(down, across) + phase)
    inside = (np.hypot(down, across) < edge) & window
    if not inside.any():
        return
    along = (across * np.cos(angle) + down * np.sin(angle)) * radius
    light = 1 + contrast * np.sin(2 * np.pi * along / wavelength + phase)
    light = light * (1 + shading[0] * down + shading[1] * across)
    canvas[top:bottom, left:right][inside] = light[inside, None] * colour
    window[inside] = False


def pack_dead_leaves(first_seed: int, count: int, cache: Path) -> PackedImages:
    """`count` images of 256 x 384, with seeds from `first_seed`, from the cache or generated now."""

    def made() -> Iterator[tuple[str, NDArray[np.uint8] | ImageError]]:
        for seed in range(first_seed, first_seed + count):
            yield f"deadleaves-{seed}", dead_leaves(seed)

    return pack(f"deadleaves-v{_VERSION}-{first_seed}-{count}", made, cache)


def write_dead_leaves(first_seed: int, count: int, cache: Path) -> list[Path]:
    """The same images as PNG files in the cache, for what codes files. Raises ImageError if they cannot be
    written."""
    files = [
        cache / f"deadleaves-v{_VERSION}" / f"{seed}.png" for seed in range(first_seed, first_seed + count)
    ]
    try:
        for number, path in enumerate(files):
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_io.replacing(path) as made:
                    Image.fromarray(dead_leaves(first_seed + number)).save(made, format="PNG")
    except OSError as error:
        raise ImageError(f"cannot write images to {cache} ({error.strerror})") from error
    return files
