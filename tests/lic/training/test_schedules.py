"""The schedules: their rates against torch's schedulers, and plateau's state."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from lic.recipe import TrainingConfig
from lic.training import schedules
from lic.training.trainer import CheckpointError, _sealed, read_checkpoint
from lic.training.trial import ImagesConfig, Trial, TrialConfig

CONFIG = TrainingConfig(lmbda=1, epochs=10, steps_per_epoch=10, lr=1e-3, decay_at=0.6, decay_to=0.1)


def rates(**changes: Any) -> list[float]:
    schedule = schedules.build(dataclasses.replace(CONFIG, **changes))
    return [schedule.rate(step) for step in range(100)]


def forward(scheduler: LRScheduler) -> list[float]:
    """The rates of a scheduler of torch, step by step."""
    found = []
    for _ in range(100):
        found.append(float(scheduler.get_last_lr()[0]))
        scheduler.optimizer.step()
        if len(found) < 100:
            scheduler.step()
    return found


def stand_in() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1)], lr=1e-3)


def test_the_default_is_constant_then_falls() -> None:
    found = rates()
    assert found[:60] == [1e-3] * 60
    assert all(a > b for a, b in pairwise(found[60:]))
    assert schedules.build(CONFIG).rate(100) == pytest.approx(1e-4)


def test_cosine_is_torchs() -> None:
    theirs = forward(CosineAnnealingLR(stand_in(), 100, eta_min=1e-4))
    assert rates(schedule="cosine") == pytest.approx(theirs, rel=1e-9)


def test_one_cycle_is_torchs() -> None:
    scheduler = OneCycleLR(stand_in(), 1e-3, total_steps=100, final_div_factor=0.4, cycle_momentum=False)
    found = rates(schedule="one-cycle")
    assert found == forward(scheduler)
    assert (found[0], max(found), found[-1]) == pytest.approx((4e-5, 1e-3, 1e-4))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["constant-cosine", "cosine", "one-cycle"])
def test_a_step_has_the_same_rate_in_any_order(name: str) -> None:
    """As a resumed training run or a repeated batch has it."""
    expected, schedule = (
        rates(schedule=name),
        schedules.build(dataclasses.replace(CONFIG, schedule=name)),  # type: ignore[arg-type]
    )
    for step in (99, 0, 57, 57, 12):
        assert schedule.rate(step) == expected[step]


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_shortest_training_has_rates(epochs: int) -> None:
    for name in ("cosine", "one-cycle", "plateau"):
        config = dataclasses.replace(CONFIG, epochs=epochs, steps_per_epoch=1, schedule=name)
        schedule = schedules.build(config)
        assert all(0 < schedule.rate(step) <= 1e-3 for step in range(epochs)), name


def test_plateau_is_torchs_and_resumes_anywhere() -> None:
    losses = [3.0, 2.0, 2.5, 2.5, 2.5, 1.9, 1.9, 1.9, 1.9, 1.9, 1.9, 1.9]
    config = dataclasses.replace(CONFIG, schedule="plateau", decay_to=0.02)
    theirs = ReduceLROnPlateau(optimizer := stand_in(), patience=1, min_lr=2e-5)
    schedule = schedules.build(config)
    for loss in losses:
        schedule.observe(loss)
        theirs.step(loss)
        assert schedule.rate(0) == optimizer.param_groups[0]["lr"]
        resumed = schedules.build(config)
        resumed.load_state_dict(schedule.state_dict())
        schedule = resumed
    assert schedule.rate(0) == pytest.approx(2e-5)


@pytest.mark.parametrize(
    "wrong", [{"lr": 1.0}, {"lr": "x"}, {"lr": math.nan}, {"best": math.nan}, {"bad_epochs": -1}]
)
def test_an_invalid_state_is_refused(wrong: dict[str, Any]) -> None:
    schedule = schedules.build(dataclasses.replace(CONFIG, schedule="plateau"))
    with pytest.raises(ValueError, match="its schedule has an invalid"):
        schedule.load_state_dict({**schedule.state_dict(), **wrong})


def trial(photographs: Path, **changes: Any) -> Trial:
    """A training run whose validation images are evaluated for the schedule only."""
    training = TrainingConfig(
        lmbda=0.0067, batch=2, patch=64, epochs=4, steps_per_epoch=1, lr=1e-12, decay_to=0.01, **changes
    )
    images = ImagesConfig(
        str(photographs), None, str(photographs), 1, 1, 64, str(photographs.parent / "cache")
    )
    return Trial(TrialConfig("hyperprior", 8, None, None, training, images, (), (4,)))


def test_a_resumed_training_with_plateau_equals_an_uninterrupted_one(
    photographs: Path, tmp_path: Path
) -> None:
    """With a rate at which nothing improves it falls after two epochs without improvement."""
    whole = trial(photographs, schedule="plateau")
    expected = [whole.run_epoch().figures for _ in range(4)]
    assert [found["train/lr"] for found in expected] == pytest.approx([1e-12, 1e-12, 1e-12, 1e-13])
    assert "val/bpp" not in expected[0]
    first = trial(photographs, schedule="plateau")
    for _ in range(2):
        first.run_epoch()
    first.save(tmp_path / "state.pt")
    resumed = trial(photographs, schedule="plateau")
    resumed.load(tmp_path / "state.pt")
    for number in (2, 3):
        found = resumed.run_epoch().figures
        assert found["train/lr"] == expected[number]["train/lr"]
        assert found["train/loss"] == expected[number]["train/loss"]
    state = whole.trainer.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in resumed.trainer.model.state_dict().items())

    forged = {**read_checkpoint(tmp_path / "state.pt"), "schedule": None}
    (tmp_path / "forged.pt").write_bytes(_sealed(forged))
    with pytest.raises(CheckpointError, match="does not fit this model"):
        resumed.load(tmp_path / "forged.pt")


def test_a_checkpoint_of_before_there_were_schedules_has_the_default(
    photographs: Path, tmp_path: Path
) -> None:
    run = trial(photographs).trainer
    run.run_epoch()
    run.save(tmp_path / "new.pt")
    state = read_checkpoint(tmp_path / "new.pt")
    for key in ("schedule", "regularizer"):
        del state["config"][key]
    del state["schedule"]
    (tmp_path / "old.pt").write_bytes(_sealed(state))
    resumed = trial(photographs).trainer
    resumed.load(tmp_path / "old.pt")
    assert resumed.epoch == 1
    with pytest.raises(CheckpointError, match="trained with schedule constant-cosine, not cosine"):
        trial(photographs, schedule="cosine").trainer.load(tmp_path / "old.pt")


def test_a_trial_forks_from_a_baseline_of_another_regularizer(photographs: Path, tmp_path: Path) -> None:
    """A baseline has none, so that searches with different ones share it."""
    baseline = trial(photographs)
    baseline.run_epoch()
    baseline.save(tmp_path / "state.pt")
    forked = trial(photographs, alpha=1e-7, regularizer="correlation")
    forked.fork(tmp_path / "state.pt")
    assert forked.trainer.epoch == 1
    with pytest.raises(CheckpointError, match="trained with alpha"):
        forked.load(tmp_path / "state.pt")
