"""The trainings that benchmarks time: a preset's geometry, without the search's own packages, so that a
machine with torch, compressai and this repository alone can run them."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock

from configs import geometry
from lic.data.cache import PackedImages, default_cache
from lic.data.crops import RandomCrops
from lic.data.sets import training_and_validation
from lic.models.architectures import starter_path
from lic.models.build import build
from lic.recipe import LAMBDAS, ON_CPU, ON_GPU, Acceleration, TrainingConfig, learning_rate
from lic.training.trainer import Trainer
from lic.training.weights import load_weights
from tests.bench import machine

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BEST = ON_GPU if DEVICE == "cuda" else ON_CPU

#: The preset that the device is for.
PRESET = "paper" if DEVICE == "cuda" else "tiny"


def config_of(model: str, preset: str, **changes: Any) -> TrainingConfig:
    """The middle rate with the decorrelation of y and z, in a preset's geometry, with Adam unless said."""
    values = geometry(model, preset)
    given = {key: values[key] for key in TrainingConfig.__dataclass_fields__ if key in values}
    if values.get("optimizer", "adam") != "adam":
        given |= {"optimizer": "adam", "lr": learning_rate("adam", values["start"])}
    return TrainingConfig(**{**given, "lmbda": LAMBDAS[3], "alpha": 1e-7, "strategy": "y+z", **changes})


def model_of(
    model: str,
    preset: str,
    seed: int = 0,
    widths: tuple[int, int | None] | None = None,
    start: str | None = None,
) -> torch.nn.Module:
    """A preset's model, or one of these widths (N, M), with its starter weights if it begins with those."""
    values = geometry(model, preset)
    width, latent = widths or (values["width"], values.get("latent_width"))
    net, starter = build(model, width, latent, seed), starter_path(model, width, latent)
    if (start or values["start"]) == "auto" and starter.is_file():
        load_weights(net, starter)
    return net


def trainer_of(
    model: str,
    preset: str,
    images: PackedImages,
    speed: Acceleration = BEST,
    device: str = DEVICE,
    widths: tuple[int, int | None] | None = None,
    start: str | None = None,
    **changes: Any,
) -> Trainer:
    """A preset's training, changed as said."""
    config = config_of(model, preset, **changes)
    crops = RandomCrops(images, config.patch, config.batch, config.seed, device, speed.resident_images)
    return Trainer(model_of(model, preset, config.seed, widths, start), config, crops, device, speed)


def train_images(data: Path | None) -> PackedImages:
    """The training images of a folder, or generated ones."""
    return training_and_validation(None if data is None else str(data), 32, default_cache())[0].images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What most of these scripts take: models, preset, images, CSV file."""
    parser.add_argument("--models", nargs="+", default=["hyperprior", "cheng"])
    parser.add_argument("--preset", default=PRESET, choices=["tiny", "paper"], help=f"(default: {PRESET})")
    parser.add_argument("--data", type=Path, help="folder of images to train on (default: generated)")
    parser.add_argument("--out", type=Path, help="CSV file to write")
    add_turn(parser)


def add_turn(parser: argparse.ArgumentParser) -> None:
    """How benchmarks of one device share it."""
    parser.add_argument(
        "--turn", type=Path, metavar="FILE", help="prepare (imports, compilation) at once with others, but "
        "time only while this file's lock is held: benchmarks that are given the same file take turns",
    )  # fmt: skip


def finish() -> None:
    """Wait until the device has done what it was told."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def turn(args: argparse.Namespace) -> AbstractContextManager[object]:
    """While this script may time something: see --turn."""
    return FileLock(args.turn) if args.turn else nullcontext()


def show(table: pd.DataFrame, args: argparse.Namespace) -> None:
    """Print a benchmark's table with what it ran on, and write it if that is wished."""
    print(table.round(4).to_string(index=False))
    print(f"preset {args.preset} on {DEVICE}\n{machine.described('compressai')}")
    if args.out:
        table.round(5).to_csv(args.out, index=False)
