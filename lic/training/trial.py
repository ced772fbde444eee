"""A trial: one model at one quality, trained epoch by epoch and evaluated after each.

A trial does not depend on the search; its metrics are a function of its configuration.
"""

from __future__ import annotations

import contextlib
import functools
import math
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from lic.data.crops import RandomCrops
from lic.data.sets import ImageSet, noting_overlap, test_set, training_and_validation
from lic.evaluation.evaluate import aggregate, evaluate
from lic.losses.regularizers import check_regularizer
from lic.models.acceleration import keep_freed_memory
from lic.models.architectures import OwnModel
from lic.models.build import build
from lic.ranks import Ranks
from lic.recipe import FORKABLE, ON_CPU, Acceleration, TrainingConfig
from lic.training import parallel
from lic.training.trainer import CheckpointError, DivergedError, Trainer
from lic.training.weights import load_weights


@dataclass(frozen=True)
class ImagesConfig:
    """The training, validation ('val') and test images (see lic.data.sets)."""

    data: str | None
    kodak: str | None
    test: str
    test_images: int | None
    val_images: int
    val_crop: int | None
    cache: str


@dataclass(frozen=True)
class TrialConfig:
    """Everything a trial depends on. `start` is a weights file, or None to train from scratch. `val_epochs`
    and `test_epochs` are the epochs (from 1) after which each set is evaluated, the validation set with
    MS-SSIM if `val_ms_ssim`; it is also evaluated after `rest_epoch`, to check whether the training run has
    converged. With several `devices` of the kind `device` on this host, it is trained by as many ranks
    (lic.ranks)."""

    model: str | OwnModel
    width: int
    latent_width: int | None
    start: str | None
    training: TrainingConfig
    images: ImagesConfig
    val_epochs: tuple[int, ...]
    test_epochs: tuple[int, ...]
    device: str = "cpu"
    speed: Acceleration = ON_CPU
    rest_epoch: int | None = None
    val_ms_ssim: bool = False
    devices: int = 1


@dataclass(frozen=True)
class EpochMetrics:
    """The metrics of one epoch by name ('train/loss', 'val/psnr', 'kodak/bpp', ...), and for those of image
    sets the values per image under the same names."""

    epoch: int
    figures: dict[str, float]
    images: dict[str, list[float]]


@functools.lru_cache(maxsize=2)
def open_images(config: ImagesConfig) -> tuple[ImageSet, ImageSet, ImageSet]:
    """The training, validation and test sets; cached per process."""
    cache = Path(config.cache)
    train, val = training_and_validation(config.data, config.val_images, cache)
    test = test_set(config.kodak, config.test, config.test_images, cache)
    return train, val, noting_overlap(test, train, val)


def check_start(config: TrialConfig) -> None:
    """Check that the initial weights fit the model, and the regularizer. Raises ModelError."""
    check_regularizer(config.training.regularizer)
    if config.start is not None:
        load_weights(build(config.model, config.width, config.latent_width), Path(config.start))


