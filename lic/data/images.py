"""Reads image files of all common formats as 8-bit RGB."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lic.errors import LictuneError
from lic.files import check_regular, one_line

#: Allowed formats. Pillow detects the format by content, and some others run external programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "PPM", "BMP")

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".bmp"})

#: Maximum size: above any usual photograph, small enough to stop decompression bombs.
MAX_PIXELS = 200_000_000


#: Lossless formats for decoded images.
LOSSLESS = (".png", ".ppm", ".bmp", ".tif", ".tiff")


class ImageError(LictuneError):
    """An image or image folder that cannot be used; the message names it."""


def read_rgb(path: Path | io.BytesIO) -> NDArray[np.uint8]:
    """Read an image, a file or its content, as H x W x 3 uint8, rotated by its EXIF orientation.

    Grey, palette and CMYK images are converted to RGB, 16-bit samples scaled to 8 bits, and transparent
    pixels blended with white. Raises ImageError, naming the path, for anything else.
    """
    name = path if isinstance(path, Path) else "the image"
    try:
        if isinstance(path, Path):
            check_regular(path.stat().st_mode, path)
        with warnings.catch_warnings():
            # Pillow warns about damaged metadata and many pixels; _check_size has its own limit.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_FORMATS) as image:
                _check_size(image)
                _scale_transparency(image)
                image.load()
                _check_size(image)  # the loaded image may be larger than its header says
                return _to_rgb(ImageOps.exif_transpose(image))
    except ImageError as error:
        raise ImageError(f"{name} {error}") from error
    except UnidentifiedImageError as error:
        kinds = ", ".join(_FORMATS)
        raise ImageError(f"{name} cannot be read as an image (it is not {kinds})") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is too large to be read safely ({error})") from error
    except Exception as error:  # a damaged file can raise anything at all
        what = getattr(error, "strerror", None) or one_line(error)
        raise ImageError(f"{name} cannot be read as an image ({what})") from error


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"has {width} x {height} pixels, over the limit of {MAX_PIXELS // 1_000_000} million; "
            "scale it down"
        )
    if width < 1 or height < 1:
        raise ImageError(f"has {width} x {height} pixels")


def _scale_transparency(image: Image.Image) -> None:
    """Scale the transparent colour of a PNG to 8 bits. Pillow scales the samples of these kinds of PNG, but
    not this colour. Must be called before the image is loaded."""
    colour, tiles = image.info.get("transparency"), getattr(image, "tile", [])
    raw = tiles[0].args if tiles else None
    if isinstance(colour, int) and raw in ("L;2", "L;4"):
        image.info["transparency"] = colour * {"L;2": 85, "L;4": 17}[raw]
    if isinstance(colour, tuple) and raw == "RGB;16B":
        image.info["transparency"] = tuple(part >> 8 for part in colour)


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith(("I", "F")):
        samples = np.asarray(image).astype(np.float64)
        top = 65535.0 if image.mode.startswith("I") else max(1.0, float(samples.max()))
        grey = np.clip(np.rint(samples * (255.0 / top)), 0, 255).astype(np.uint8)
        if (transparent := image.info.get("transparency")) is not None:
            grey[samples == transparent] = 255
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"), dtype=np.uint8)
