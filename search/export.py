"""Export the best model of every rate of a search as a zoo that other people's tools load.

    python -m search.export SEARCH --out zoo --verify

writes zoo/ARCHITECTURE with a model card, the weights per rate as safetensors and as CompressAI's own
checkpoints, and a manifest; --verify codes real images with every model first. Works on a search that is
finished, still runs (the best so far) or was broken off.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lic.cli import run_command
from lic.errors import LictuneError
from lic.files import path_argument, whole_argument

USER_ERROR, INTERRUPTED = 2, 130


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m search.export", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("search", metavar="SEARCH", help="its name, or its folder")
    parser.add_argument(
        "--out", type=path_argument, default=Path("zoo"), help="folder of zoos (default: zoo)"
    )
    parser.add_argument(
        "--results", type=path_argument, default=Path("results"), help="folder of all searches"
    )
    parser.add_argument("--rates", metavar="LIST", help="qualities, such as 1-6 or 1,3 (default: all)")
    parser.add_argument("--with-baseline", action="store_true", help="put the baselines in as well")
    parser.add_argument(
        "--format", default="safetensors,compressai", metavar="LIST",
        help="safetensors, which is always written, and compressai (default: both)",
    )  # fmt: skip
    parser.add_argument("--verify", action="store_true", help="code real images with every model first")
    parser.add_argument(
        "--images",
        type=path_argument,
        metavar="DIR",
        help="for --verify (default: the search's Kodak images)",
    )
    parser.add_argument(
        "--processes", type=whole_argument(1, 10_000), metavar="N", help="for --verify (default: one a core)"
    )
    parser.add_argument("--register", action="store_true", help="put each rate into MLflow's registry")
    parser.add_argument("--data-licence", metavar="TEXT", help="of the training images, for the card")
    parser.add_argument("--overwrite", action="store_true", help="replace the zoo that is there")
    args = parser.parse_args(argv)
    try:
        from search.zoo.exporting import export  # heavy: not before the arguments are known to be good

        return export(args)
    except LictuneError as error:
        print(f"lictune: {error}", file=sys.stderr)
        return USER_ERROR
    except OSError as error:
        print(f"lictune: the zoo could not be written to {args.out} ({error})", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("lictune: interrupted; no zoo was written", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(run_command(main))