class Trial:
    """Trains and evaluates a model: call `run_epoch` until `done`. Raises ModelError and ImageError on bad
    input, RankError if it has several devices and the process of one fails."""

    def __init__(self, config: TrialConfig, ranks: Ranks | None = None) -> None:
        """`ranks` is given on the ranks that rank 0 starts."""
        if config.device == "cpu":
            torch.set_num_threads(1)
            keep_freed_memory()
        self.config = config
        self.train_images, self.val_images, self.test_images = open_images(config.images)
        #: Metrics of all epochs so far; part of the checkpoint.
        self.readings: list[EpochMetrics] = []
        self._others: parallel.Others | None = None
        if ranks is None and config.devices > 1:
            self._others = parallel.others(config.device, config.devices)
            self._others.run = self
        with self._together("begin", config):
            self.trainer = self._make_trainer(ranks or Ranks(0, config.devices))

    def _make_trainer(self, ranks: Ranks) -> Trainer:
        config, training = self.config, self.config.training
        model = build(config.model, config.width, config.latent_width, training.seed)
        if config.start is not None:
            load_weights(model, Path(config.start))
        rows = ranks.rows(training.batch, training.accumulate)
        crops = RandomCrops(
            self.train_images.images, training.patch, training.batch, training.seed, config.device,
            config.speed.resident_images, rows,
        )  # fmt: skip
        return Trainer(model, training, crops, config.device, config.speed, ranks)

    def _together(self, command: str, *arguments: Any) -> contextlib.AbstractContextManager[None]:
        """The context of what all ranks do at once; see lic.training.rank for the commands."""
        if self._others is None:
            return contextlib.nullcontext()
        if self._others.run is not self:
            raise parallel.RankError("the other ranks of this process have begun another training run")
        return self._others.together(command, *arguments)

    @property
    def done(self) -> bool:
        return self.trainer.epoch >= self.config.training.epochs

    def run_epoch(self) -> EpochMetrics:
        """Train and evaluate one epoch. Raises DivergedError if training has diverged."""
        with self._together("train", self.trainer.schedule.state_dict()):
            terms = self.trainer.run_epoch()
        train_seconds = terms.pop("train_seconds")
        figures = {f"train/{name}": value for name, value in terms.items()}
        epoch, started = self.trainer.epoch, time.perf_counter()
        images: dict[str, list[float]] = {}
        reported = epoch in self.config.val_epochs or epoch == self.config.rest_epoch
        if reported or self.config.training.schedule == "plateau":
            with_ms_ssim = self.config.val_ms_ssim
            table = self._evaluate(self.val_images, self.config.images.val_crop, with_ms_ssim)
            distortion = self.trainer.criterion.distortion(table["mse"].mean(), table["ms_ssim"].mean())
            self.trainer.schedule.observe(table["bpp"].mean() + self.config.training.lmbda * distortion)
        if reported:
            figures |= _figures("val", table)
            images |= _columns("val", table, ("bpp", "mse", *(("ms_ssim",) if with_ms_ssim else ())))
        if epoch in self.config.test_epochs:
            table = self._evaluate(self.test_images, None, True)
            figures |= _figures(self.test_images.name, table)
            images |= _columns(self.test_images.name, table, ("bpp", "mse", "psnr", "ms_ssim"))
        figures["time/train_seconds"] = train_seconds
        figures["time/eval_seconds"] = time.perf_counter() - started
        figures["time/measured_at"] = time.time()  # seconds since 1970
        figures["memory/peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.readings.append(EpochMetrics(epoch, figures, images))
        return self.readings[-1]

    def save(self, path: Path) -> None:
        """Write a checkpoint. Raises OSError."""
        self.trainer.save(path, readings=[asdict(readings) for readings in self.readings])

    def load(self, path: Path) -> None:
        """Restore a checkpoint of `save`. Raises CheckpointError (see Trainer.load)."""
        state = self._load(path)
        try:
            self.readings = [EpochMetrics(**readings) for readings in state["readings"]]
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path} lacks the metrics of its epochs ({error})") from error

    def fork(self, path: Path) -> None:
        """Start from the checkpoint of another training run, which may differ only in FORKABLE fields; its
        metrics are not taken over. Raises CheckpointError (see Trainer.load)."""
        self._load(path, FORKABLE)

    def _load(self, path: Path, other: tuple[str, ...] = ()) -> dict[str, Any]:
        state = self.trainer.load(path, other)
        with self._together("load", path, other):
            return state

    def _evaluate(self, images: ImageSet, crop: int | None, with_ms_ssim: bool) -> pd.DataFrame:
        table = evaluate(self.trainer.final_model, images.images, self.config.device, crop, with_ms_ssim)
        if not all(map(math.isfinite, table["mse"])) or not all(map(math.isfinite, table["bpp"])):
            raise DivergedError(
                f"after epoch {self.trainer.epoch} the model's output on {images.name} is not finite; "
                "lower --lr or --alpha-max"
            )
        return table


def _figures(set_name: str, table: pd.DataFrame) -> dict[str, float]:
    point = aggregate(table)
    named = {name: getattr(point, name) for name in point.__dataclass_fields__}
    return {f"{set_name}/{name}": value for name, value in named.items() if math.isfinite(value)}


def _columns(set_name: str, table: pd.DataFrame, names: tuple[str, ...]) -> dict[str, list[float]]:
    return {f"{set_name}/{name}": table[name].tolist() for name in names}
