"""The trainer: resume, the NaN guard, the auxiliary optimiser."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from lic.data.cache import PackedImages
from lic.data.crops import RandomCrops
from lic.models.build import LatentTap, build
from lic.recipe import Precision, TrainingConfig
from lic.training.trainer import (
    CheckpointError,
    CorruptCheckpointError,
    DivergedError,
    Trainer,
    read_checkpoint,
)

CONFIG = TrainingConfig(
    lmbda=0.0067, alpha=1e-7, strategy="y+z", batch=2, patch=64, epochs=3, steps_per_epoch=4, lr=1e-3
)


def trainer(leaves: PackedImages, config: TrainingConfig = CONFIG, model: str = "hyperprior") -> Trainer:
    crops = RandomCrops(leaves, config.patch, config.batch, config.seed)
    return Trainer(build(model, 8, seed=config.seed), config, crops)


@pytest.mark.parametrize("model", ["hyperprior", "cheng"])
def test_a_resumed_training_equals_an_uninterrupted_one(
    leaves: PackedImages, tmp_path: Path, model: str
) -> None:
    whole = trainer(leaves, model=model)
    expected = [whole.run_epoch() for _ in range(3)]

    first = trainer(leaves, model=model)
    assert _without_time(first.run_epoch()) == _without_time(expected[0])
    first.save(tmp_path / "state.pt")
    torch.rand(17)  # another process: torch's generator is elsewhere
    second = trainer(leaves, model=model)
    second.load(tmp_path / "state.pt")
    assert second.epoch == 1
    for epoch in (1, 2):
        assert _without_time(second.run_epoch()) == _without_time(expected[epoch])
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def _without_time(readings: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in readings.items() if name != "train_seconds"}


def test_training_lowers_the_loss(leaves: PackedImages) -> None:
    run = trainer(leaves, dataclasses.replace(CONFIG, alpha=0.0, epochs=6, steps_per_epoch=10))
    losses = [run.run_epoch()["loss"] for _ in range(6)]
    assert losses[-1] < 0.9 * losses[0]


def test_a_larger_alpha_decorrelates_more(leaves: PackedImages) -> None:
    final = {}
    for alpha in (1e-9, 1e-3):
        config = dataclasses.replace(CONFIG, alpha=alpha, strategy="y", epochs=4, steps_per_epoch=10)
        run = trainer(leaves, config)
        final[alpha] = [run.run_epoch()["decorrelation"] for _ in range(4)][-1]
    assert final[1e-3] < 0.5 * final[1e-9]


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(
    leaves: PackedImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(leaves)
    sound = run.crops.batch
    monkeypatch.setattr(run.crops, "batch", lambda step: sound(step) * (math.nan if step == 1 else 1))
    before: dict[str, torch.Tensor] = {}
    step = run._train_step

    def watched(tap: LatentTap, number: int, precision: Precision) -> torch.Tensor:
        if number == 1:
            before.update({k: v.clone() for k, v in run.model.state_dict().items()})
        result = step(tap, number, precision)
        if number == 1:
            for name, value in run.model.state_dict().items():
                assert torch.equal(value, before[name]), name
        return result

    monkeypatch.setattr(run, "_train_step", watched)
    readings = run.run_epoch()
    assert before
    assert readings["skipped_steps"] == 1
    assert all(math.isfinite(value) for value in readings.values())


@pytest.mark.parametrize(("steps", "lost"), [(10, 4), (2, 2)])
def test_too_many_such_steps_end_the_training(
    steps: int, lost: int, leaves: PackedImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(leaves, dataclasses.replace(CONFIG, steps_per_epoch=steps))
    monkeypatch.setattr(run.crops, "batch", lambda _: torch.full((2, 3, 64, 64), math.nan))
    with pytest.raises(DivergedError, match=f"{lost} steps of epoch 1 had a loss or gradient"):
        run.run_epoch()


def test_quantiles_follow_the_auxiliary_loss_alone(leaves: PackedImages) -> None:
    """Neither the rate's gradient nor the clip reaches them: with the auxiliary learning rate at
    (almost) nothing they stay, and their gradient is not part of the clipped norm."""
    run = trainer(leaves, dataclasses.replace(CONFIG, aux_lr=1e-30))
    start = [q.detach().clone() for q in run.quantiles]
    assert start
    run.run_epoch()
    for before, after in zip(start, run.quantiles, strict=True):
        torch.testing.assert_close(before, after.detach(), rtol=0, atol=1e-20)
    assert not {id(q) for q in run.quantiles} & {id(w) for w in run.weights}
    moved = trainer(leaves)
    moved.run_epoch()
    assert (start[0] - moved.quantiles[0]).abs().max() > 1e-3


def test_a_fork_may_differ_in_the_fields_that_are_named(leaves: PackedImages, tmp_path: Path) -> None:
    baseline = trainer(leaves, dataclasses.replace(CONFIG, alpha=0.0, strategy="y"))
    baseline.run_epoch()
    baseline.save(tmp_path / "state.pt")
    forked = trainer(leaves)
    forked.load(tmp_path / "state.pt", other=("alpha", "strategy"))
    assert (forked.epoch, forked.criterion.alpha, forked.config) == (1, CONFIG.alpha, CONFIG)
    # Adam's moments came with the weights: by hand, the baseline's trainer with another criterion.
    baseline.criterion = forked.criterion
    assert _without_time(forked.run_epoch()) == _without_time(baseline.run_epoch())
    for name, value in baseline.model.state_dict().items():
        assert torch.equal(value, forked.model.state_dict()[name]), name
    with pytest.raises(CheckpointError, match=r"trained with alpha 0\.0, not 1e-07"):
        forked.load(tmp_path / "state.pt")
    another = trainer(leaves, dataclasses.replace(CONFIG, seed=1))
    with pytest.raises(CheckpointError, match="trained with seed 0, not 1"):
        another.load(tmp_path / "state.pt", other=("alpha", "strategy"))


def test_foreign_checkpoints_are_refused(leaves: PackedImages, tmp_path: Path) -> None:
    run = trainer(leaves)
    run.save(tmp_path / "state.pt")
    other = trainer(leaves, dataclasses.replace(CONFIG, alpha=2e-7))
    with pytest.raises(CheckpointError, match="trained with alpha 1e-07, not 2e-07"):
        other.load(tmp_path / "state.pt")
    content = (tmp_path / "state.pt").read_bytes()
    for number, torn in enumerate((b"", b"junk", content[:1000], content[:-100])):
        path = tmp_path / f"torn{number}.pt"
        path.write_bytes(torn)
        with pytest.raises(CheckpointError, match=path.name):
            run.load(path)


def test_a_checkpoint_is_what_was_written_or_refused(leaves: PackedImages, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    trainer(leaves).save(path)
    assert torch.load(path, weights_only=True)["step"] == 0  # by torch alone, too
    content = path.read_bytes()
    for place in range(0, len(content), len(content) // 97):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(CorruptCheckpointError, match=r"state\.pt is damaged, truncated"):
            read_checkpoint(path)
    path.write_bytes(content)
    assert read_checkpoint(path)["step"] == 0
