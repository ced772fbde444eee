"""Several ranks, on the CPU, train what one device trains, and end when one of them or their parent does."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch import Tensor

from lic.data.cache import PackedImages
from lic.data.crops import RandomCrops
from lic.models.acceleration import free_latents_and_entropy_models
from lic.models.build import build
from lic.ranks import ALONE, Ranks
from lic.recipe import TrainingConfig
from lic.training import parallel
from lic.training.parallel import RankError
from lic.training.trainer import CheckpointError, CorruptCheckpointError, DivergedError
from lic.training.trial import ImagesConfig, Trial, TrialConfig

TRAINING = TrainingConfig(lmbda=0.0067, batch=4, patch=64, epochs=4, steps_per_epoch=2, lr=1e-4, clip=1e9)


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    """The ranks are those of all tests of this file; they end with it."""
    yield
    if parallel._others is not None:
        parallel._others.close()
    assert not ranks_of(psutil.Process())


def ranks_of(process: psutil.Process) -> list[psutil.Process]:
    """The ranks that this process has started."""
    return [child for child in process.children() if "lic.training.rank" in child.cmdline()]


Make = Callable[..., Trial]


@pytest.fixture
def make(photographs: Path) -> Make:
    """Makes a trial on so many devices; a change is one of the trial or of its training. Images differ in
    brightness, and so the distortions of the ranks."""
    for number, file in enumerate(sorted(photographs.rglob("*.png")), 1):
        Image.open(file).point(lambda value, number=number: value // number).save(file)

    def made(devices: int, model: str = "hyperprior", **changes: Any) -> Trial:
        own = {key: changes.pop(key) for key in list(changes) if key in TrialConfig.__dataclass_fields__}
        training = dataclasses.replace(TRAINING, **changes)
        images = ImagesConfig(
            str(photographs), None, str(photographs), 1, 1, 64, str(photographs.parent / "cache")
        )
        config = TrialConfig(model, 8, None, None, training, images, (), (), devices=devices)
        return Trial(dataclasses.replace(config, **own))

    return made


def gradients(trial: Trial) -> list[Tensor]:
    return [weight.grad.clone() for weight in trial.trainer.weights if weight.grad is not None]


def weights(trial: Trial) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trial.trainer.final_model.state_dict().items()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"alpha": 1e-5, "strategy": "y+z"},
        {"alpha": 1e-5, "strategy": "y+z", "accumulate": 2, "batch": 8, "ema": 0.9},
        {"alpha": 1e-2, "regularizer": "correlation", "clip": 0.5, "model": "cheng", "steps_per_epoch": 1},
    ],
    ids=["without-L", "covariance", "accumulated", "cheng"],
)
def test_two_ranks_train_as_one_device(make: Make, changes: dict[str, Any]) -> None:
    """The same crops and noise, and L of the whole batch."""
    found: dict[int, tuple[list[dict[str, float]], list[Tensor], dict[str, Tensor]]] = {}
    for devices in (1, 2):
        trial = make(devices, **changes)
        first, early = trial.run_epoch().figures, gradients(trial)
        found[devices] = ([first, trial.run_epoch().figures], early, weights(trial))
    (lone, alone_gradients, alone), (both, gradients_of_both, together) = found[1], found[2]
    for epoch, expected in enumerate(lone):
        for name in (name for name in expected if name.startswith("train/")):
            assert both[epoch][name] == pytest.approx(expected[name], rel=1e-4), name
    assert len(alone_gradients) > 20
    total = max(float(gradient.norm()) for gradient in alone_gradients)
    for one, other in zip(alone_gradients, gradients_of_both, strict=True):
        assert float((one - other).norm()) < 1e-4 * float(one.norm()) + 1e-6 * total
    moved = 2 * TRAINING.lr * trial.config.training.steps_per_epoch
    for name, value in alone.items():
        assert torch.allclose(value, together[name], rtol=1e-5, atol=0.01 * moved), name


def test_each_rank_draws_its_part_of_the_noise_of_the_batch() -> None:
    """And crops its rows: its share of each part of the batch."""
    images, output = torch.rand(6, 3, 64, 64), {}
    for ranks in (ALONE, Ranks(0, 3), Ranks(1, 3), Ranks(2, 3)):
        model = build("mbt2018-mean", 8).train()
        free_latents_and_entropy_models(model, ranks)
        torch.manual_seed(0)
        part = images.chunk(ranks.count)[ranks.rank]
        output[ranks] = model(part)["likelihoods"]
    whole = output.pop(ALONE)
    for latent, expected in whole.items():
        found = torch.cat([parts[latent] for parts in output.values()])
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6), latent
    assert Ranks(1, 2).rows(8, parts=2).tolist() == [2, 3, 6, 7]


def test_a_rank_crops_its_rows(leaves: PackedImages) -> None:
    whole = RandomCrops(leaves, 64, 8, seed=3).batch(5)
    for resident in (False, True):
        rows = Ranks(1, 2).rows(8, parts=1)
        part = RandomCrops(leaves, 64, 8, seed=3, resident=resident, rows=rows).batch(5)
        assert np.array_equal(part, whole[4:])


def test_a_resumed_training_equals_an_uninterrupted_one(make: Make, tmp_path: Path) -> None:
    """To the bit; with a rate at which `plateau`, of which only rank 0 sees the losses, lowers the rate."""
    options: dict[str, Any] = {
        "schedule": "plateau", "lr": 1e-12, "decay_to": 0.01, "alpha": 1e-5, "strategy": "y+z", "ema": 0.9,
        "optimizer": "soap",
    }  # fmt: skip
    whole = make(2, **options)
    expected = [whole.run_epoch().figures["train/lr"] for _ in range(4)]
    assert expected[3] == pytest.approx(1e-13)
    first = make(2, **options)
    for _ in range(3):
        first.run_epoch()
    first.save(tmp_path / "state.pt")
    with pytest.raises(RankError, match="have begun another training run"):
        whole.run_epoch()
    second = make(2, **options)
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes((tmp_path / "state.pt").read_bytes()[:-1])
    with pytest.raises(CorruptCheckpointError):
        second.load(damaged)
    second.load(tmp_path / "state.pt")
    assert second.run_epoch().figures["train/lr"] == expected[3]
    for name, value in weights(second).items():
        assert torch.equal(value, weights(whole)[name]), name
    with pytest.raises(CheckpointError, match="trained with lr"):
        make(2, **options | {"lr": 1e-4}).load(tmp_path / "state.pt")
    forked = make(2, **options | {"alpha": 0.0})
    forked.fork(tmp_path / "state.pt")
    assert forked.run_epoch().epoch == 4


def test_a_diverged_training_ends_on_all_ranks_and_they_train_the_next(make: Make) -> None:
    trial = make(2, lr=1e30)
    before = ranks_of(psutil.Process())
    with pytest.raises(DivergedError, match="lower --lr"):
        for _ in range(4):
            trial.run_epoch()
    again = make(2)
    assert again.run_epoch().figures["train/skipped_steps"] == 0
    assert len(before) == 1 and ranks_of(psutil.Process()) == before


def test_a_rank_that_is_killed_ends_the_trial_and_the_next_has_new_ones(make: Make) -> None:
    trial = make(2, steps_per_epoch=10_000)
    (rank,) = ranks_of(psutil.Process())
    threading.Timer(1.0, rank.kill).start()
    with pytest.raises(RankError, match=r"^rank 1 of 2 ended with exit status -9$"):
        trial.run_epoch()
    assert not rank.is_running() and not ranks_of(psutil.Process())
    assert make(2).run_epoch().epoch == 1


def test_the_error_of_a_rank_is_that_of_the_trial(make: Make, tmp_path: Path) -> None:
    """Also where rank 0 waits for that rank in an exchange."""
    trial = make(3, batch=6)
    assert trial._others is not None and len(ranks_of(psutil.Process())) == 2
    missing = tmp_path / "missing.pt"
    with (
        pytest.raises(RankError, match=r"^rank [12] of 3 failed: CorruptCheckpointError: .*missing.pt"),
        trial._others.together("load", missing, ()),
    ):
        trial.trainer.run_epoch()
    assert not ranks_of(psutil.Process())


def test_ranks_end_with_a_killed_parent(make: Make) -> None:
    """In the middle of an epoch."""
    config = dataclasses.replace(make(1, steps_per_epoch=10_000).config, devices=2)
    code = f"""
from lic.recipe import Acceleration, TrainingConfig
from lic.training.trial import ImagesConfig, Trial, TrialConfig
trial = Trial({config!r})
print("begun", flush=True)
trial.run_epoch()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"begun\n"
        (rank,) = ranks_of(psutil.Process(parent.pid))
        parent.kill()
    rank.wait(30)
