"""Learning rate schedules: the rate of each step, by name.

All but `plateau` are functions of the step, so a resumed training run needs no state of them. `plateau` also
depends on the validation losses so far; what it remembers of them is part of the checkpoint.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from lic.recipe import TrainingConfig

#: The first rate of `one-cycle` is that of its peak divided by this (torch's default).
_FIRST = 25.0

#: Fraction of the epochs without improvement after which `plateau` lowers the rate: torch's default, 10
#: epochs, of the 100 of the paper.
_PATIENCE = 0.1


class Schedule(Protocol):
    """The learning rate of each step, counted from 0."""

    def rate(self, step: int) -> float: ...

    def observe(self, loss: float) -> None:
        """Take notice of the validation loss after an epoch."""

    def state_dict(self) -> dict[str, Any]:
        """What cannot be derived from the step."""

    def load_state_dict(self, found: Any) -> None:
        """Load a `state_dict`. Raises ValueError if it is invalid; a forged one can raise any exception."""


def build(config: TrainingConfig) -> Schedule:
    """The schedule of a training run."""
    if config.schedule == "plateau":
        return Plateau(config)
    return OneCycle(config) if config.schedule == "one-cycle" else ConstantCosine(config)


class _OfStep:
    """A schedule that is a function of the step."""

    def observe(self, loss: float) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, found: Any) -> None:
        pass


class ConstantCosine(_OfStep):
    """`lr` up to the fraction `decay_at` of the steps (`cosine`: 0), then half a cosine down to
    `lr * decay_to`. From `decay_at` 0 on the rates are those of torch's CosineAnnealingLR, which can only go
    forward step by step."""

    def __init__(self, config: TrainingConfig) -> None:
        self._config = config
        self._start = (0.0 if config.schedule == "cosine" else config.decay_at) * config.total_steps

    def rate(self, step: int) -> float:
        config, start = self._config, self._start
        if step < start:
            return config.lr
        done = min(1.0, (step - start) / max(1.0, config.total_steps - start))
        return config.lr * (config.decay_to + (1 - config.decay_to) * 0.5 * (1 + math.cos(math.pi * done)))


class OneCycle(_OfStep):
    """torch's OneCycleLR (Smith and Topin 2018, arXiv 1708.07120): from `lr` / 25 up to `lr` over 30 % of the
    steps, then down to `lr * decay_to`, both along half a cosine. The momentum stays."""

    def __init__(self, config: TrainingConfig) -> None:
        optimizer = _stand_in(config.lr)
        self._scheduler = OneCycleLR(
            optimizer, config.lr, total_steps=config.total_steps, cycle_momentum=False,
            div_factor=_FIRST, final_div_factor=1 / (_FIRST * config.decay_to),
        )  # fmt: skip
        optimizer.step()  # torch warns if the scheduler is first

    def rate(self, step: int) -> float:
        self._scheduler.last_epoch = step - 1  # its rate is a function of this number
        self._scheduler.step()
        return float(self._scheduler.get_last_lr()[0])


class Plateau:
    """torch's ReduceLROnPlateau: a tenth of the rate, but at least `lr * decay_to`, when the validation loss
    has not fallen by 0.01 % for more than a tenth of the epochs."""

    def __init__(self, config: TrainingConfig) -> None:
        self._most, self._least = config.lr, config.lr * config.decay_to
        self._optimizer = _stand_in(config.lr)
        patience = max(1, round(_PATIENCE * config.epochs))
        self._scheduler = ReduceLROnPlateau(self._optimizer, patience=patience, min_lr=self._least, eps=0.0)

    def rate(self, step: int) -> float:  # noqa: ARG002
        return float(self._optimizer.param_groups[0]["lr"])

    def observe(self, loss: float) -> None:
        self._scheduler.step(loss)

    def state_dict(self) -> dict[str, Any]:
        scheduler = self._scheduler
        return {"lr": self.rate(0), "best": float(scheduler.best), "bad_epochs": scheduler.num_bad_epochs}

    def load_state_dict(self, found: Any) -> None:
        lr, best, bad_epochs = (found[key] for key in ("lr", "best", "bad_epochs"))
        if type(lr) is not float or not self._least <= lr <= self._most:
            raise ValueError("its schedule has an invalid learning rate")
        if type(best) is not float or math.isnan(best) or type(bad_epochs) is not int or bad_epochs < 0:
            raise ValueError("its schedule has an invalid state")
        self._optimizer.param_groups[0]["lr"] = lr
        self._scheduler.best, self._scheduler.num_bad_epochs = best, bad_epochs


def _stand_in(lr: float) -> torch.optim.Optimizer:
    """An optimizer of nothing, whose rate a scheduler of torch can set."""
    return torch.optim.SGD([torch.zeros(1)], lr=lr)
