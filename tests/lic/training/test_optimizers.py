"""The optimisers: each is the library's, resumes to the bit, and lies still where a graph reads it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from lic.data.cache import PackedImages
from lic.data.crops import RandomCrops
from lic.models.build import build
from lic.recipe import LEARNING_RATES, Acceleration, Optimizer, TrainingConfig
from lic.training import eigenbases
from lic.training import trainer as training
from lic.training.optimizers import Preconditioned, state_bytes
from lic.training.trainer import CheckpointError, Trainer
from tests.lic.models.test_acceleration import Replayed

#: Long enough for SOAP to refresh its bases after the first epoch.
CONFIG = TrainingConfig(
    lmbda=0.0067, alpha=1e-7, strategy="y+z", batch=2, patch=64, epochs=3, steps_per_epoch=6
)

NAMES: tuple[Optimizer, ...] = get_args(Optimizer)


def trainer(
    leaves: PackedImages,
    optimizer: Optimizer,
    model: str = "hyperprior",
    speed: Acceleration | None = None,
    **changes: Any,
) -> Trainer:
    config = dataclasses.replace(
        CONFIG, optimizer=optimizer, **{"lr": LEARNING_RATES[optimizer][0], **changes}
    )
    crops = RandomCrops(leaves, config.patch, config.batch, config.seed)
    return Trainer(build(model, 8, seed=config.seed), config, crops, speed=speed or Acceleration())


def tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for part in state.values() if isinstance(state, dict) else state:
            yield from tensors(part)


@pytest.mark.parametrize("optimizer", NAMES)
@pytest.mark.parametrize("model", ["hyperprior", "cheng"])
def test_a_resumed_training_equals_an_uninterrupted_one(
    leaves: PackedImages, tmp_path: Path, model: str, optimizer: Optimizer
) -> None:
    whole = trainer(leaves, optimizer, model)
    for _ in range(3):
        whole.run_epoch()
    for epochs in (1, 2):  # before a refresh and after it
        first, second = (trainer(leaves, optimizer, model) for _ in range(2))
        for _ in range(epochs):
            first.run_epoch()
        first.save(tmp_path / "state.pt")
        second.load(tmp_path / "state.pt")
        while second.epoch < 3:
            second.run_epoch()
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, second.model.state_dict()[name]), (epochs, name)


@pytest.mark.parametrize("optimizer", NAMES)
def test_it_lowers_the_loss(leaves: PackedImages, optimizer: Optimizer) -> None:
    run = trainer(leaves, optimizer, alpha=0.0, epochs=4, steps_per_epoch=12)
    losses = [run.run_epoch()["loss"] for _ in range(4)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("optimizer", NAMES)
def test_a_step_that_is_not_finite_changes_nothing(
    leaves: PackedImages, monkeypatch: pytest.MonkeyPatch, optimizer: Optimizer
) -> None:
    run = trainer(leaves, optimizer)
    sound, seen = run.crops.batch, []

    def batch(step: int) -> Tensor:
        seen.append([part.clone() for part in tensors([run.model.state_dict(), run.optimiser.state_dict()])])
        return sound(step) * (math.nan if step == 3 else 1)

    monkeypatch.setattr(run.crops, "batch", batch)
    assert run.run_epoch()["skipped_steps"] == 1
    assert len(seen[3]) == len(seen[4])
    assert all(map(torch.equal, seen[3], seen[4]))
    assert not all(map(torch.equal, seen[4], seen[5]))


@pytest.mark.parametrize("optimizer", ["soap", "muon"])
def test_all_that_a_graph_reads_lies_where_it_lay(
    leaves: PackedImages, monkeypatch: pytest.MonkeyPatch, optimizer: Optimizer
) -> None:
    monkeypatch.setattr(training, "StepGraph", Replayed)
    plain, run = (trainer(leaves, optimizer, speed=Acceleration(graph=graph)) for graph in (False, True))
    assert isinstance(run.optimiser, Preconditioned)

    def places() -> list[int]:
        assert isinstance(run.optimiser, Preconditioned)
        stands = [[stand.tensor, stand.tensor.grad] for stand in run.optimiser._stands]
        return [
            part.data_ptr() for part in tensors([run.optimiser._states(), stands, run.optimiser._factors])
        ]

    run.run_epoch()
    before = places()
    for _ in range(2):
        run.run_epoch()
    assert places() == before
    for _ in range(3):
        plain.run_epoch()
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def gradients(weights: list[Tensor], steps: int) -> Iterator[None]:
    """Set gradients of one spectrum, step by step."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for weight in weights:
            scale = torch.logspace(0, -2, weight.shape[0]).reshape(-1, *[1] * (weight.ndim - 1))
            weight.grad = torch.randn(weight.shape, generator=draw) * scale
        yield


