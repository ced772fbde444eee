"""Training one model at one rate: read `Trainer.run_epoch` from top to bottom."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import io
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lic import atomic_io
from lic.data.crops import RandomCrops
from lic.errors import LictuneError
from lic.losses.criterion import Criterion
from lic.models.acceleration import (
    CaptureError,
    StepGraph,
    free_latents_and_entropy_models,
    matrix_units,
)
from lic.models.build import LatentTap, aux_loss
from lic.models.torch_internals import compile_errors, leave_out_dynamo
from lic.ranks import ALONE, Ranks
from lic.recipe import BEFORE, ON_CPU, Acceleration, Precision, TrainingConfig
from lic.training import optimizers, schedules

_log = logging.getLogger(__name__)


class DivergedError(RuntimeError):
    """Too many steps of an epoch were not finite; the message has their number and what to do."""


class CheckpointError(LictuneError):
    """A checkpoint cannot be read or belongs to another training run; the message names it."""


class CorruptCheckpointError(CheckpointError):
    """A checkpoint is damaged; an earlier one may be usable."""


class Trainer:
    """Trains `model` in place with Adam, and a second Adam for the entropy bottleneck's quantiles.

    Each step is a function of the previous state, the seed and the step number: the batch comes from
    `crops.batch(step)`, and torch's generators are seeded per step. So the model, the states of
    optimizers and schedule and the step number are the full state, and on the CPU a resumed run equals an
    uninterrupted one bit for bit. After each epoch `schedule.observe` wants the validation loss.

    On a GPU the host waits only at the end of an epoch; until then the results of the steps stay on the
    device.

    On several `ranks`, `crops` are this rank's rows of each batch. Gradients and terms are averaged over the
    ranks, so what follows from them (clipping, updates, skipped steps) is the same on all. All ranks must
    train the same epochs, load the same checkpoints and have the same state of the schedule.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        crops: RandomCrops,
        device: str = "cpu",
        speed: Acceleration = ON_CPU,
        ranks: Ranks = ALONE,
    ) -> None:
        if not speed.compile:
            leave_out_dynamo()
        self.layout = torch.channels_last if speed.channels_last else torch.contiguous_format
        self.model = model.to(device).to(memory_format=self.layout)
        self.ranks = ranks
        free_latents_and_entropy_models(self.model, ranks)
        self.config, self.crops, self.device, self.speed = config, crops, torch.device(device), speed
        self.criterion = Criterion.of(config, self.device, ranks)
        #: Values that each training step measures.
        self.columns = ("grad_norm", *self.criterion.terms)
        self.step = 0
        named = dict(model.named_parameters())
        self.quantiles = [p for name, p in named.items() if name.endswith("quantiles")]
        self.weights = [p for name, p in named.items() if not name.endswith("quantiles")]
        self.optimiser = optimizers.build(config.optimizer, self.weights, speed.fused_adam)
        self.aux_optimiser = (
            optimizers.Adam(self.quantiles, fused=speed.fused_adam) if self.quantiles else None
        )
        if self.aux_optimiser is not None:
            self.aux_optimiser.set_rate(config.aux_lr)
        self.schedule = schedules.build(config)
        #: The exponential moving average of the weights, quantiles included; None if it is off.
        self.average: AveragedModel | None = None
        if config.ema:
            self.average = AveragedModel(self.model, multi_avg_fn=_moving_average(config.ema))
        self._ready_for_graph()

    def _ready_for_graph(self) -> None:
        """If CUDA graphs are used, fix the addresses of everything that a step reads and writes."""
        #: One graph per part of a step, by name.
        self._graphs: dict[str, StepGraph] = collections.defaultdict(StepGraph)
        if self.speed.graph:
            self.optimiser.lie_still()
            if self.aux_optimiser is not None:
                self.aux_optimiser.lie_still()

    @property
    def final_model(self) -> nn.Module:
        """The model to evaluate and export: with the averaged weights, if `ema` is on."""
        return self.model if self.average is None else self.average.module

    @property
    def epoch(self) -> int:
        """Number of completed epochs."""
        return self.step // self.config.steps_per_epoch

    def run_epoch(self) -> dict[str, float]:
        """Train one epoch. Returns the mean of each criterion term over the finite steps, and lr, grad_norm
        (before clipping), skipped_steps and train_seconds.

        A step whose loss or gradient is not finite changes nothing. If the precision is not fp32, its batch
        is repeated in fp32 at the end of the epoch. Steps that fail again are skipped. Raises DivergedError
        if more than `max_skipped` of the steps, or all steps, are skipped.
        """
        started, config, precision = time.perf_counter(), self.config, self.speed.precision
        steps = range(self.step, (self.epoch + 1) * config.steps_per_epoch)
        self.model.train()
        self.ranks.align(list(self.model.parameters()))
        with LatentTap(self.model) as tap:
            table = self._train_steps(tap, steps, precision)
            lost = (~_finite(table)).nonzero().flatten().tolist()
            if precision != "fp32" and lost:
                table[lost] = self._train_steps(tap, [steps[row] for row in lost], "fp32")
        finite = _finite(table)
        skipped = len(steps) - int(finite.sum())
        self._check_skipped(skipped)
        self.step = steps.stop
        means = table[finite].double().mean(0).tolist()
        metrics = dict(zip(self.columns, means, strict=True))
        metrics["lr"] = self.schedule.rate(self.step - 1)
        metrics["skipped_steps"] = skipped
        metrics["train_seconds"] = time.perf_counter() - started
        return metrics

    def _train_steps(self, tap: LatentTap, steps: Sequence[int], precision: Precision) -> Tensor:
        """Train these steps; returns their `columns`, one row per step, on the host."""
        rows, lost = [], 0
        with matrix_units(precision == "tf32", self.speed.autotune):
            for step in steps:
                rows.append(self._train_step(tap, step, precision))
                # On the CPU the check is free, so a diverged training run ends at once.
                if self.device.type == "cpu" and precision == "fp32" and not _finite(rows[-1]):
                    lost += 1
                    self._check_skipped(lost)
        return torch.stack(rows).cpu()

    def _train_step(self, tap: LatentTap, step: int, precision: Precision) -> Tensor:
        """One optimization step; does nothing if it is not finite. Returns its `columns`, on the device."""
        self.optimiser.set_rate(self.schedule.rate(step))
        images = self.crops.batch(step).contiguous(memory_format=self.layout)
        torch.manual_seed(_step_seed(self.config.seed, step))
        try:
            row = self._optimise_on(tap, images, precision)
            self._update_average(row)
            return row
        except CaptureError as error:
            self._do_without("graph", error)
        except compile_errors() as error:  # no weight has changed yet
            self._do_without("compile", error)
        return self._train_step(tap, step, precision)

    def _update_average(self, row: Tensor) -> None:
        """Update the average after a step. A step that is not finite is left out; on a GPU, where the host
        does not wait to know, the unchanged weights count once more."""
        if self.average is not None and (self.device.type != "cpu" or _finite(row)):
            self.average.update_parameters(self.model)

    def _optimise_on(self, tap: LatentTap, images: Tensor, precision: Precision) -> Tensor:
        """The step of a batch, with the current learning rate and generator. It has one part, or three if the
        optimizer needs to know whether the gradient is finite; each part may be a CUDA graph."""
        in_graphs = self.speed.graph and precision == self.speed.precision

        def run(name: str, work: Callable[..., Tensor | None], *inputs: Tensor) -> Tensor | None:
            return self._graphs[name](work, *inputs) if in_graphs else work(*inputs)

        def measure(images: Tensor) -> Tensor:
            row = self._measure(tap, images, precision)
            if not self.optimiser.waits:
                finite = _finite(row)
                self.optimiser.step(finite)
                self._move_quantiles(finite)
            return row

        row = run("measure", measure, images)
        assert row is not None
        if self.optimiser.waits and _finite(row):
            with matrix_units(tf32=False):
                self.optimiser.step(run=functools.partial(run, "move"))
            run("quantiles", self._move_quantiles)
        return row

    def _measure(self, tap: LatentTap, images: Tensor, precision: Precision) -> Tensor:
        """The terms and the clipped gradients of a batch: the means over its parts, of which only one at a
        time is in memory."""
        # Do not compile for batches that are repeated in another precision.
        compiled = self.speed.compile and precision == self.speed.precision
        losses = _compiled() if compiled else _losses
        count = self.config.accumulate
        rows = []
        _forget_gradients(self.weights)
        for part in images.chunk(count) if count > 1 else (images,):
            terms = losses(self.model, tap, self.criterion, part, precision)
            (terms["loss"] / count).backward()
            rows.append(torch.stack([terms[name].detach() for name in self.criterion.terms]))
        row = torch.stack(rows).mean(0)
        self.ranks.average([row, *(weight.grad for weight in self.weights if weight.grad is not None)])
        norm = nn.utils.clip_grad_norm_(self.weights, self.config.clip)
        self.optimiser.take_gradients()
        return torch.cat([norm[None], row])

    def _move_quantiles(self, finite: Tensor | None = None) -> None:
        """Update the quantiles after the main step, with separate gradients: the gradient of the rate reaches
        them too, but must neither move them nor be clipped with that of the weights."""
        if self.aux_optimiser is not None:
            _forget_gradients(self.quantiles)
            aux_loss(self.model).backward()
            self.aux_optimiser.step(finite)

    def _do_without(self, switch: str, error: Exception) -> None:
        """Turn off an option that does not work here; if it is off already, raise the error."""
        if not getattr(self.speed, switch):
            raise error
        what = {"compile": "torch.compile failed; training continues uncompiled",
                "graph": "CUDA graph capture failed; training continues without graphs"}  # fmt: skip
        first = str(error).strip().partition("\n")[0]
        _log.warning("%s (%s)", what[switch], first)
        off: dict[str, Any] = {switch: False}
        self.speed = dataclasses.replace(self.speed, **off)

    def _check_skipped(self, skipped: int) -> None:
        steps = self.config.steps_per_epoch
        allowed = min(max(3, round(self.config.max_skipped * steps)), steps - 1)
        if skipped > allowed:
            raise DivergedError(
                f"{skipped} steps of epoch {self.epoch + 1} had a loss or gradient that is not finite "
                f"(maximum {allowed}); lower --lr or --alpha-max"
            )

    def save(self, path: Path, **more: Any) -> None:
        """Write the full state and `more` (plain values and tensors) to `path`, atomically. 'model' are the
        weights to use; with `ema`, the average, and 'trained' are those that training goes on from. Raises
        OSError."""
        state = {
            "config": dataclasses.asdict(self.config),
            "step": self.step,
            "model": self.final_model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "aux_optimiser": self.aux_optimiser.state_dict() if self.aux_optimiser else None,
            "schedule": self.schedule.state_dict(),
            **more,
        }
        if self.average is not None:
            state["trained"] = self.model.state_dict()
            state["averaged_steps"] = int(self.average.n_averaged)
        atomic_io.write(path, _sealed(state))

    def load(self, path: Path, other: tuple[str, ...] = ()) -> dict[str, Any]:
        """Restore a file of `save`; returns its state. Raises CorruptCheckpointError if it is unreadable, and
        CheckpointError if it belongs to a training run whose configuration differs in more than the fields in
        `other`."""
        state = read_checkpoint(path)
        saved, own, step = state["config"], dataclasses.asdict(self.config), state["step"]
        if not isinstance(saved, dict) or type(step) is not int or not 0 <= step <= self.config.total_steps:
            raise CheckpointError(f"the checkpoint {path} has an invalid configuration or step")
        saved = {**BEFORE, **saved}
        if changed := sorted(key for key in own if key not in other and saved.get(key) != own[key]):
            key = changed[0]
            raise CheckpointError(
                f"the checkpoint {path} was trained with {key} {saved.get(key)}, not {own[key]}"
            )
        try:
            self.final_model.load_state_dict(state["model"])
            if self.average is not None:
                self._load_average(state)
            self.optimiser.load_state_dict(state["optimiser"])
            if self.aux_optimiser is not None:
                self.aux_optimiser.load_state_dict(state["aux_optimiser"])
            self.schedule.load_state_dict(state.get("schedule"))
            self._ready_for_graph()
        except Exception as error:  # a forged file can raise anything
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"the checkpoint {path} does not fit this model ({first})") from error
        self.step = step
        return state

    def _load_average(self, state: dict[str, Any]) -> None:
        """Load the trained weights and the number of averaged steps. Raises ValueError on a wrong number; a
        forged state can raise any exception."""
        assert self.average is not None
        steps = state["averaged_steps"]
        if type(steps) is not int or not 0 <= steps <= 2 * self.config.total_steps:
            raise ValueError("its average has an invalid number of steps")
        self.model.load_state_dict(state["trained"])
        self.average.n_averaged.fill_(steps)


