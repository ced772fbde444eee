"""The exponential moving average of the weights: its values, resume, and what is evaluated and exported."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lic import zoo
from lic.data.cache import PackedImages
from lic.data.crops import RandomCrops
from lic.evaluation.evaluate import evaluate
from lic.models.build import build
from lic.recipe import Optimizer, TrainingConfig
from lic.training.trainer import CheckpointError, Trainer, _sealed, read_checkpoint
from lic.training.weights import load_weights

CONFIG = TrainingConfig(
    lmbda=0.0067, alpha=1e-7, strategy="y+z", batch=2, patch=64, epochs=2, steps_per_epoch=3, lr=1e-3, ema=0.9
)


def trainer(leaves: PackedImages, model: str = "hyperprior", **changes: Any) -> Trainer:
    config = dataclasses.replace(CONFIG, **changes)
    crops = RandomCrops(leaves, config.patch, config.batch, config.seed)
    return Trainer(build(model, 8, seed=config.seed), config, crops)


def same(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_it_is_the_average_of_the_steps_and_changes_no_training(
    leaves: PackedImages, optimizer: Optimizer
) -> None:
    own: dict[str, Any] = {"optimizer": optimizer, "steps_per_epoch": 4}
    run, off = trainer(leaves, ema=0.4, **own), trainer(leaves, ema=0.0, **own)
    seen: list[dict[str, torch.Tensor]] = []
    update = run._update_average

    def watched(row: torch.Tensor) -> None:
        update(row)
        seen.append({name: value.detach().clone() for name, value in run.model.named_parameters()})

    run._update_average = watched  # type: ignore[method-assign]
    for _ in range(2):
        found, expected = run.run_epoch(), off.run_epoch()
        assert found["loss"] == expected["loss"]
    assert same(run.model, off.model) and off.final_model is off.model and len(seen) == 8
    for name, value in run.final_model.named_parameters():
        average = seen[0][name]
        for step, weights in enumerate(seen[1:], 1):
            decay = min(0.4, (1 + step) / (10 + step))  # 2/11, 3/12, 4/13, 5/14, then 0.4
            average = decay * average + (1 - decay) * weights[name]
        torch.testing.assert_close(value.detach(), average)


@pytest.mark.parametrize("model", ["hyperprior", "cheng"])
def test_a_resumed_training_equals_an_uninterrupted_one(
    leaves: PackedImages, tmp_path: Path, model: str
) -> None:
    whole, first, second = (trainer(leaves, model) for _ in range(3))
    for _ in range(2):
        whole.run_epoch()
    first.run_epoch()
    first.save(tmp_path / "state.pt")
    second.load(tmp_path / "state.pt")
    second.run_epoch()
    assert same(second.model, whole.model) and same(second.final_model, whole.final_model)
    assert not same(whole.model, whole.final_model)


def test_it_is_what_is_evaluated_loaded_and_exported(leaves: PackedImages, tmp_path: Path) -> None:
    run = trainer(leaves)
    run.run_epoch()
    run.save(tmp_path / "state.pt")
    by_export, by_start = build("hyperprior", 8), build("hyperprior", 8)
    by_export.load_state_dict(read_checkpoint(tmp_path / "state.pt")["model"])
    load_weights(by_start, tmp_path / "state.pt")
    expected = evaluate(run.final_model, leaves, crop=64)
    for model in (zoo.prepare(by_export), by_start):
        assert evaluate(model, leaves, crop=64).equals(expected)
    image = torch.rand(1, 3, 64, 64)
    coded = by_export.compress(image)  # type: ignore[operator]
    decoded = by_export.decompress(coded["strings"], coded["shape"])["x_hat"]  # type: ignore[operator]
    torch.testing.assert_close(decoded, by_export(image)["x_hat"].clamp(0, 1))


def test_a_step_that_is_not_finite_is_left_out(leaves: PackedImages, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(leaves)
    sound = run.crops.batch
    monkeypatch.setattr(run.crops, "batch", lambda step: sound(step) * (math.nan if step == 1 else 1))
    assert run.run_epoch()["skipped_steps"] == 1
    assert run.average is not None and int(run.average.n_averaged) == 2
    assert all(value.isfinite().all() for value in run.final_model.parameters())


def test_checkpoints_of_another_average_are_refused(leaves: PackedImages, tmp_path: Path) -> None:
    run, off = trainer(leaves), trainer(leaves, ema=0.0)
    run.save(tmp_path / "on.pt")
    off.save(tmp_path / "off.pt")
    state = read_checkpoint(tmp_path / "off.pt")
    assert not {"trained", "averaged_steps"} & state.keys()
    del state["config"]["ema"]  # as before the option existed
    (tmp_path / "old.pt").write_bytes(_sealed(state))
    off.load(tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match=r"trained with ema 0\.0, not 0\.9"):
        run.load(tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match=r"trained with ema 0\.9, not 0\.0"):
        off.load(tmp_path / "on.pt")
    for wrong in (-1, "x", None):
        forged = {**read_checkpoint(tmp_path / "on.pt"), "averaged_steps": wrong}
        (tmp_path / "forged.pt").write_bytes(_sealed(forged))
        with pytest.raises(CheckpointError, match="average has an invalid number of steps"):
            run.load(tmp_path / "forged.pt")
