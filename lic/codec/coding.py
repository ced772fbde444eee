"""Encodes and decodes image files (`python -m lic.codec`)."""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from lic import atomic_io, zoo
from lic.codec.bitstream import MAX_BYTES, BitstreamError, decode, encode, mark_of, pack, unpack
from lic.codec.bitstream import Progress as Report
from lic.data.images import LOSSLESS, ImageError, read_rgb
from lic.files import read_regular


def encode_file(args: argparse.Namespace) -> None:
    """Encode an image as the command line says. Raises ImageError, ZooError, OSError."""
    _check_target(args.file, args.image, args.overwrite)
    pixels = read_rgb(args.image)
    entry = zoo.find(args.zoo, args.quality, args.baseline, args.trust_module)
    model = entry.load()
    with _progress(f"encoding {args.image.name}", args.quiet) as report:
        content = pack(encode(model, pixels, report), mark_of(entry.sha256))
    atomic_io.write(args.file, content)
    height, width, _ = pixels.shape
    if not args.quiet:
        rate = 8 * len(content) / (height * width)
        print(f"{args.file}: {len(content)} bytes, {rate:.4f} bits per pixel, with {entry.config.name}")


def decode_file(args: argparse.Namespace) -> None:
    """Decode a file as the command line says. Raises BitstreamError, ImageError, ZooError, OSError."""
    _check_target(args.image, args.file, args.overwrite)
    if args.image.suffix.lower() not in LOSSLESS:
        raise ImageError(f"cannot write {args.image}: use one of the suffixes {', '.join(LOSSLESS)}")
    try:
        parsed = unpack(read_regular(args.file, MAX_BYTES))
        entry = zoo.find_by_mark(parsed.model.hex(), [args.zoo], args.trust_module)
        model = entry.load()
        with _progress(f"decoding {args.file.name}", args.quiet) as report:
            pixels = decode(model, parsed, report)
    except BitstreamError as error:
        raise BitstreamError(f"cannot decode {args.file}: {error}") from error
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, Image.registered_extensions()[args.image.suffix.lower()])
    atomic_io.write(args.image, file.getvalue())
    if not args.quiet:
        print(f"{args.image}: {parsed.width} x {parsed.height}, with {entry.config.name}")


def _check_target(path: Path, source: Path, overwrite: bool) -> None:
    """Raise ImageError unless the result may be written to `path`; it never overwrites its source."""
    if path.exists() and source.exists() and path.samefile(source):
        raise ImageError(f"{path} is the input file; write to another file")
    if path.exists() and not overwrite:
        raise ImageError(f"{path} exists; give --overwrite, or another name")
    if not path.resolve().parent.is_dir():
        raise ImageError(f"there is no folder {path.resolve().parent}")


@contextmanager
def _progress(label: str, quiet: bool) -> Iterator[Report]:
    """A progress bar for slow models, on a terminal only."""
    form = "{desc}: {percentage:3.0f} %|{bar}| {remaining} left"
    with tqdm(total=1.0, desc=label, leave=False, bar_format=form, disable=quiet or None) as bar:
        yield lambda share: bar.update(share - bar.n)
