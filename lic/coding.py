"""Images into small files and back, with a model of a zoo.

    python -m lic.codec encode photo.png photo.lic --zoo zoo/cheng2020-anchor --quality 3
    python -m lic.codec decode photo.lic photo.png

Decoding needs the same model: it is looked for by its checksum in --zoo, else in LICTUNE_ZOO, else in
./zoo. The same machine decodes to the same pixels, whatever its number of threads; another kind of
processor may round the probabilities of a model differently, and then cannot decode.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from lic import durable, zoo
from lic.bitstream import MAX_BYTES, BitstreamError, decode, encode, mark_of, pack, unpack
from lic.bitstream import Progress as Report
from lic.data.images import ImageError, read_rgb
from lic.files import path_argument, read_regular, whole_argument

#: What a decoded image can be written as without a further loss.
_LOSSLESS = (".png", ".ppm", ".bmp", ".tif", ".tiff")

USER_ERROR, INTERRUPTED = 2, 130


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m lic.codec", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    encoding = verbs.add_parser("encode", help="an image into a file", description="An image into a file.")
    encoding.add_argument(
        "image", type=path_argument, help="PNG, JPEG, WebP, TIFF, ...; transparency becomes white"
    )
    encoding.add_argument("file", type=path_argument, help="where to write, such as photo.lic")
    encoding.add_argument(
        "--zoo", type=path_argument, required=True, help="folder of the model, zoo/ARCHITECTURE"
    )
    encoding.add_argument(
        "--quality", type=whole_argument(1, 6), default=3, help="1 (small) to 6 (good) (default: 3)"
    )
    encoding.add_argument("--baseline", action="store_true", help="with the model of no decorrelation")
    decoding = verbs.add_parser("decode", help="a file into an image", description="A file into an image.")
    decoding.add_argument("file", type=path_argument)
    decoding.add_argument("image", type=path_argument, help=f"where to write ({', '.join(_LOSSLESS)})")
    decoding.add_argument(
        "--zoo", type=path_argument, default=os.environ.get("LICTUNE_ZOO", "zoo"),
        help="folder of a zoo or of several (default: LICTUNE_ZOO, ./zoo)",
    )  # fmt: skip
    for verb in (encoding, decoding):
        verb.add_argument("--overwrite", action="store_true", help="replace what is there")
        verb.add_argument("--quiet", action="store_true", help="print nothing but errors")
    args = parser.parse_args(argv)
    try:
        return _encode(args) if args.verb == "encode" else _decode(args)
    except (ImageError, zoo.ZooError, OSError) as error:
        print(f"lictune: {error}", file=sys.stderr)
        return USER_ERROR
    except BitstreamError as error:
        print(f"lictune: {args.file} cannot be decoded: {error}", file=sys.stderr)
        return USER_ERROR
    except MemoryError:
        print("lictune: there is not enough memory for an image of this size", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("lictune: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED


def _encode(args: argparse.Namespace) -> int:
    _check_target(args.file, args.overwrite)
    pixels = read_rgb(args.image)
    entry = zoo.find(args.zoo, args.quality, args.baseline)
    model = entry.load()
    with _progress(f"encoding {args.image.name}", args.quiet) as report:
        content = pack(encode(model, pixels, report), mark_of(entry.sha256))
    durable.write(args.file, content)
    height, width, _ = pixels.shape
    if not args.quiet:
        rate = 8 * len(content) / (height * width)
        print(f"{args.file}: {len(content)} bytes, {rate:.4f} bits per pixel, with {entry.config.name}")
    return 0


def _decode(args: argparse.Namespace) -> int:
    _check_target(args.image, args.overwrite)
    if args.image.suffix.lower() not in _LOSSLESS:
        raise ImageError(f"{args.image}: write the image as one of {', '.join(_LOSSLESS)}")
    parsed = unpack(read_regular(args.file, MAX_BYTES))
    entry = zoo.find_by_mark(parsed.model.hex(), [args.zoo])
    model = entry.load()
    with _progress(f"decoding {args.file.name}", args.quiet) as report:
        pixels = decode(model, parsed, report)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, Image.registered_extensions()[args.image.suffix.lower()])
    durable.write(args.image, file.getvalue())
    if not args.quiet:
        print(f"{args.image}: {parsed.width} x {parsed.height}, with {entry.config.name}")
    return 0


def _check_target(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise ImageError(f"{path} is there already; give --overwrite, or another name")
    if not path.resolve().parent.is_dir():
        raise ImageError(f"there is no folder {path.resolve().parent}")


@contextmanager
def _progress(label: str, quiet: bool) -> Iterator[Report]:
    """A bar for the models that take a while; on a terminal only."""
    form = "{desc}: {percentage:3.0f} %|{bar}| {remaining} left"
    with tqdm(total=1.0, desc=label, leave=False, bar_format=form, disable=quiet or None) as bar:
        yield lambda share: bar.update(share - bar.n)


if __name__ == "__main__":
    sys.exit(main())
