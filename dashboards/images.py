"""Embeds arrays in the page as small lossless PNG images: feature maps, correlation matrices, crops."""

from __future__ import annotations

import base64
import io
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Steps of a colour scale; more are indistinguishable in a small picture. Odd, so that 0 is the middle step.
_STEPS = 65


def map_uri(values: NDArray[np.floating[Any]], low: float, high: float, colours: str) -> str:
    """A data URI of h x w values between low and high, one pixel per value, in a matplotlib colour map."""
    palette = np.rint(255 * matplotlib.colormaps[colours](np.linspace(0, 1, _STEPS))[:, :3]).astype(np.uint8)
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    image = Image.fromarray(np.rint(share.clip(0, 1) * (_STEPS - 1)).astype(np.uint8))
    image.putpalette(palette.tobytes())
    return _uri(image)


def picture_uri(pixels: NDArray[np.uint8]) -> str:
    """A data URI of an H x W x 3 picture; lossless, so that all visible artefacts are the codec's."""
    return _uri(Image.fromarray(np.ascontiguousarray(pixels)))


def _uri(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def gradient(colours: str) -> str:
    """A matplotlib colour map as a CSS gradient, from low to high."""
    shades = [
        matplotlib.colors.to_hex(shade) for shade in matplotlib.colormaps[colours](np.linspace(0, 1, 9))
    ]
    return f"linear-gradient(to right, {', '.join(shades)})"
