"""Reading image files of any common kind as 8-bit RGB, or refusing them by name."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lic.errors import LictuneError
from lic.files import check_regular, one_line

#: Pillow tells a file's kind by its content: these and no others, since some of the others run programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "PPM", "BMP")

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".bmp"})

#: Larger than any photograph in use, small enough that a decompression bomb cannot take the memory.
MAX_PIXELS = 200_000_000


class ImageError(LictuneError):
    """An image or image folder that cannot be used; the message names it."""


def find_images(folder: Path) -> list[Path]:
    """Every image file below `folder`, at any depth, sorted by path. Raises ImageError if none."""
    if not folder.is_dir():
        raise ImageError(f"there is no image folder {folder}")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    if not files:
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise ImageError(f"there is no image in {folder} or below it (looked for {kinds})")
    return files


def read_rgb(path: Path | io.BytesIO) -> NDArray[np.uint8]:
    """The image, a file or its content, as H x W x 3 uint8, upright.

    Grey and palette images become RGB, 16-bit samples are scaled to 8 bits, CMYK is converted,
    transparent pixels are laid over white. Raises ImageError, naming the path, for anything else.
    """
    name = path if isinstance(path, Path) else "the image"
    try:
        if isinstance(path, Path):
            check_regular(path.stat().st_mode, path)
        with warnings.catch_warnings():
            # Of damaged metadata, and of many pixels: there is a limit of our own.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_FORMATS) as image:
                _check_size(image)
                image.load()
                _check_size(image)  # what is loaded may be larger than what the head says
                return _to_rgb(ImageOps.exif_transpose(image))
    except ImageError as error:
        raise ImageError(f"{name} {error}") from error
    except UnidentifiedImageError as error:
        kinds = ", ".join(_FORMATS)
        raise ImageError(f"{name} cannot be read as an image (it is none of {kinds})") from error
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


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith(("I", "F")):
        samples = np.asarray(image).astype(np.float64)
        top = 65535.0 if image.mode.startswith("I") else max(1.0, float(samples.max()))
        grey = np.clip(np.rint(samples * (255.0 / top)), 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"), dtype=np.uint8)