def _losses(
    model: nn.Module, tap: LatentTap, criterion: Criterion, images: Tensor, precision: Precision
) -> dict[str, Tensor]:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        output = model(images)
    return criterion(output, tap.take(), images)


@functools.cache
def _compiled() -> Callable[..., dict[str, Tensor]]:
    """`_losses`, compiled. The model is an argument, so that all models of one shape in this process share
    the compiled code."""
    return torch.compile(_losses, dynamic=False)


def _forget_gradients(parameters: Sequence[Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = None


def _moving_average(decay: float) -> Callable[..., None]:
    """The update of an exponential moving average. Its decay grows to this one as (1 + n) / (10 + n), as in
    TensorFlow: with a constant one the weights of the beginning are in the average for too long (0.999: a
    twentieth of it after 3,000 steps)."""

    def update(averaged: Any, weights: Any, steps: Tensor) -> None:
        n = int(steps)
        torch._foreach_lerp_(averaged, weights, 1 - min(decay, (1 + n) / (10 + n)))

    return update


def _finite(rows: Tensor) -> Tensor:
    """Whether all values of a step are finite, for one row or for each row."""
    return rows.isfinite().all(-1)


#: Bytes of a SHA-256 in hexadecimal digits.
_SEAL = 64


def _sealed(state: dict[str, Any]) -> bytes:
    """Serialize a state with torch.save, a zip archive, and append the SHA-256 of its content as the
    archive's comment; torch and zip tools can still read it."""
    archive = io.BytesIO()
    torch.save(state, archive)
    archive.seek(-2, io.SEEK_END)  # the length of the comment, which is empty, ends the archive
    archive.write(_SEAL.to_bytes(2, "little"))
    archive.write(hashlib.sha256(archive.getbuffer()).hexdigest().encode())
    return archive.getvalue()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the state of a file of `Trainer.save`, on the CPU. Raises CorruptCheckpointError if it is damaged,
    CheckpointError if it is not a checkpoint."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptCheckpointError(f"{path} cannot be read ({error.strerror or error})") from error
    if content[-_SEAL:] != hashlib.sha256(memoryview(content)[:-_SEAL]).hexdigest().encode():
        raise CorruptCheckpointError(
            f"{path} is damaged, truncated, or not a checkpoint of this program (checksum mismatch)"
        )
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a forged file can raise anything
        first = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} is not a readable checkpoint ({first})") from error
    if not isinstance(state, dict) or not {"config", "step", "model", "optimiser"} <= state.keys():
        raise CheckpointError(f"{path} is not a training checkpoint of this program")
    return state


def _step_seed(seed: int, step: int) -> int:
    """A 64-bit seed that is independent for neighbouring seeds and steps."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0]) >> 1
