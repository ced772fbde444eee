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

from lic import atomic_io
from lic.data.crops import RandomCrops
from lic.errors import LictuneError
from lic.losses.criterion import TERMS, Criterion
from lic.models.acceleration import (
    CaptureError,
    StepGraph,
    free_latents_and_entropy_models,
    matrix_units,
)
from lic.models.build import LatentTap
from lic.models.torch_internals import compile_errors, leave_out_dynamo
from lic.recipe import ON_CPU, Acceleration, Precision, TrainingConfig
from lic.training import optimizers

_log = logging.getLogger(__name__)

#: What a training step measures.
_COLUMNS = ("grad_norm", *TERMS)


class DivergedError(RuntimeError):
    """Too many steps of an epoch were not finite; the message says how many and what to do."""


class CheckpointError(LictuneError):
    """A checkpoint that cannot be read or belongs to another training; the message names it."""


class CorruptCheckpointError(CheckpointError):
    """A checkpoint that is not what was written: an earlier one may do in its place."""


class Trainer:
    """Trains `model` in place with Adam, and a second Adam for the entropy bottleneck's quantiles.

    Every step is a function of the state before it, the seed and the step's number: the batch
    comes from `crops.batch(step)` and torch's generators are seeded per step. So model, optimiser
    states and step number are the full state: the schedule and the random numbers follow from
    them, and a resumed run equals an uninterrupted one bit for bit on the CPU.

    On a GPU the host only ever waits at an epoch's end: what the steps gave lies in a table on the device.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        crops: RandomCrops,
        device: str = "cpu",
        speed: Acceleration = ON_CPU,
    ) -> None:
        if not speed.compile:
            leave_out_dynamo()
        self.layout = torch.channels_last if speed.channels_last else torch.contiguous_format
        self.model = model.to(device).to(memory_format=self.layout)
        free_latents_and_entropy_models(self.model)
        self.config, self.crops, self.device, self.speed = config, crops, torch.device(device), speed
        self.criterion = Criterion.of(config, self.device)
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
        self._ready_for_graph()

    def _ready_for_graph(self) -> None:
        """Let what a step reads and writes lie where it lies from now on, if graphs are to be made of it."""
        #: By the name of the part of a step that each holds.
        self._graphs: dict[str, StepGraph] = collections.defaultdict(StepGraph)
        if self.speed.graph:
            self.optimiser.lie_still()
            if self.aux_optimiser is not None:
                self.aux_optimiser.lie_still()

    @property
    def epoch(self) -> int:
        """Number of whole epochs trained."""
        return self.step // self.config.steps_per_epoch

    def run_epoch(self) -> dict[str, float]:
        """Train to the end of the epoch. Returns the mean of each criterion term over its finite
        steps, plus lr, grad_norm (before clipping), skipped_steps and train_seconds.

        A step with a loss or gradient that is not finite changes nothing; at the end of the epoch its batch
        is done again in plain fp32, unless that is what it was done in. What fails then too is skipped.
        Raises DivergedError when more than `max_skipped` of the steps are, or all.
        """
        started, config, precision = time.perf_counter(), self.config, self.speed.precision
        steps = range(self.step, (self.epoch + 1) * config.steps_per_epoch)
        self.model.train()
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
        readings = dict(zip(_COLUMNS, means, strict=True))
        readings["lr"] = config.lr_at(self.step - 1)
        readings["skipped_steps"] = skipped
        readings["train_seconds"] = time.perf_counter() - started
        return readings

    def _train_steps(self, tap: LatentTap, steps: Sequence[int], precision: Precision) -> Tensor:
        """Optimise by the batches of these steps; their `_COLUMNS`, a row a step, on the host."""
        rows, lost = [], 0
        with matrix_units(precision == "tf32", self.speed.autotune):
            for step in steps:
                rows.append(self._train_step(tap, step, precision))
                # Where looking costs nothing, a training that is lost ends at once.
                if self.device.type == "cpu" and precision == "fp32" and not _finite(rows[-1]):
                    lost += 1
                    self._check_skipped(lost)
        return torch.stack(rows).cpu()

    def _train_step(self, tap: LatentTap, step: int, precision: Precision) -> Tensor:
        """One optimisation step; if it is not finite, nothing is changed. Its `_COLUMNS`, on the device."""
        self.optimiser.set_rate(self.config.lr_at(step))
        images = self.crops.batch(step).contiguous(memory_format=self.layout)
        torch.manual_seed(_step_seed(self.config.seed, step))
        try:
            return self._optimise_on(tap, images, precision)
        except CaptureError as error:
            self._do_without("graph", error)
        except compile_errors() as error:  # no weight has changed by then
            self._do_without("compile", error)
        return self._train_step(tap, step, precision)

    def _optimise_on(self, tap: LatentTap, images: Tensor, precision: Precision) -> Tensor:
        """The step of a batch, with the learning rate and the generator as they are: in one part, or, if the
        optimiser has to know what was measured before it moves anything, in three. A part may be a graph."""
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
        """The terms and the clipped gradients of a batch."""
        # A batch that is done again in another precision is not worth compiling for.
        compiled = self.speed.compile and precision == self.speed.precision
        losses = _compiled() if compiled else _losses
        terms = losses(self.model, tap, self.criterion, images, precision)
        _forget_gradients(self.weights)
        terms["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.weights, self.config.clip)
        self.optimiser.take_gradients()
        return torch.stack([norm, *(terms[name].detach() for name in TERMS)])

    def _move_quantiles(self, finite: Tensor | None = None) -> None:
        """After the main step and with gradients of their own: the rate's gradient reaches the quantiles too,
        and must neither move them nor be clipped with the weights'."""
        if self.aux_optimiser is not None:
            _forget_gradients(self.quantiles)
            self.model.aux_loss().backward()  # type: ignore[operator]
            self.aux_optimiser.step(finite)

    def _do_without(self, switch: str, error: Exception) -> None:
        """Turn off what cannot be had here; if it is off already, raise the error that is being handled."""
        if not getattr(self.speed, switch):
            raise error
        what = {"compile": "compiled and runs as it is", "graph": "captured and is started kernel by kernel"}
        first = str(error).strip().partition("\n")[0]
        _log.warning("the training step cannot be %s (%s)", what[switch], first)
        off: dict[str, Any] = {switch: False}
        self.speed = dataclasses.replace(self.speed, **off)

    def _check_skipped(self, skipped: int) -> None:
        steps = self.config.steps_per_epoch
        allowed = min(max(3, round(self.config.max_skipped * steps)), steps - 1)
        if skipped > allowed:
            raise DivergedError(
                f"{skipped} steps of epoch {self.epoch + 1} had a loss or gradient that is not finite "
                f"(at most {allowed} may); lower --lr or --alpha-max"
            )

    def save(self, path: Path, **more: Any) -> None:
        """Write the full state to `path`, so that a crash leaves the old file or the new, and `more` with it:
        plain values and tensors. Raises OSError."""
        state = {
            "config": dataclasses.asdict(self.config),
            "step": self.step,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "aux_optimiser": self.aux_optimiser.state_dict() if self.aux_optimiser else None,
            **more,
        }
        atomic_io.write(path, _sealed(state))

    def load(self, path: Path, other: tuple[str, ...] = ()) -> dict[str, Any]:
        """Go on from a file of `save`; its state. Raises CheckpointError if it is unreadable, which its class
        CorruptCheckpointError tells apart, or belongs to a training with another configuration, save for the
        fields in `other`."""
        state = read_checkpoint(path)
        saved, own, step = state["config"], dataclasses.asdict(self.config), state["step"]
        if not isinstance(saved, dict) or type(step) is not int or not 0 <= step <= self.config.total_steps:
            raise CheckpointError(f"the checkpoint {path} has a configuration or a step that cannot be")
        saved = {"optimizer": "adam", **saved}  # before there was a choice
        if changed := sorted(key for key in own if key not in other and saved.get(key) != own[key]):
            key = changed[0]
            raise CheckpointError(
                f"the checkpoint {path} was trained with {key} {saved.get(key)}, not {own[key]}"
            )
        try:
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            if self.aux_optimiser is not None:
                self.aux_optimiser.load_state_dict(state["aux_optimiser"])
            self._ready_for_graph()
        except Exception as error:  # what was forged can raise anything at all
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"the checkpoint {path} is not one of this model ({first})") from error
        self.step = step
        return state


