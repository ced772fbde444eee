"""Training one model at one rate: read `Trainer.run_epoch` from top to bottom."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lic import durable
from lic.criterion import Criterion
from lic.data.crops import RandomCrops
from lic.models import LatentTap
from lic.recipe import TrainingConfig


class DivergedError(RuntimeError):
    """Too many steps of an epoch were not finite; the message says how many and what to do."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or belongs to another training; the message names it."""


class TornError(CheckpointError):
    """A checkpoint that is not what was written: an earlier one may do in its place."""


class Trainer:
    """Trains `model` in place with Adam, and a second Adam for the entropy bottleneck's quantiles.

    Every step is a function of the state before it, the seed and the step's number: the batch
    comes from `crops.batch(step)` and torch's generators are seeded per step. So model, optimiser
    states and step number are the full state: the schedule and the random numbers follow from
    them, and a resumed run equals an uninterrupted one bit for bit on the CPU.
    """

    def __init__(
        self, model: nn.Module, config: TrainingConfig, crops: RandomCrops, device: str = "cpu"
    ) -> None:
        self.model = model.to(device)
        self.config, self.crops, self.device = config, crops, torch.device(device)
        self.criterion = Criterion(config.lmbda, config.alpha, config.strategy, config.scale)
        self.step = 0
        named = dict(model.named_parameters())
        self.quantiles = [p for name, p in named.items() if name.endswith("quantiles")]
        self.weights = [p for name, p in named.items() if not name.endswith("quantiles")]
        self.optimiser = torch.optim.Adam(self.weights, lr=config.lr)
        self.aux_optimiser = torch.optim.Adam(self.quantiles, lr=config.aux_lr) if self.quantiles else None

    @property
    def epoch(self) -> int:
        """Number of whole epochs trained."""
        return self.step // self.config.steps_per_epoch

    def run_epoch(self) -> dict[str, float]:
        """Train to the end of the epoch. Returns the mean of each criterion term over its finite
        steps, plus lr, grad_norm (before clipping), skipped_steps and train_seconds.

        Raises DivergedError when more than `max_skipped` of the steps are not finite.
        """
        started, config = time.perf_counter(), self.config
        sums: dict[str, Tensor] = {}
        skipped, end = 0, (self.epoch + 1) * config.steps_per_epoch
        first = self.step
        self.model.train()
        with LatentTap(self.model) as tap:
            while self.step < end:
                terms = self._train_step(tap)
                self.step += 1
                if terms is None:
                    skipped += 1
                    self._check_skipped(skipped)
                    continue
                for name, value in terms.items():
                    sums[name] = sums[name] + value if name in sums else value.clone()
        finite = max(1, self.step - first - skipped)
        readings = {name: float(value) / finite for name, value in sums.items()}
        readings["lr"] = config.lr_at(self.step - 1)
        readings["skipped_steps"] = skipped
        readings["train_seconds"] = time.perf_counter() - started
        return readings

    def _train_step(self, tap: LatentTap) -> dict[str, Tensor] | None:
        """One optimisation step; None, with nothing changed, if it is not finite."""
        torch.manual_seed(_step_seed(self.config.seed, self.step))
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.lr_at(self.step)
        images = self.crops.batch(self.step).to(self.device, non_blocking=True)
        terms = self.criterion(self.model(images), tap.take(), images)
        self.optimiser.zero_grad()
        terms["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.weights, self.config.clip)
        if not torch.isfinite(norm + terms["loss"].detach()):
            return None
        self.optimiser.step()
        if self.aux_optimiser is not None:
            # After the main step and with gradients of its own: the rate's gradient reaches the
            # quantiles too, and must neither move them nor be clipped with the weights'.
            self.aux_optimiser.zero_grad()
            self.model.aux_loss().backward()  # type: ignore[operator]
            self.aux_optimiser.step()
        return {"grad_norm": norm, **{name: value.detach() for name, value in terms.items()}}

    def _check_skipped(self, skipped: int) -> None:
        allowed = max(3, round(self.config.max_skipped * self.config.steps_per_epoch))
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
        durable.write(path, _sealed(state))

    def load(self, path: Path, other: tuple[str, ...] = ()) -> dict[str, Any]:
        """Go on from a file of `save`; its state. Raises CheckpointError if it is unreadable, which its class
        TornError tells apart, or belongs to a training with another configuration, save for the fields in
        `other`."""
        state = read_checkpoint(path)
        saved, own, step = state["config"], dataclasses.asdict(self.config), state["step"]
        if not isinstance(saved, dict) or type(step) is not int or not 0 <= step <= self.config.total_steps:
            raise CheckpointError(f"the checkpoint {path} has a configuration or a step that cannot be")
        if changed := sorted(key for key in own if key not in other and saved.get(key) != own[key]):
            key = changed[0]
            raise CheckpointError(
                f"the checkpoint {path} was trained with {key} {saved.get(key)}, not {own[key]}"
            )
        try:
            optimisers = [(o, state[k]) for k in ("optimiser", "aux_optimiser") if (o := getattr(self, k))]
            for optimiser, found in optimisers:  # its own loader believes all numbers and shapes
                groups, weights = optimiser.state_dict()["param_groups"], optimiser.param_groups[0]["params"]
                if [{**g, "lr": 0} for g in found["param_groups"]] != [{**g, "lr": 0} for g in groups]:
                    raise ValueError("its optimiser is another")
                for number, moments in found["state"].items():
                    if any(moments[k].shape != weights[number].shape for k in ("exp_avg", "exp_avg_sq")):
                        raise ValueError("its optimiser is of another model")
            self.model.load_state_dict(state["model"])
            for optimiser, found in optimisers:
                optimiser.load_state_dict(found)
        except Exception as error:  # what was forged can raise anything at all
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"the checkpoint {path} is not one of this model ({first})") from error
        self.step = step
        return state


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
    """The state in a file of `Trainer.save`, on the CPU. Raises TornError if it is not what was written,
    CheckpointError if it is no checkpoint at all."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TornError(f"{path} cannot be read ({error.strerror or error})") from error
    if content[-_SEAL:] != hashlib.sha256(memoryview(content)[:-_SEAL]).hexdigest().encode():
        raise TornError(
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
