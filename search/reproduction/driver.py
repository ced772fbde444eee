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
import hashlib
import os
import sys
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from configs import geometry
from lic.architectures import (
    ModelError,
    architecture,
    check_strategy,
    starting_weights,
    strategies,
)
from lic.data.cache import default_cache
from lic.data.images import ImageError
from lic.files import number_argument, path_argument, whole_argument
from lic.paper import STEPS
from lic.recipe import TrainingConfig
from lic.trial import ImagesConfig, open_images
from search.limits import Limits
from search.reproduction import report, trainings
from search.reproduction.protocol import PROTOCOL_FILE, Protocol, Records, ReproductionError
from search.space import parse_rates

DONE, USER_ERROR, INTERRUPTED = 0, 2, 130

#: How often a training is saved, and a baseline measured on the validation images.
_EPOCHS = 10

#: The fraction of the paper's steps without a GPU, where it is not given.
_ON_CPU = 0.03

#: Settings of a training that only make sense with the others of their preset.
_SHARED = ("scale", "batch", "patch", "lr", "aux_lr", "clip", "decay_at", "decay_to")


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = _parse(argv)
    state = args.state or Path("results") / f"reproduction-{args.model}"
    try:
        if args.tables:
            print(report.write(Protocol.load(state), Records.load(state), state))
            return DONE
        state.mkdir(parents=True, exist_ok=True)
        with FileLock(state / ".lock").acquire(timeout=0):
            return _reproduce(args, state)
    except Timeout:
        print(f"lictune: another process is at work in {state}; wait for its end", file=sys.stderr)
    except (ReproductionError, ModelError, ImageError, OSError) as error:
        print(f"lictune: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from what was saved", file=sys.stderr)
        return INTERRUPTED
    return USER_ERROR


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
        help=f"of the paper's {STEPS:,} steps for each model (default: 1, without a GPU {_ON_CPU:g})",
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
        "--start", metavar="FILE",
        help="weights that every model begins with: scratch, auto (the starter, if "
        "there is one) or a file (default: the preset's)",
    )  # fmt: skip
    images = parser.add_argument_group("Images")
    images.add_argument(
        "--data", type=path_argument, help="folder to train on (default: dead leaves, generated)"
    )
    images.add_argument("--kodak", type=path_argument, help="folder of the Kodak images (default: fetched)")
    images.add_argument("--test", default="auto", help="report on other images: deadleaves or a folder")
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


def _reproduce(args: argparse.Namespace, state: Path) -> int:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    values = geometry(args.model, args.preset or ("paper" if device == "cuda" else "tiny"))
    values |= {key: given for key in ("width", "latent_width", "batch", "patch", "lr", "start", "val_images")
               if (given := getattr(args, key)) is not None}  # fmt: skip
    if args.width is not None and args.latent_width is None:
        values["latent_width"] = None
    images = ImagesConfig(
        _absolute(args.data), _absolute(args.kodak), args.test, None, values["val_images"],
        values["val_crop"], str(Path(args.cache or default_cache()).resolve()),
    )  # fmt: skip
    start = _start(values, args.model)
    protocol = _protocol(args, values, images, start, args.fraction or (1.0 if device == "cuda" else _ON_CPU))
    if (state / PROTOCOL_FILE).exists():
        protocol.check_same(Protocol.load(state), state)
    else:
        protocol.save(state)
    at_once = args.at_once or (1 if device == "cuda" else len(os.sched_getaffinity(0)))
    machine = trainings.Machine(images, start, device, at_once)
    records = Records.load(state)
    print(_introduced(protocol, records, machine, state), flush=True)
    limits = Limits(None if args.max_minutes is None else args.max_minutes / 60, None, 0)
    everything = trainings.run(protocol, state, machine, limits, lambda line: print(line, flush=True))
    records = Records.load(state)
    if records and (found := trainings.examples(protocol, records, state, images)) is not None:
        report.save_examples(found, state)
    print(f"\n{report.write(protocol, records, state)}")
    print(f"tables in {state / report.TABLES}, figures in {state / report.FIGURES}")
    if not everything:
        left = trainings.expected(protocol, records) - len(records)
        why = "interrupted" if limits.interrupted else "the time is over"
        print(f"{why}: about {left} trainings are left; the same command goes on")
    return INTERRUPTED if limits.interrupted else DONE


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _start(values: dict, model: str) -> str | None:
    """The weights file to begin with, or None. Raises ModelError."""
    start = starting_weights(values["start"], model, values["width"], values.get("latent_width"))
    if start == "scratch":
        return None
    if not Path(start).is_file():
        raise ModelError(f"there are no weights at {start}")
    return str(Path(start).resolve())


def _protocol(
    args: argparse.Namespace, values: dict, images: ImagesConfig, start: str | None, fraction: float
) -> Protocol:
    offered = strategies(args.model)
    asked = tuple(part.strip() for part in args.strategies.split(",")) if args.strategies else offered
    given: dict[str, list[float]] = dict(args.alphas)
    for strategy in {*asked, *given} - {""}:
        check_strategy(args.model, strategy)
    grids = {strategy: given.get(strategy, given[""]) for strategy in asked}
    steps = max(1, round(fraction * STEPS / _EPOCHS))
    sets = open_images(images)
    return Protocol(
        model=architecture(args.model), width=values["width"], latent_width=values.get("latent_width"),
        start=hashlib.sha256(Path(start).read_bytes()).hexdigest() if start else "",
        fraction=fraction, rates=args.rates, strategies=asked, alphas=grids, refined=args.refine,
        seeds=args.seeds, longer=args.longer,
        training={
            **{key: values.get(key, getattr(TrainingConfig, key)) for key in _SHARED},
            "epochs": _EPOCHS, "steps_per_epoch": steps,
        },
        val_images=values["val_images"], val_crop=values["val_crop"], test_set=sets[2].name,
        fingerprints={
            name: found.images.fingerprint for name, found in zip(("train", "val", "test"), sets, strict=True)
        },
    )  # fmt: skip


def _introduced(protocol: Protocol, records: Records, machine: trainings.Machine, state: Path) -> str:
    train, val, test = open_images(machine.images)
    training, total = protocol.training, trainings.expected(protocol, records)
    patches = f"{training['batch']} patches of {training['patch']}x{training['patch']}"
    lines = {
        "reproducing": f"{protocol.model}, {protocol.width} channels: qualities "
        f"{', '.join(map(str, protocol.rates))}, strategies {', '.join(protocol.strategies)}",
        **{
            f"alphas, {strategy}": f"{', '.join(f'{alpha:g}' for alpha in grid)} ({training['scale']} scale)"
            for strategy, grid in protocol.alphas.items()
        },
        "training": f"{protocol.steps:,} steps ({100 * protocol.fraction:g} % of the paper's) of {patches}, "
        f"from {Path(machine.start).name if machine.start else 'scratch'}",
        "device": f"{machine.device}, {machine.at_once} at once",
        "train on": train.source,
        "select on": val.source,
        "report on": f"{test.name}: {test.source}",
        "trainings": f"about {total}, {len(records)} of them done",
        "state": str(state),
    }
    return "\n".join(f"{name:<12} {text}" for name, text in lines.items())


if __name__ == "__main__":
    sys.exit(main())
