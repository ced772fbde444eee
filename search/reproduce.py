"""Reproduce the paper: run its protocol and compare with its tables and figures.

    python -m search.reproduce --model hyperprior --fraction 0.03 \\
        --data images --kodak kodak

trains, for every quality, a baseline, a grid of decorrelation weights per
strategy and a finer grid around the best weight. It then retrains the selected
points and the baselines on fresh seeds. Every training run has the fraction F
of the paper's 33,000 steps. The state folder receives the paper's Tables I to
III and figures 2 to 4, with the paper's numbers beside the new ones. This
command needs torch and compressai only: no Ray, Optuna or MLflow.

Ctrl-C and --max-minutes stop after the running epochs. The same command
resumes. No file in the state folder is larger than 15 MiB, so the folder is
easy to copy to another machine.

    python -m search.reproduce --state docs/reproduction/hyperprior --tables

draws the tables and figures again from the recorded results.
"""

from __future__ import annotations

import argparse
import sys

from lic.cli import Answers, answered, run_command
from lic.files import number_argument, path_argument, whole_argument
from lic.paper import STEPS
from search.base.secrets import public
from search.base.signals import ends_in_time
from search.base.space import parse_rates
from search.reproduction import FRACTION_ON_CPU

_STOPPED = "stopped; run the same command to resume"


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    with ends_in_time(lambda _why: _STOPPED):
        return _run(_parse(argv))


def _run(args: argparse.Namespace) -> int:
    def work() -> int:
        from search.reproduction import driver  # slow to import: only after the arguments are checked

        return driver.run(args)

    return answered(work, Answers(lambda: _STOPPED, public=public))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m search.reproduce", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    _add_protocol(parser)
    _add_training(parser)
    _add_images(parser)
    _add_slices(parser)
    return parser.parse_args(argv)


def _add_protocol(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("What to train")
    what.add_argument(
        "--model", default="cheng", help="cheng, hyperprior or a CompressAI architecture (default: cheng)"
    )
    what.add_argument(
        "--fraction", type=number_argument(1e-4, 100), metavar="F",
        help=f"fraction of the paper's {STEPS:,} steps for each training run (default: 1 on a GPU, "
        f"{FRACTION_ON_CPU:g} on a CPU)",
    )  # fmt: skip
    what.add_argument(
        "--rates",
        type=_rates,
        default=parse_rates("1-6"),
        metavar="LIST",
        help="quality levels (default: 1-6)",
    )
    what.add_argument(
        "--strategies", metavar="LIST", help="of y, z and y+z (default: all that the model supports)"
    )
    what.add_argument(
        "--alphas", type=_alphas, action="append", default=[_alphas("1e-8,1e-7,1e-6,1e-5")],
        metavar="[S=]A,B,...", help="grid of alphas for strategy S, or for all strategies; may be repeated "
        "(default: 1e-8,1e-7,1e-6,1e-5)",
    )  # fmt: skip
    what.add_argument(
        "--refine", type=whole_argument(0, 9), default=1, metavar="N",
        help="number of alphas to add between the best grid point and each neighbour (default: 1)",
    )  # fmt: skip
    what.add_argument(
        "--seeds", type=whole_argument(1, 100), default=3, metavar="N",
        help="number of seeds; the first selects, the others confirm (default: 3)",
    )  # fmt: skip
    what.add_argument(
        "--longer", type=whole_argument(1, 10), default=2, metavar="N",
        help="also train baselines of the lowest, middle and highest quality N times as long, to measure "
        "what longer training alone gains; 1 for none (default: 2)",
    )  # fmt: skip


def _add_training(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("How to train")
    how.add_argument(
        "--preset",
        choices=("paper", "tiny"),
        help="default sizes of model and training (default: paper on a GPU, tiny on a CPU)",
    )
    for name in ("width", "latent-width", "batch", "patch"):
        how.add_argument(
            f"--{name}",
            type=whole_argument(2, 65_536),
            metavar="N",
            help="as in search.run (default: the preset's)",
        )
    how.add_argument(
        "--lr", type=number_argument(1e-9, 1), metavar="X", help="learning rate (default: the preset's)"
    )
    how.add_argument(
        "--precision", choices=("fp32", "tf32", "bf16"), default="tf32", help="on a GPU (default: tf32)"
    )
    how.add_argument(
        "--start", type=path_argument, metavar="FILE",
        help="initial weights, as in search.run (default: the preset's)",
    )  # fmt: skip


def _add_images(parser: argparse.ArgumentParser) -> None:
    images = parser.add_argument_group("Images")
    images.add_argument(
        "--data",
        type=path_argument,
        metavar="DIR",
        help="folder of training images (default: generated dead leaves images)",
    )
    images.add_argument(
        "--kodak",
        type=path_argument,
        metavar="DIR",
        help="folder of the Kodak images (default: download them)",
    )
    images.add_argument(
        "--test",
        type=path_argument,
        default="auto",
        metavar="PATH",
        help="test images other than Kodak: deadleaves or a folder",
    )
    images.add_argument(
        "--val-images",
        type=whole_argument(1, 10**6),
        metavar="N",
        help="number of validation images (default: the preset's)",
    )
    images.add_argument(
        "--cache", type=path_argument, metavar="DIR", help="folder for decoded images (default: ~/.cache)"
    )


def _add_slices(parser: argparse.ArgumentParser) -> None:
    slices = parser.add_argument_group("Running and resuming")
    slices.add_argument(
        "--state", type=path_argument, metavar="DIR",
        help="state folder, with all results (default: results/reproduction-MODEL)"
    )  # fmt: skip
    slices.add_argument(
        "--max-minutes", type=number_argument(0, 1e6), metavar="M",
        help="stop after this many minutes (default: no limit)",
    )  # fmt: skip
    slices.add_argument(
        "--at-once", type=whole_argument(1, 1000), metavar="N",
        help="number of concurrent training runs (default: 1 on a GPU, one per core on a CPU)",
    )  # fmt: skip
    slices.add_argument(
        "--tables", action="store_true", help="do not train; write tables and figures of the state folder"
    )


def _rates(text: str) -> tuple[int, ...]:
    try:
        return parse_rates(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _alphas(text: str) -> tuple[str, list[float]]:
    """The strategy of a grid (empty: all strategies) and its alphas."""
    strategy, _, grid = text.rpartition("=")
    return strategy, sorted({number_argument(1e-30, 1e30)(part) for part in grid.split(",")})


if __name__ == "__main__":
    sys.exit(run_command(main))
