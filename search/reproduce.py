"""Does it reproduce the paper? The paper's protocol as one command, in slices.

    python -m search.reproduce --model hyperprior --fraction 0.03 --data images --kodak kodak

trains baselines at every rate, a grid of decorrelation weights for every strategy, finer around the best,
and what was chosen again on fresh seeds, beside baselines of these; every model with the fraction F of the
paper's 33,000 steps. It ends with the paper's Tables I to III and figures 2 to 4, its own numbers beside the
paper's, in the state's folder. Without Ray, Optuna and MLflow: torch and compressai suffice.

Ctrl-C, and --max-minutes, end after the running epochs; the same command goes on. Nothing in the state's
folder is larger than 15 MiB, so that it can be carried from machine to machine.

    python -m search.reproduce --state docs/reproduction/hyperprior --tables

draws tables and figures again from the records alone.
"""

from __future__ import annotations

import argparse
import sys

from lic.cli import run_command
from lic.errors import LictuneError
from lic.files import number_argument, path_argument, whole_argument
from lic.paper import STEPS
from search.base.signals import INTERRUPTED, ends_in_time
from search.base.space import parse_rates
from search.reproduction import FRACTION_ON_CPU

USER_ERROR = 2

_STOPPED = "stopped; the same command goes on from what was saved"


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    with ends_in_time(lambda _why: _STOPPED):
        return _run(_parse(argv))


def _run(args: argparse.Namespace) -> int:
    try:
        from search.reproduction import driver  # heavy: not before the arguments are known to be good

        return driver.run(args)
    except (LictuneError, OSError) as error:
        print(f"lictune: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(_STOPPED, file=sys.stderr)
        return INTERRUPTED


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m search.reproduce", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    what = parser.add_argument_group("What to train")
    what.add_argument(
        "--model", default="cheng", help="cheng, hyperprior or an architecture (default: cheng)"
    )
    what.add_argument(
        "--fraction", type=number_argument(1e-4, 100), metavar="F",
        help=f"of the paper's {STEPS:,} steps for each model (default: 1, without a GPU {FRACTION_ON_CPU:g})",
    )  # fmt: skip
    what.add_argument("--rates", type=_rates, default=parse_rates("1-6"), help="qualities (default: 1-6)")
    what.add_argument("--strategies", metavar="S", help="of y, z, y+z (default: all that the model offers)")
    what.add_argument(
        "--alphas", type=_alphas, action="append", default=[_alphas("1e-8,1e-7,1e-6,1e-5")],
        metavar="[S=]A,B,...", help="the grid of every rate, of one strategy or of all; again for another "
        "(default: 1e-8,1e-7,1e-6,1e-5)",
    )  # fmt: skip
    what.add_argument(
        "--refine", type=whole_argument(0, 9), default=1, metavar="N",
        help="then so many between the best of the grid and each neighbour (default: 1)",
    )  # fmt: skip
    what.add_argument(
        "--seeds", type=whole_argument(1, 100), default=3, metavar="N",
        help="the first to choose on, the others fresh (default: 3)",
    )  # fmt: skip
    what.add_argument(
        "--longer", type=whole_argument(1, 10), default=2, metavar="N",
        help="times the steps for one baseline at the lowest, middle and highest rate, which shows what is "
        "left to gain by training alone; 1 for none (default: 2)",
    )  # fmt: skip
    how = parser.add_argument_group("How to train")
    how.add_argument("--preset", choices=("paper", "tiny"), help="geometry (default: by the machine)")
    for name in ("width", "latent-width", "batch", "patch"):
        how.add_argument(
            f"--{name}", type=whole_argument(2, 65_536), metavar="N", help="instead of the preset's"
        )
    how.add_argument("--lr", type=number_argument(1e-9, 1), help="instead of the preset's")
    how.add_argument(
        "--start", type=path_argument, metavar="FILE",
        help="weights that every model begins with: scratch, auto (the starter, if "
        "there is one) or what search.run --start takes (default: the preset's)",
    )  # fmt: skip
    images = parser.add_argument_group("Images")
    images.add_argument(
        "--data", type=path_argument, help="folder to train on (default: dead leaves, generated)"
    )
    images.add_argument("--kodak", type=path_argument, help="folder of the Kodak images (default: fetched)")
    images.add_argument(
        "--test", type=path_argument, default="auto", help="report on other images: deadleaves or a folder"
    )
    images.add_argument("--val-images", type=whole_argument(1, 10**6), metavar="N", help="to select on")
    images.add_argument("--cache", type=path_argument, help="folder of decoded images (default: ~/.cache)")
    slices = parser.add_argument_group("Slices")
    slices.add_argument(
        "--state", type=path_argument, metavar="DIR",
        help="all that is kept (default: results/reproduction-MODEL)"
    )  # fmt: skip
    slices.add_argument(
        "--max-minutes", type=number_argument(0, 1e6), metavar="M",
        help="end cleanly after so many (default: never)",
    )  # fmt: skip
    slices.add_argument(
        "--at-once", type=whole_argument(1, 1000), metavar="N",
        help="trainings (default: the cores, on a GPU 1)",
    )  # fmt: skip
    slices.add_argument(
        "--tables", action="store_true", help="train nothing: tables and figures of the state"
    )
    return parser.parse_args(argv)


def _rates(text: str) -> tuple[int, ...]:
    try:
        return parse_rates(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _alphas(text: str) -> tuple[str, list[float]]:
    """The strategy that a grid is for, empty for all, and the grid."""
    strategy, _, grid = text.rpartition("=")
    return strategy, sorted({number_argument(1e-30, 1e30)(part) for part in grid.split(",")})


if __name__ == "__main__":
    sys.exit(run_command(main))
