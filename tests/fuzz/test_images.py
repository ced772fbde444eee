"""Ten thousand damaged images: each is refused by name, or gives pixels of a sane size."""

from __future__ import annotations

import io
import os
import resource
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lic.data.images import MAX_PIXELS, ImageError, read_rgb
from tests.support.mutation import at_most, mutated

pytestmark = pytest.mark.slow

COUNT = 10_000


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _png(width: int, height: int, colour: int, interlaced: int, data: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, interlaced)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _interlaced_png(pixels: NDArray[np.uint8]) -> bytes:
    """An Adam7 PNG, which Pillow reads and does not write; pixels are H x W x 3 uint8."""
    rows = bytearray()
    for top, left, down, across in (
        (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)
    ):  # fmt: skip
        for row in pixels[top::down, left::across]:
            rows += b"\0" + row.tobytes()
    height, width, _ = pixels.shape
    return _png(width, height, 2, 1, bytes(rows))


def samples() -> dict[str, bytes]:
    """Small valid images of every kind that is read, by what they are."""
    draw = np.random.default_rng(0)
    pixels = np.clip(draw.normal(120, 40, (22, 26, 3)).cumsum(0) % 256, 0, 255).astype(np.uint8)
    colour = Image.fromarray(pixels)
    deep = Image.fromarray((pixels[:, :, 0].astype(np.uint16) * 257).astype(np.uint16))
    clear = Image.fromarray(np.dstack([pixels, pixels[:, :, 0]]))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    found = {
        "png": _saved(colour, "PNG"),
        "png 16 bits": _saved(deep, "PNG"),
        "png palette": _saved(colour.convert("P"), "PNG", transparency=3),
        "png rgba": _saved(clear, "PNG"),
        "png interlaced": _interlaced_png(pixels),
        "png exif": _saved(colour, "PNG", exif=exif),
        "jpeg": _saved(colour, "JPEG", exif=exif),
        "jpeg cmyk": _saved(colour.convert("CMYK"), "JPEG"),
        "jpeg progressive": _saved(colour, "JPEG", progressive=True),
        "webp": _saved(colour, "WEBP"),
        "webp lossless": _saved(clear, "WEBP", lossless=True),
        "ppm": _saved(colour, "PPM"),
        "pgm": _saved(colour.convert("L"), "PPM"),
        "pgm 16 bits": _saved(deep, "PPM"),
        "pbm": _saved(colour.convert("1"), "PPM"),
        "bmp": _saved(colour, "BMP"),
        "bmp palette": _saved(colour.convert("P"), "BMP"),
        "tiff float": _saved(Image.fromarray(pixels[:, :, 0].astype(np.float32)), "TIFF"),
        "tiff 16 bits": _saved(deep, "TIFF"),
    }
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg", "tiff_adobe_deflate"):
        found[f"tiff {compression}"] = _saved(colour, "TIFF", compression=compression)
    found["tiff group4"] = _saved(colour.convert("1"), "TIFF", compression="group4")
    return found


def _assert_sane(pixels: NDArray[np.uint8]) -> None:
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert 1 <= pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS


def test_the_samples_are_read() -> None:
    for name, content in samples().items():
        pixels = read_rgb(io.BytesIO(content))
        assert pixels.shape in ((22, 26, 3), (26, 22, 3)), name
        assert pixels.std() > 0, name


def test_ten_thousand_damaged_images_are_read_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lic.data.images.MAX_PIXELS", 4_000_000)  # what is read at that takes no time
    everything = samples()
    names, contents = list(everything), list(everything.values())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ends: Counter[str] = Counter()
    for seed in range(COUNT):
        name = names[seed % len(names)]
        damaged = mutated(everything[name], seed, contents)
        with at_most(5):
            try:
                pixels = read_rgb(io.BytesIO(damaged))
            except ImageError as error:
                ends["refused"] += 1
                assert "\n" not in str(error) and len(str(error)) < 300, (seed, name, str(error))
                continue
        _assert_sane(pixels)
        assert pixels.shape[0] * pixels.shape[1] <= 4_000_000, (seed, name)
        ends["read"] += 1
    assert min(ends["refused"], ends["read"]) > COUNT // 10, ends
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 400, f"{grown:.0f} MiB"


@pytest.mark.parametrize("size", [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (14_000, 14_400)])
def test_an_image_that_unpacks_to_too_many_pixels_is_refused_at_once(size: tuple[int, int]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with at_most(2), pytest.raises(ImageError, match=r"over the limit|too large"):
        read_rgb(io.BytesIO(_png(*size, 0, 0, bytes(1000))))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


def test_only_the_kinds_that_are_named_are_opened() -> None:
    """Not EPS (which would run Ghostscript), whatever a file is called."""
    picture = Image.new("RGB", (8, 8))
    foreign = [_saved(picture, kind) for kind in ("EPS", "GIF", "ICO", "PCX", "TGA", "SGI")]
    for content in foreign:
        with pytest.raises(ImageError, match="it is not PNG, JPEG"):
            read_rgb(io.BytesIO(content))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder.png").mkdir()
    for name in (
        "pipe.png",
        "endless.png",
        "loop.png",
        "gone.png",
        "folder.png",
        "none.png",
        "a\0b.png",
        "a" * 300,
    ):
        with at_most(2), pytest.raises(ImageError, match="cannot be read as an image") as caught:
            read_rgb(tmp_path / name)
        assert len(str(caught.value)) < 700, name