@pytest.mark.parametrize("steps", [10, 45])
def test_soap_is_the_librarys(steps: int) -> None:
    """Also with our refresh of the bases, as long as rounding lets two of them be compared."""
    from pytorch_optimizer.optimizer.soap import SOAP

    shapes = [(12, 6, 3, 3), (6, 6), (12,), (12, 3, 1)]
    draw = torch.Generator().manual_seed(1)
    ours = [torch.randn(shape, generator=draw) for shape in shapes]
    # The places of a kernel are one side.
    theirs = [weight.clone().flatten(2) if weight.ndim == 4 else weight.clone() for weight in ours]
    mine = Preconditioned("soap", ours)
    library = SOAP(
        theirs,
        lr=0.01,
        weight_decay=0.0,
        precondition_frequency=10,
        max_precondition_dim=1024,
        merge_dims=False,
    )
    mine.set_rate(0.01)
    for _ in gradients(ours, steps):
        for own, other in zip(ours, theirs, strict=True):
            assert own.grad is not None
            other.grad = own.grad.reshape(other.shape)
        mine.take_gradients()
        mine.step()
        library.step()
    for own, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own.reshape(expected.shape), expected, rtol=0, atol=0.01 * 0.1)


def test_muon_is_torchs() -> None:
    draw = torch.Generator().manual_seed(1)
    kernel, bias = torch.randn(12, 6, 3, 3, generator=draw), torch.randn(12, generator=draw)
    matrix, other = kernel.reshape(12, -1).clone(), bias.clone()
    mine = Preconditioned("muon", [kernel, bias])
    mine.set_rate(0.01)
    torchs = torch.optim.Muon([matrix], lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.Adam([other], lr=0.01)
    for _ in gradients([kernel, bias], 15):
        assert kernel.grad is not None
        matrix.grad, other.grad = kernel.grad.reshape(12, -1), bias.grad
        mine.take_gradients()
        mine.step()
        torchs.step()
        adam.step()
    torch.testing.assert_close(kernel.reshape(12, -1), matrix, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bias, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [2, 5, 32, 96])
def test_the_orthogonal_factor_is_that_of_qr(size: int) -> None:
    """Of what the refresh sees: a statistic that has moved on since its basis was one of eigenvectors, with
    eigenvalues over eight orders."""
    draw = torch.Generator().manual_seed(size)
    basis = torch.linalg.qr(torch.randn(3, size, size, generator=draw))[0]
    noise = torch.randn(3, size, 4 * size, generator=draw)
    values = torch.logspace(0, -4, size)
    roots = basis * values @ (torch.eye(size) + 0.1 * (noise @ noise.mT / (4 * size)))
    product = roots @ roots.mT @ basis
    expected = torch.linalg.qr(product.double())[0]
    expected = expected * (expected * product).sum(1, keepdim=True).sign()
    found = eigenbases.orthogonal(product, torch.full_like(product, math.nan))
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-4)


def test_a_basis_of_which_there_is_no_factor_stays() -> None:
    otherwise = torch.eye(4).expand(2, 4, 4)
    broken = torch.stack([torch.ones(4, 4), torch.full((4, 4), math.nan)])
    assert torch.equal(eigenbases.orthogonal(broken, otherwise), otherwise)
    assert torch.equal(eigenbases.orthogonal(torch.zeros(2, 4, 4), otherwise), otherwise)


@pytest.mark.parametrize("optimizer", NAMES)
def test_the_size_of_its_state_is_known_before(leaves: PackedImages, optimizer: Optimizer) -> None:
    run = trainer(leaves, optimizer)
    run.run_epoch()
    kept = [part for part in tensors(run.optimiser.state_dict()) if part.ndim]
    assert 4 * sum(part.numel() for part in kept) == state_bytes(optimizer, run.weights)


def test_the_state_of_another_optimiser_or_model_is_refused(leaves: PackedImages, tmp_path: Path) -> None:
    """By name where the configuration tells, and if the configuration was forged, too."""
    run, saved = trainer(leaves, "soap"), tmp_path / "state.pt"
    run.run_epoch()
    run.save(saved)
    with pytest.raises(CheckpointError, match="was trained with optimizer soap, not muon"):
        trainer(leaves, "muon").load(saved)
    state = run.optimiser.state_dict()
    for other in (trainer(leaves, "muon"), trainer(leaves, "adam")):
        with pytest.raises((ValueError, KeyError)):
            other.optimiser.load_state_dict(state)
    wider = Preconditioned(
        "soap", [torch.zeros(2 * len(weight), *weight.shape[1:]) for weight in run.weights]
    )
    with pytest.raises(ValueError, match="another model"):
        wider.load_state_dict(state)
    state["state"][0]["Q"][0] = torch.eye(3)
    with pytest.raises(ValueError, match="another model"):
        trainer(leaves, "soap").optimiser.load_state_dict(state)
    with pytest.raises(ValueError, match="number of steps"):
        trainer(leaves, "soap").optimiser.load_state_dict({**state, "steps": -1})


def test_a_checkpoint_of_before_there_was_a_choice_is_adams(leaves: PackedImages, tmp_path: Path) -> None:
    run = trainer(leaves, "adam")
    run.run_epoch()
    run.save(tmp_path / "new.pt")
    state = training.read_checkpoint(tmp_path / "new.pt")
    del state["config"]["optimizer"]
    (tmp_path / "old.pt").write_bytes(training._sealed(state))
    resumed = trainer(leaves, "adam")
    resumed.load(tmp_path / "old.pt")
    assert resumed.epoch == 1
    with pytest.raises(CheckpointError, match="optimizer adam, not soap"):
        trainer(leaves, "soap", lr=run.config.lr).load(tmp_path / "old.pt")
