"""A trial: one model at one quality, trained epoch by epoch and evaluated after each.

A trial does not depend on the search; its metrics are a function of its configuration.
"""

from __future__ import annotations

import functools
import math
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch

from lic.data.crops import RandomCrops
from lic.data.sets import ImageSet, noting_overlap, test_set, training_and_validation
from lic.evaluation.evaluate import aggregate, evaluate
from lic.losses.regularizers import check_regularizer
from lic.models.acceleration import keep_freed_memory
from lic.models.architectures import OwnModel
from lic.models.build import build
from lic.recipe import FORKABLE, ON_CPU, Acceleration, TrainingConfig
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
    converged."""

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
    input."""

    def __init__(self, config: TrialConfig) -> None:
        if config.device == "cpu":
            torch.set_num_threads(1)
            keep_freed_memory()
        self.config = config
        self.train_images, self.val_images, self.test_images = open_images(config.images)
        training = config.training
        model = build(config.model, config.width, config.latent_width, training.seed)
        if config.start is not None:
            load_weights(model, Path(config.start))
        crops = RandomCrops(
            self.train_images.images, training.patch, training.batch, training.seed, config.device,
            config.speed.resident_images,
        )  # fmt: skip
        self.trainer = Trainer(model, training, crops, config.device, config.speed)
        #: Metrics of all epochs so far; part of the checkpoint.
        self.readings: list[EpochMetrics] = []

    @property
    def done(self) -> bool:
        return self.trainer.epoch >= self.config.training.epochs

    def run_epoch(self) -> EpochMetrics:
        """Train and evaluate one epoch. Raises DivergedError if training has diverged."""
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
        state = self.trainer.load(path)
        try:
            self.readings = [EpochMetrics(**readings) for readings in state["readings"]]
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path} lacks the metrics of its epochs ({error})") from error

    def fork(self, path: Path) -> None:
        """Start from the checkpoint of another training run, which may differ only in FORKABLE fields; its
        metrics are not taken over. Raises CheckpointError (see Trainer.load)."""
        self.trainer.load(path, other=FORKABLE)

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
