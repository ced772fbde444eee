"""Encode images to compressed files, and decode them, with a model of a zoo.

    python -m lic.codec encode photo.png photo.lic \\
        --zoo zoo/cheng2020-anchor --quality 3
    python -m lic.codec decode photo.lic photo.png

Decoding needs the model that encoded the file. It is found by its checksum in
--zoo, else in LICTUNE_ZOO, else in ./zoo. On one machine, decoding always gives
the same pixels. Another kind of processor may round probabilities differently,
and then cannot decode the file.
"""

from __future__ import annotations

import argparse
import os
import sys

from lic.cli import Answers, answered, run_command
from lic.data.images import LOSSLESS
from lic.files import path_argument, whole_argument
from lic.recipe import MOST_QUALITIES


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m lic.codec", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    encoding = verbs.add_parser(
        "encode", help="encode an image", description="Encode an image to a compressed file."
    )
    encoding.add_argument(
        "image", type=path_argument, help="PNG, JPEG, WebP, TIFF, ...; transparency becomes white"
    )
    encoding.add_argument("file", type=path_argument, help="file to write, such as photo.lic")
    encoding.add_argument(
        "--zoo",
        type=path_argument,
        required=True,
        metavar="DIR",
        help="folder of the models, zoo/ARCHITECTURE",
    )
    encoding.add_argument(
        "--quality",
        type=whole_argument(1, MOST_QUALITIES),
        default=3,
        metavar="N",
        help="quality level, from 1, the lowest rate (default: 3)",
    )
    encoding.add_argument(
        "--baseline", action="store_true", help="use the baseline, trained without decorrelation"
    )
    decoding = verbs.add_parser(
        "decode", help="decode a file", description="Decode a file written by encode."
    )
    decoding.add_argument("file", type=path_argument, help="file written by encode")
    decoding.add_argument("image", type=path_argument, help=f"image to write ({', '.join(LOSSLESS)})")
    decoding.add_argument(
        "--zoo", type=path_argument, default=os.environ.get("LICTUNE_ZOO", "zoo"),
        metavar="DIR",
        help="folder of one zoo or of several (default: LICTUNE_ZOO, else ./zoo)",
    )  # fmt: skip
    for verb in (encoding, decoding):
        verb.add_argument("--overwrite", action="store_true", help="overwrite an existing file")
        verb.add_argument(
            "--trust-module",
            action="store_true",
            help="import the module that the zoo names, if its model is not one of CompressAI's",
        )
        verb.add_argument("--quiet", action="store_true", help="print errors only")
    args = parser.parse_args(argv)

    def work() -> None:
        from lic.codec import coding  # slow to import: only after the arguments are checked

        (coding.encode_file if args.verb == "encode" else coding.decode_file)(args)

    return answered(work, Answers(lambda: "lictune: interrupted; nothing was written", _explain))


def _explain(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "not enough memory for an image of this size"
    return str(error) if isinstance(error, OSError) else ""


if __name__ == "__main__":
    sys.exit(run_command(main))
