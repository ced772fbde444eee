"""Simulate a search: the same decisions on a simulated clock, without training.

    python -m search.simulate --surface mymodule:curve --budget 64 --workers 8

shows what a search with this budget and number of workers would find and cost.
It also serves to compare samplers. The response is one of

  --surface  your function curve(alpha, strategy, lmbda, epoch, seed), which
             returns the rate change in percent (negative saves bits)
  --table    recorded learning curves
  --member   a synthetic response surface (the default)
"""

from __future__ import annotations

import argparse
import sys

from lic.cli import Answers, answered, run_command
from lic.files import number_argument, path_argument, whole_argument
from lic.recipe import LAMBDAS
from search.base.secrets import public
from search.base.space import ALPHA_MAX, ALPHA_MIN, SAMPLERS, enough_epochs, parse_lambdas

#: Default number of epochs of a full training run.
_EPOCHS = 9


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m search.simulate", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    _add_response(parser)
    _add_search(parser)
    _add_stopping(parser)
    _add_range(parser)
    _add_outcome(parser)
    args = parser.parse_args(argv)
    args.epochs = args.epochs or enough_epochs(_EPOCHS, args.fork_at)

    def work() -> None:
        from search.simulation import simulator  # slow to import: only after the arguments are checked

        simulator.run(args)

    return answered(work, Answers(public=public))


def _lambdas(text: str) -> tuple[float, ...]:
    try:
        return parse_lambdas(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _add_response(parser: argparse.ArgumentParser) -> None:
    surface = parser.add_mutually_exclusive_group()
    surface.add_argument(
        "--surface", metavar="MODULE:FUNCTION", help="Python function that returns the rate change"
    )
    surface.add_argument(
        "--table", type=path_argument, metavar="CSV", help="table of learning curves, written by --export"
    )
    surface.add_argument(
        "--member",
        type=whole_argument(0, 2**32 - 1),
        default=0,
        metavar="N",
        help="number of the synthetic response surface (default: 0)",
    )
    parser.add_argument(
        "--noise",
        type=number_argument(0, 1e6),
        metavar="X",
        help="standard deviation of the noise with --table, in percent (default: estimated from the seeds "
        "of the table's baselines, else 0.5)",
    )


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lambdas",
        type=_lambdas,
        default=tuple(LAMBDAS.values()),
        metavar="LIST",
        help="values of lambda, one per quality, ascending (default: as in search.run)",
    )
    parser.add_argument(
        "--budget",
        type=whole_argument(1, 100_000),
        default=64,
        metavar="N",
        help="number of trials (default: 64)",
    )
    parser.add_argument(
        "--workers",
        type=whole_argument(1, 100_000),
        default=1,
        metavar="W",
        help="number of concurrent trials (default: 1)",
    )
    parser.add_argument(
        "--epochs",
        type=whole_argument(1, 100_000),
        metavar="E",
        help=f"number of epochs of a full training run (default: {_EPOCHS})",
    )
    parser.add_argument(
        "--seed",
        type=whole_argument(0, 2**32 - 1),
        default=0,
        metavar="S",
        help="random seed of the sampler (default: 0)",
    )
    parser.add_argument(
        "--sampler", choices=SAMPLERS, default="surrogate", help="as in search.run (default: surrogate)"
    )


def _add_stopping(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stopping",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="stop poor trials early (ASHA, per quality)",
    )
    parser.add_argument(
        "--grace",
        type=whole_argument(1, 100_000),
        default=1,
        metavar="N",
        help="epochs before a trial can be stopped (default: 1)",
    )
    parser.add_argument(
        "--eta",
        type=whole_argument(2, 1000),
        default=3,
        metavar="N",
        help="reduction factor: one in N trials passes a rung (default: 3)",
    )
    parser.add_argument(
        "--fork-at", type=number_argument(0, 1), default=0.0, metavar="F",
        help="start each trial from its baseline's checkpoint after this fraction of the epochs (default: 0, "
        "train in full)",
    )  # fmt: skip


def _add_range(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--alpha-min",
        type=number_argument(1e-30, 1e6),
        metavar="X",
        help=f"lower bound of alpha (default: {ALPHA_MIN:g})",
    )
    parser.add_argument(
        "--alpha-max",
        type=number_argument(1e-30, 1e6),
        metavar="X",
        help=f"upper bound of alpha (default: {ALPHA_MAX:g})",
    )


def _add_outcome(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--failures",
        type=number_argument(0, 1),
        default=0.0,
        metavar="P",
        help="probability that a trial fails in an epoch (default: 0)",
    )
    parser.add_argument(
        "--export", type=path_argument, nargs="+", metavar="FOLDER",
        help="write the learning curves of these searches (their folders) to --table, then exit",
    )  # fmt: skip
    parser.add_argument("--json", type=path_argument, metavar="FILE", help="write the result to this file")


if __name__ == "__main__":
    sys.exit(run_command(main))