def _losses(
    model: nn.Module, tap: LatentTap, criterion: Criterion, images: Tensor, precision: Precision
) -> dict[str, Tensor]:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        output = model(images)
    return criterion(output, tap.take(), images)


@functools.cache
def _compiled() -> Callable[..., dict[str, Tensor]]:
    """`_losses`, compiled: of a function of the model, not of a model, so that every model of one shape that
    this process trains runs the same code."""
    return torch.compile(_losses, dynamic=False)


def _forget_gradients(parameters: Sequence[Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = None


def _finite(rows: Tensor) -> Tensor:
    """Whether all that a step measured is finite, of one step or of each."""
    return rows.isfinite().all(-1)


#: Bytes of a SHA-256 in hexadecimal digits.
_SEAL = 64


def _sealed(state: dict[str, Any]) -> bytes:
    """What torch.save makes of a state, a zip archive, with the SHA-256 of all before it as the archive's
    comment: torch and every zip tool read it as before."""
    archive = io.BytesIO()
    torch.save(state, archive)
    archive.seek(-2, io.SEEK_END)  # the length of the comment, which is empty, ends the archive
    archive.write(_SEAL.to_bytes(2, "little"))
    archive.write(hashlib.sha256(archive.getbuffer()).hexdigest().encode())
    return archive.getvalue()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a file of `Trainer.save`, on the CPU. Raises CorruptCheckpointError if it is not what was
    written, CheckpointError if it is no checkpoint at all."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptCheckpointError(f"{path} cannot be read ({error.strerror or error})") from error
    if content[-_SEAL:] != hashlib.sha256(memoryview(content)[:-_SEAL]).hexdigest().encode():
        raise CorruptCheckpointError(
            f"{path} is damaged, cut off, or no checkpoint of this program (its checksum does not fit)"
        )
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a forged file can raise anything at all
        first = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} is not a readable checkpoint ({first})") from error
    if not isinstance(state, dict) or not {"config", "step", "model", "optimiser"} <= state.keys():
        raise CheckpointError(f"{path} is not a training checkpoint of this program")
    return state


def _step_seed(seed: int, step: int) -> int:
    """A 64-bit seed in which neighbouring seeds and steps share nothing."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0]) >> 1
