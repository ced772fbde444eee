"""Images into small files and back, with a model of a zoo.

    python -m lic.codec encode photo.png photo.lic --zoo zoo/cheng2020-anchor --quality 3
    python -m lic.codec decode photo.lic photo.png

Decoding needs the same model: it is looked for by its checksum in --zoo, else in LICTUNE_ZOO, else in
./zoo. The same machine decodes to the same pixels, whatever its number of threads; another kind of
processor may round the probabilities of a model differently, and then cannot decode.
"""

from __future__ import annotations

import argparse
import os
import sys

from lic.cli import run_command
from lic.data.images import LOSSLESS
from lic.errors import LictuneError
from lic.files import path_argument, whole_argument

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
    decoding.add_argument("image", type=path_argument, help=f"where to write ({', '.join(LOSSLESS)})")
    decoding.add_argument(
        "--zoo", type=path_argument, default=os.environ.get("LICTUNE_ZOO", "zoo"),
        help="folder of a zoo or of several (default: LICTUNE_ZOO, ./zoo)",
    )  # fmt: skip
    for verb in (encoding, decoding):
        verb.add_argument("--overwrite", action="store_true", help="replace what is there")
        verb.add_argument("--quiet", action="store_true", help="print nothing but errors")
    args = parser.parse_args(argv)
    try:
        from lic.codec import coding  # heavy: not before the arguments are known to be good

        (coding.encode_file if args.verb == "encode" else coding.decode_file)(args)
    except (LictuneError, OSError) as error:
        print(f"lictune: {error}", file=sys.stderr)
        return USER_ERROR
    except MemoryError:
        print("lictune: there is not enough memory for an image of this size", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("lictune: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
