"""Runs `python -m search.reproduce`: prepares the protocol, trains, and writes tables and figures."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from configs import geometry
from lic.cli import INTERRUPTED
from lic.data.cache import default_cache
from lic.machine import usable_cores
from lic.models.architectures import (
    architecture,
    check_strategy,
    starting_weights,
    strategies,
)
from lic.models.build import build
from lic.paper import STEPS
from lic.recipe import TrainingConfig, learning_rate
from lic.training.trial import ImagesConfig, open_images
from lic.training.weights import load_weights
from search.base.limits import Limits
from search.reproduction import FRACTION_ON_CPU, report, trainings
from search.reproduction.protocol import PROTOCOL_FILE, Protocol, Records, ReproductionError

DONE = 0

#: Number of epochs: how often a training run is saved, and a baseline evaluated on the validation images.
_EPOCHS = 10

#: Training settings taken from the preset.
_SHARED = ("scale", "batch", "patch", "lr", "aux_lr", "clip", "decay_at", "decay_to")


def run(args: argparse.Namespace) -> int:
    """Train the rest of the protocol, or only write its tables and figures; returns the exit status. Raises
    ReproductionError, ModelError, ImageError, OSError."""
    state = args.state or Path("results") / f"reproduction-{args.model}"
    if args.tables:
        report.show(report.write(Protocol.load(state), Records.load(state), state))
        return DONE
    state.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(state / ".lock").acquire(timeout=0):
            return _reproduce(args, state)
    except Timeout as error:
        raise ReproductionError(f"another process uses {state}; wait until it ends") from error


def _reproduce(args: argparse.Namespace, state: Path) -> int:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    values = geometry(args.model, args.preset or ("paper" if device == "cuda" else "tiny"))
    values |= _adam(values)
    values |= {key: given for key in ("width", "latent_width", "batch", "patch", "lr", "start", "val_images")
               if (given := getattr(args, key)) is not None}  # fmt: skip
    if args.width is not None and args.latent_width is None:
        values["latent_width"] = None
    images = ImagesConfig(
        _absolute(args.data), _absolute(args.kodak), str(args.test), None, values["val_images"],
        values["val_crop"], str(Path(args.cache or default_cache()).resolve()),
    )  # fmt: skip
    start = _start(values, args.model)
    protocol = _protocol(
        args, values, images, start, args.fraction or (1.0 if device == "cuda" else FRACTION_ON_CPU)
    )
    if (state / PROTOCOL_FILE).exists():
        protocol.check_same(Protocol.load(state), state)
    else:
        protocol.save(state)
    at_once = args.at_once or (1 if device == "cuda" else usable_cores())
    machine = trainings.Machine(images, start, device, at_once)
    records = Records.load(state)
    print(_introduced(protocol, records, machine, state), flush=True)
    limits = Limits(None if args.max_minutes is None else args.max_minutes / 60, None, 0)
    everything = trainings.run(protocol, state, machine, limits, lambda line: print(line, flush=True))
    records = Records.load(state)
    if records and (found := trainings.examples(protocol, records, state, images)) is not None:
        report.save_examples(found, state)
    print()
    report.show(report.write(protocol, records, state))
    print(f"tables in {state / report.TABLES}, figures in {state / report.FIGURES}")
    if not everything:
        left = trainings.expected(protocol, records) - len(records)
        why = "interrupted" if limits.interrupted else "time limit reached"
        print(f"{why}: about {left} training runs are left; run the same command to resume")
    return INTERRUPTED if limits.interrupted else DONE


def _adam(values: dict[str, Any]) -> dict[str, Any]:
    """Learning rate and decay for Adam, the paper's optimizer, if the preset has another one."""
    if values.get("optimizer", "adam") == "adam":
        return {}
    return {"lr": learning_rate("adam", values["start"]), "decay_to": TrainingConfig.decay_to}


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _start(values: dict[str, Any], model: str) -> str | None:
    """The file of initial weights, or None for training from scratch. Raises ModelError."""
    size = values["width"], values.get("latent_width")
    start = starting_weights(str(values["start"]), model, *size)
    if start == "scratch":
        return None
    load_weights(build(model, *size), Path(start))
    return str(Path(start).resolve())


def _protocol(
    args: argparse.Namespace, values: dict[str, Any], images: ImagesConfig, start: str | None, fraction: float
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
        precision=args.precision,
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
        "device": f"{machine.device}, {machine.at_once} training runs in parallel",
        "train images": train.source,
        "val images": val.source,
        "test images": f"{test.name}: {test.source}",
        "runs": f"about {total}, {len(records)} of them done",
        "state": str(state),
    }
    return "\n".join(f"{name:<12} {text}" for name, text in lines.items())
