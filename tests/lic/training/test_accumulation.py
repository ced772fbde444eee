"""A step in parts: the gradients of the whole batch, but for L, which each part has of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lic.data.cache import PackedImages
from lic.data.crops import RandomCrops
from lic.losses.criterion import TERMS, Criterion
from lic.losses.regularizers import latent_penalty
from lic.models.build import LatentTap, build
from lic.models.compressai_parts import EntropyModel
from lic.recipe import Optimizer, TrainingConfig
from lic.training.trainer import CheckpointError, Trainer

CONFIG = TrainingConfig(lmbda=0.01, batch=4, patch=64, epochs=2, steps_per_epoch=2, lr=1e-3, clip=1e9)


def trainer(leaves: PackedImages, **changes: Any) -> Trainer:
    config = dataclasses.replace(CONFIG, **changes)
    crops = RandomCrops(leaves, config.patch, config.batch, config.seed)
    return Trainer(build("hyperprior", 8, seed=config.seed), config, crops)


def measured(run: Trainer, images: Tensor) -> tuple[dict[str, float], list[Tensor]]:
    """The row of a step and its gradients, before the update."""
    torch.manual_seed(7)
    with LatentTap(run.model.train()) as tap:
        row = run._measure(tap, images, "fp32").tolist()
    gradients = [weight.grad.clone() for weight in run.weights if weight.grad is not None]
    return dict(zip(("grad_norm", *TERMS), row, strict=True)), gradients


@pytest.fixture
def noiseless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without quantization noise, which is drawn in another order for parts."""
    monkeypatch.setattr(EntropyModel, "quantize", lambda _self, inputs, _mode, _means=None: inputs)


@pytest.mark.usefixtures("noiseless")
@pytest.mark.parametrize("parts", [2, 4])
def test_without_the_term_the_gradients_are_those_of_the_whole_batch(
    leaves: PackedImages, parts: int
) -> None:
    whole = trainer(leaves, batch=8)
    images = whole.crops.batch(0)
    expected, of_whole = measured(whole, images)
    found, of_parts = measured(trainer(leaves, batch=8, accumulate=parts), images)
    assert found == pytest.approx(expected, rel=1e-4) and expected["rate_z"] > 0
    assert len(of_parts) == len(of_whole) > 20
    for one, other in zip(of_parts, of_whole, strict=True):
        assert float((one - other).norm()) < 1e-4 * float(other.norm()) + 1e-7


@pytest.mark.parametrize("alpha", [0.0, 1e-6])
def test_one_part_is_the_plain_step_to_the_bit(leaves: PackedImages, alpha: float) -> None:
    run = trainer(leaves, alpha=alpha, strategy="y+z")
    images = run.crops.batch(0)
    found, gradients = measured(run, images)
    model = trainer(leaves).model.train()
    torch.manual_seed(7)
    with LatentTap(model) as tap:
        terms = Criterion.of(run.config, run.device)(model(images), tap.take(), images)
    terms["loss"].backward()
    plain = [p.grad for name, p in model.named_parameters() if not name.endswith("quantiles")]
    assert {name: float(terms[name].detach()) for name in TERMS} == {name: found[name] for name in TERMS}
    for one, other in zip(gradients, plain, strict=True):
        assert other is not None and torch.equal(one, other)


def test_the_term_is_the_mean_of_that_of_the_parts(leaves: PackedImages) -> None:
    run = trainer(leaves, accumulate=2, alpha=1e-6, strategy="y")
    images, found = run.crops.batch(0), {}
    with torch.no_grad(), LatentTap(run.model) as tap:
        for name, part in (("first", images[:2]), ("second", images[2:]), ("whole", images)):
            run.model(part)
            found[name] = float(latent_penalty(tap.take(), "y", 64 * 64, "reference"))
    row, _ = measured(run, images)
    assert row["decorrelation"] == pytest.approx((found["first"] + found["second"]) / 2, rel=1e-5)
    assert row["decorrelation"] != pytest.approx(found["whole"], rel=1e-3)
    expected = row["rate_y"] + row["rate_z"] + 0.01 * (row["mse"] + 1e-6 * row["decorrelation"])
    assert row["loss"] == pytest.approx(expected, rel=1e-5)


def test_only_a_part_is_in_memory_and_the_whole_gradient_is_clipped(leaves: PackedImages) -> None:
    run = trainer(leaves, accumulate=2, clip=0.5)
    sizes: list[int] = []
    run.model.register_forward_hook(lambda _model, given, _output: sizes.append(len(given[0])))
    row, gradients = measured(run, run.crops.batch(0))
    assert sizes == [2, 2]
    norm = float(nn.utils.get_total_norm(gradients))
    assert row["grad_norm"] > 0.5 and norm == pytest.approx(0.5, rel=1e-3)


def test_a_part_that_is_not_finite_skips_the_whole_step(
    leaves: PackedImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(leaves, accumulate=2, ema=0.9)
    batch = run.crops.batch

    def spoiled(step: int) -> Tensor:
        images = batch(step)
        images[3] = torch.nan if step == 0 else images[3]
        return images

    monkeypatch.setattr(run.crops, "batch", spoiled)
    before = [weight.detach().clone() for weight in run.weights]
    with LatentTap(run.model.train()) as tap:
        row = run._train_step(tap, 0, "fp32")
        assert not row.isfinite().all()
        assert all(torch.equal(one, other) for one, other in zip(run.weights, before, strict=True))
        run._train_step(tap, 1, "fp32")
    assert not any(torch.equal(one, other) for one, other in zip(run.weights, before, strict=True))
    assert run.average is not None and int(run.average.n_averaged) == 1


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "soap", "muon"])
def test_every_optimizer_trains_and_resumes_to_the_bit(
    leaves: PackedImages, tmp_path: Path, optimizer: Optimizer
) -> None:
    options: dict[str, Any] = {
        "optimizer": optimizer,
        "ema": 0.9,
        "alpha": 1e-7,
        "strategy": "y+z",
        "clip": 1.0,
    }
    whole, first, second = (trainer(leaves, accumulate=2, **options) for _ in range(3))
    for _ in range(2):
        assert whole.run_epoch()["skipped_steps"] == 0
    first.run_epoch()
    first.save(tmp_path / "state.pt")
    second.load(tmp_path / "state.pt")
    second.run_epoch()
    for name, value in second.final_model.state_dict().items():
        assert torch.equal(value, whole.final_model.state_dict()[name])
    with pytest.raises(CheckpointError, match="trained with accumulate 2, not 1"):
        trainer(leaves, **options).load(tmp_path / "state.pt")
