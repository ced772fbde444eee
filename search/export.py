"""Export the best model per quality of a search as a model zoo.

    python -m search.export SEARCH --out zoo --verify

writes zoo/ARCHITECTURE with a model card, a manifest and the weights of each
model, as safetensors and as CompressAI checkpoints. --verify first encodes and
decodes images with every model. The search may be finished, running or
interrupted; an unfinished search exports its best models so far.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lic.cli import Answers, answered, run_command
from lic.files import path_argument, whole_argument
from search.base.search_argument import search_parser
from search.base.secrets import public


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = search_parser("search.export", __doc__)
    parser.add_argument(
        "--out",
        type=path_argument,
        default=Path("zoo"),
        metavar="DIR",
        help="folder to write to (default: zoo)",
    )
    parser.add_argument("--rates", metavar="LIST", help="quality levels, such as 1-6 or 1,3 (default: all)")
    parser.add_argument("--with-baseline", action="store_true", help="also export the baselines")
    parser.add_argument(
        "--format", default="safetensors,compressai", metavar="LIST",
        help="safetensors, or safetensors,compressai (default: both)",
    )  # fmt: skip
    parser.add_argument(
        "--verify", action="store_true", help="encode and decode images with every model first"
    )
    parser.add_argument(
        "--images",
        type=path_argument,
        metavar="DIR",
        help="folder of images for --verify (default: the search's test images)",
    )
    parser.add_argument(
        "--processes",
        type=whole_argument(1, 10_000),
        metavar="N",
        help="number of processes for --verify (default: one per core)",
    )
    parser.add_argument(
        "--register", action="store_true", help="register each model in the MLflow model registry"
    )
    parser.add_argument(
        "--data-licence", metavar="TEXT", help="licence of the training images, for the model card"
    )
    parser.add_argument(
        "--push-to-hub", metavar="OWNER/NAME", help="push the zoo to this repository of the Hugging Face Hub"
    )
    parser.add_argument(
        "--private", action="store_true", help="with --push-to-hub: the repository is private"
    )
    parser.add_argument("--overwrite", action="store_true", help="overwrite an existing zoo")
    args = parser.parse_args(argv)

    def work() -> int:
        from search.zoo.exporting import export  # slow to import: only after the arguments are checked

        return export(args)

    def explain(error: Exception) -> str:
        return f"cannot write the zoo to {args.out} ({error})" if isinstance(error, OSError) else ""

    return answered(work, Answers(lambda: "lictune: interrupted; no zoo was written", explain, public=public))


if __name__ == "__main__":
    sys.exit(run_command(main))
