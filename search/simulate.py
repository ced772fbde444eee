"""The search on a simulated clock: the same decisions, without training.

    python -m search.simulate --surface mine.module:curve --budget 64 --workers 8 --json out.json

answers what a budget on so many workers would find and cost, and is how samplers are compared. The
response is a function of yours, `curve(alpha, strategy, lmbda, epoch, seed)` -> rate change in percent
(negative saves bits); a table of recorded learning curves (--table); or, by default, a member of a
parametric family (--member).
"""

from __future__ import annotations

import argparse
import sys

from lic.cli import run_command
from lic.errors import LictuneError
from lic.files import number_argument, path_argument, whole_argument
from search.base.space import ALPHA_MAX, ALPHA_MIN, SAMPLERS, enough_epochs

USER_ERROR, INTERRUPTED = 2, 130

#: Epochs of a full training, unless told.
_EPOCHS = 9


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m search.simulate", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    surface = parser.add_mutually_exclusive_group()
    surface.add_argument("--surface", metavar="MODULE:FUNCTION", help="your own response")
    surface.add_argument("--table", type=path_argument, metavar="CSV", help="recorded learning curves")
    surface.add_argument(
        "--member", type=whole_argument(0, 2**32 - 1), default=0, metavar="N", help="of the parametric family"
    )
    parser.add_argument(
        "--noise",
        type=number_argument(0, 1e6),
        metavar="X",
        help="of a table's readings, percent (default: that between the seeds of its baselines, else 0.5)",
    )
    parser.add_argument(
        "--budget", type=whole_argument(1, 100_000), default=64, metavar="N", help="trials (default: 64)"
    )
    parser.add_argument(
        "--workers",
        type=whole_argument(1, 100_000),
        default=1,
        metavar="W",
        help="trials at once (default: 1)",
    )
    parser.add_argument(
        "--epochs",
        type=whole_argument(1, 100_000),
        metavar="E",
        help=f"of a full training (default: {_EPOCHS})",
    )
    parser.add_argument(
        "--seed",
        type=whole_argument(0, 2**32 - 1),
        default=0,
        metavar="S",
        help="of the proposals (default: 0)",
    )
    parser.add_argument("--sampler", choices=SAMPLERS, default="surrogate", help="(default: surrogate)")
    parser.add_argument(
        "--stopping", action=argparse.BooleanOptionalAction, default=True, help="ASHA per rate"
    )
    parser.add_argument(
        "--grace",
        type=whole_argument(1, 100_000),
        default=1,
        help="epochs before the first rung (default: 1)",
    )
    parser.add_argument(
        "--eta", type=whole_argument(2, 1000), default=3, help="one in eta trials passes a rung (default: 3)"
    )
    parser.add_argument(
        "--fork-at", type=number_argument(0, 1), default=0.0, metavar="F",
        help="trials begin where their baseline was after this fraction of the epochs; the surface is asked "
        "for the rest alone (default: 0, they train in full)",
    )  # fmt: skip
    parser.add_argument("--alpha-min", type=number_argument(1e-30, 1e6), help=f"(default: {ALPHA_MIN:g})")
    parser.add_argument("--alpha-max", type=number_argument(1e-30, 1e6), help=f"(default: {ALPHA_MAX:g})")
    parser.add_argument(
        "--failures",
        type=number_argument(0, 1),
        default=0.0,
        metavar="P",
        help="chance that a trial fails in an epoch (default: 0)",
    )
    parser.add_argument(
        "--export", type=path_argument, nargs="+", metavar="FOLDER",
        help="write the learning curves of these searches (results folders) to --table, and stop",
    )  # fmt: skip
    parser.add_argument("--json", type=path_argument, metavar="FILE", help="write the outcome there")
    args = parser.parse_args(argv)
    args.epochs = args.epochs or enough_epochs(_EPOCHS, args.fork_at)
    try:
        from search.simulation import (
            simulator as simulation,  # heavy: not before the arguments are known to be good
        )

        simulation.run(args)
    except (LictuneError, OSError) as error:
        print(f"lictune: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("lictune: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
