"""The engine's parts without Ray's loop, and what Ray does with a trial that runs out of memory."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.storages import InMemoryStorage
from ray import tune
from ray.tune.search import Searcher

from lic.data.cache import DamagedCacheError
from lic.errors import StorageError
from lic.recipe import TrainingConfig
from lic.training.trial import EpochMetrics, ImagesConfig, Trial, TrialConfig
from search.base.limits import Limits
from search.base.space import TRIAL, Candidate, SearchPoint
from search.decide.core import Core
from search.engine import tune as engine
from search.engine.chain import starts_from
from search.engine.tune import FAILURE, NOTES, READINGS, TROUBLE, CoreSearcher, Fork, RayTrial, TuneBridge
from search.store.checkpoints import Checkpoints
from tests.search.decide.test_core import PLAN, figures

TRAINING = TrainingConfig(lmbda=0.0067, alpha=1e-7, strategy="y", batch=2, patch=64, epochs=4,
                          steps_per_epoch=2, lr=1e-3)  # fmt: skip


@pytest.fixture
def config(tmp_path: Path, cache: Path) -> dict[str, Any]:
    """What Ray hands to a worker."""
    images = ImagesConfig(None, None, "deadleaves", 2, 2, 64, str(cache))
    every = tuple(range(1, TRAINING.epochs + 1))
    trial = TrialConfig("hyperprior", 8, None, None, TRAINING, images, every, (TRAINING.epochs,))
    return {"trial": trial, "checkpoints": Checkpoints(str(tmp_path)), "training": "trials/trial-000",
            "fork": Fork(), "chained": "", "gpus": 0, "name": "trial-000"}  # fmt: skip


def plain(readings: list[EpochMetrics]) -> list[tuple[int, dict[str, float]]]:
    """Without what differs from run to run."""
    differs = ("time/", "memory/")
    return [(r.epoch, {k: v for k, v in r.figures.items() if not k.startswith(differs)}) for r in readings]


def test_a_worker_that_is_lost_at_any_moment_costs_no_epoch_that_was_saved(config: dict[str, Any]) -> None:
    alone = Trial(config["trial"])
    expected = [alone.run_epoch() for _ in range(TRAINING.epochs)]
    first = RayTrial(config)
    for _ in range(2):
        first.step()
    # The second epoch was saved, and nobody heard of it: the next worker tells all before it trains.
    second = RayTrial(config)
    assert plain(second.step()[READINGS]) == plain(expected[:2])
    assert plain(second.step()[READINGS]) == plain(expected[2:3])
    newest = config["checkpoints"].newest(config["training"])
    content = bytearray(Path(newest.path).read_bytes())
    content[len(content) // 2] ^= 1
    Path(newest.path).write_bytes(content)
    third = RayTrial(config)
    told = third.step()
    assert plain(told[READINGS]) == plain(expected[:2])
    assert [note.startswith(f"{newest} is damaged") for note in told[NOTES]] == [True]
    for _ in range(2):
        third.step()
    assert plain(third.trial.readings) == plain(expected)
    for file in config["checkpoints"].saved(config["training"]):
        Path(file.path).write_bytes(b"")
    assert plain(RayTrial(config).step()[READINGS]) == plain(expected[:1])  # from the start


def test_a_disk_that_is_full_is_no_failure_of_the_trial(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = RayTrial(config)
    worker.step()

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("lic.atomic_io.write", full)
        said = worker.step()[TROUBLE]
    assert said == "cannot write the checkpoint of trials/trial-000: No space left on device"
    limits, core = Limits(None, None, 0), Core(InMemoryStorage(), "s", PLAN)
    baseline = core.suggest()
    assert baseline is not None
    drive = TuneBridge(core, lambda: None, limits)
    assert not drive.hear(baseline.name, {TROUBLE: said})
    assert (limits.interrupted, limits.trouble) == (True, said)
    assert [candidate.name for candidate in core.unfinished()] == [baseline.name]  # it can go on
    assert drive.next() is not None and [r.epoch for r in RayTrial(config).step()[READINGS]] == [1]


def test_a_fault_of_ours_ends_the_search_and_not_the_trial() -> None:
    limits, core = Limits(None, None, 0), Core(InMemoryStorage(), "s", PLAN)
    drive = TuneBridge(core, lambda: None, limits)
    candidate = drive.next()
    assert candidate is not None
    broken = EpochMetrics(1, {"val/bpp": 1.0}, {})
    core.observe = lambda *_: 1 / 0  # type: ignore
    assert not drive.hear(candidate.name, {READINGS: [broken]})
    assert isinstance(drive.fault, ZeroDivisionError) and limits.interrupted
    assert drive.next() is None or core.unfinished()


def test_a_rung_that_was_passed_is_not_decided_again() -> None:
    storage = InMemoryStorage()
    core = Core(storage, "s", PLAN)
    run = [core.suggest() for _ in range(3)]
    for candidate in run:
        assert candidate is not None
        for epoch in range(1, PLAN.epochs + 1):
            core.observe(candidate.name, epoch, figures(candidate, epoch))
    trial = core.suggest()
    assert trial is not None
    rung = PLAN.rungs[0]
    core._goes_on = lambda *_: True  # type: ignore[method-assign]
    for epoch in range(1, rung + 1):
        core.observe(trial.name, epoch, figures(trial, epoch))
    assert core.decide(trial.name, rung)
    again = Core(storage, "s", PLAN)  # killed, and gone on
    again._goes_on = lambda *_: False  # type: ignore[method-assign]
    assert again.decide(trial.name, rung)


def test_what_follows_from_readings_is_drawn_after_a_kill() -> None:
    """Killed between the last readings of a training and its end."""
    storage = InMemoryStorage()
    core = Core(storage, "s", PLAN)
    baseline = core.suggest()
    assert baseline is not None
    tell, core._tell = core._tell, lambda *_: None  # type: ignore[method-assign]
    for epoch in range(1, PLAN.epochs + 1):
        core.observe(baseline.name, epoch, figures(baseline, epoch))
    assert core.baseline(baseline.quality).state.name == "RUNNING"  # type: ignore[union-attr]
    again = Core(storage, "s", PLAN)
    assert again.baseline(baseline.quality).state.name == "COMPLETE"  # type: ignore[union-attr]
    assert tell is not None


class Hungry(tune.Trainable):
    """Needs more of a GPU than half of it."""

    def setup(self, config: dict[str, Any]) -> None:
        self.share = config["gpus"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self.share < 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return {READINGS: [EpochMetrics(1, {"share": self.share}, {})]}


class Fixed:
    """Two trainings of one epoch."""

    plan = PLAN

    def __init__(self) -> None:
        self.left = [Candidate(f"trial-00{n}", TRIAL, SearchPoint(1, "y", 1e-7), 0) for n in range(2)]
        self.heard: dict[str, float] = {}
        self.failed: dict[str, str] = {}

    def unfinished(self) -> list[Candidate]:
        return []

    def suggest(self) -> Candidate | None:
        return self.left.pop(0) if self.left else None

    def observe(self, name: str, _epoch: int, figures: dict[str, float], _images: Any) -> None:
        self.heard[name] = figures["share"]

    def decide(self, _name: str, _epoch: int) -> bool:
        return False

    def waits(self) -> bool:
        return False

    def fail(self, name: str, reason: str) -> None:
        self.failed[name] = reason

    def close(self) -> None:
        pass


#: A process of its own: Ray reads its environment when it is imported.
HUNGRY = """
import json, sys
from search.engine import cluster
cluster.connect(None, 2, 1)  # a GPU that Ray only counts
from search.engine import tune as engine
from search.engine import tune as engine
from search.store.checkpoints import Checkpoints
from search.base.limits import Limits
from tests.search.engine.test_engine import Fixed, Hungry
told = []
for retries in (1, 0):
    core, place = Fixed(), Checkpoints(sys.argv[1], f"with-{retries}")
    engine.run(core, lambda _: None, lambda: None, Limits(None, None, 0.5),
               engine.Execution(place, lambda: 2, 0.5, retries), trainable=Hungry)
    told.append([core.heard, core.failed])
cluster.disconnect()
print(json.dumps(told))
"""


@pytest.mark.smoke
def test_a_trial_that_runs_out_of_memory_gets_twice_its_share(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HUNGRY, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (heard, failed), (nothing, given_up) = json.loads(done.stdout.splitlines()[-1])
    assert (heard, failed) == ({"trial-000": 1.0, "trial-001": 1.0}, {})
    assert nothing == {} and given_up.keys() == heard.keys()
    for reason in given_up.values():
        assert reason == "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB"


def test_a_worker_without_a_model_left_says_why(config: dict[str, Any]) -> None:
    """On the CPU trying again would do the same, to the last bit."""
    worker = RayTrial(config)
    for parameter in worker.trial.trainer.model.parameters():
        parameter.data.fill_(float("nan"))
    assert "not finite" in worker.step()[FAILURE]


@pytest.mark.parametrize("what", ["weights", "width", "images"])
def test_what_no_further_try_would_mend_is_told_at_once(
    what: str, config: dict[str, Any], tmp_path: Path
) -> None:
    """As a failure of the trial, not as an error, which Ray would try again; the worker stays fit."""
    template = config["trial"]
    (tmp_path / "w.safetensors").write_bytes(b"no weights")
    (tmp_path / "empty").mkdir()
    no_images = dataclasses.replace(template.images, data=str(tmp_path / "empty"))
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "weights": ({"start": str(tmp_path / "w.safetensors")}, "w.safetensors is not a weights file"),
        "width": ({"model": "cheng", "latent_width": 12}, "cheng2020-anchor has one width"),
        "images": ({"images": no_images}, "no image in"),
    }
    wrong, expected = cases[what]
    worker = RayTrial({**config, "trial": dataclasses.replace(template, **wrong)})
    assert expected in worker.step()[FAILURE]
    assert worker.reset_config(config) and READINGS in worker.step()


@pytest.mark.parametrize("error", [DamagedCacheError("x.bin is damaged"), StorageError("no answer")])
def test_what_another_worker_may_find_mended_is_tried_again(
    error: Exception, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_config: TrialConfig) -> Trial:
        raise error

    monkeypatch.setattr(engine, "Trial", broken)
    with pytest.raises(type(error)):
        RayTrial(config)


def test_a_forked_trial_is_what_it_would_be_by_hand(config: dict[str, Any]) -> None:
    """Its baseline trained to the fork, then on with its own point; whatever is lost on the way."""
    template, place = config["trial"], config["checkpoints"]
    plain_point = dataclasses.replace(TRAINING, alpha=0.0)
    baseline = {**config, "trial": dataclasses.replace(template, training=plain_point),
                "training": "trials/baseline-q3", "fork": Fork(2), "chained": ""}  # fmt: skip
    worker = RayTrial(baseline)
    for _ in range(4):
        worker.step()
    kept = [Path(file.path).name for file in place.saved("trials/baseline-q3")]
    assert kept == ["epoch-0004.pt", "epoch-0003.pt", "epoch-0002.pt"]

    by_hand = Trial(baseline["trial"])
    for _ in range(2):
        by_hand.run_epoch()
    path = Path(place.root) / "by_hand.pt"
    by_hand.save(path)
    alone = Trial(template)
    alone.fork(path)
    expected = [alone.run_epoch() for _ in range(2)]
    assert [readings.epoch for readings in expected] == [3, 4] and alone.done

    forked = {**config, "fork": Fork(2, "trials/baseline-q3")}
    first = RayTrial(forked)
    assert plain(first.step()[READINGS]) == plain(expected[:1])
    second = RayTrial(forked)  # the first is lost: it goes on from its own checkpoint
    assert plain(second.step()[READINGS]) == plain(expected[:1])
    assert plain(second.step()[READINGS]) == plain(expected[1:])
    for name, value in alone.trainer.model.state_dict().items():
        assert torch.equal(value, second.trial.trainer.model.state_dict()[name]), name
    for file in place.saved(config["training"]):
        Path(file.path).write_bytes(b"")
    assert plain(RayTrial(forked).step()[READINGS]) == plain(expected[:1])  # from the fork again


def test_a_trial_whose_fork_is_lost_says_so_and_begins_nowhere_else(config: dict[str, Any]) -> None:
    place, name = config["checkpoints"], "trials/baseline-q3"
    plain_point = dataclasses.replace(TRAINING, alpha=0.0)
    baseline = {**config, "trial": dataclasses.replace(config["trial"], training=plain_point),
                "training": name, "fork": Fork(1), "chained": ""}  # fmt: skip
    worker = RayTrial(baseline)
    for _ in range(2):
        worker.step()
    forked, at_fork = {**config, "fork": Fork(1, name)}, Path(place.of_epoch(name, 1).path)
    seeded = dataclasses.replace(config["trial"], training=dataclasses.replace(TRAINING, seed=7))
    said = [RayTrial({**forked, "trial": seeded}).step()[FAILURE]]
    at_fork.write_bytes(at_fork.read_bytes()[:-100])
    again = RayTrial(forked)
    said += [again.step()[FAILURE], again.step()[FAILURE]]
    at_fork.unlink()
    said.append(RayTrial(forked).step()[FAILURE])
    begin, end = "cannot load its baseline's checkpoint: ", "; start a new search"
    assert said == [begin + middle + end for middle in (
        f"the checkpoint {at_fork} was trained with seed 0, not 7",
        *[f"{at_fork} is damaged, truncated, or not a checkpoint of this program (checksum mismatch)"] * 2,
        f"baseline-q3 has no checkpoint of epoch 1 below {place}/trials",
    )]  # fmt: skip
    assert again.trial.readings == [] and place.saved(config["training"]) == []
    assert worker.reset_config({**config, "fork": Fork()})  # it was no fault of the worker
    assert READINGS in worker.step()


def test_a_chained_training_begins_with_the_final_weights_of_the_baseline_above(
    config: dict[str, Any],
) -> None:
    """With a new optimizer and from its first epoch; whatever is lost on the way."""
    place, name = config["checkpoints"], "trials/baseline-q4"
    above = {**config, "trial": dataclasses.replace(config["trial"], training=dataclasses.replace(
        TRAINING, lmbda=0.013, alpha=0.0)), "training": name}  # fmt: skip
    chained = {**config, "chained": name}
    worker = RayTrial(above)
    for _ in range(3):
        worker.step()
    lacking = f"baseline-q4 has no checkpoint of epoch 4 below {place}/trials"
    assert RayTrial(chained).step() == {
        FAILURE: f"cannot start from the baseline of the next higher quality: {lacking}"
    }
    worker.step()
    start = place.of_epoch(name, 4).path
    alone = Trial(dataclasses.replace(config["trial"], start=start))
    for own, handed_down in zip(
        alone.trainer.model.parameters(), worker.trial.trainer.model.parameters(), strict=True
    ):
        assert torch.equal(own, handed_down)
    expected = [alone.run_epoch() for _ in range(2)]
    assert plain(RayTrial(chained).step()[READINGS]) == plain(expected[:1])
    second = RayTrial(chained)  # the first is lost: it goes on from its own checkpoint
    assert plain(second.step()[READINGS]) == plain(expected[:1])
    assert plain(second.step()[READINGS]) == plain(expected[1:])


def test_a_chain_has_the_seed_and_the_folder_of_its_training() -> None:
    plan = dataclasses.replace(PLAN, chain=True)
    for name, role, seed, quality, expected in (
        ("baseline-q3", "baseline", 0, 3, "trials/baseline-q6"),
        ("trial-000", "trial", 0, 1, "trials/baseline-q3"),
        ("trial-001", "trial", 0, 6, ""),
        ("trial-000-s2", "confirmation", 2, 1, "confirmation/baseline-q3-s2"),
    ):
        candidate = Candidate(name, role, SearchPoint(quality, "y", 1e-7), seed)
        assert starts_from(candidate, plan, "trials") == expected
        assert starts_from(candidate, PLAN, "trials") == ""


def test_ray_is_told_to_ask_again_while_a_trial_waits_for_its_baseline() -> None:
    plan = dataclasses.replace(PLAN, fork=3, qualities=(1,), budget=1)
    limits, core = Limits(None, None, 0), Core(InMemoryStorage(), "s", plan)
    searcher = CoreSearcher(TuneBridge(core, lambda: None, limits), lambda _: {}, lambda: 4)
    assert searcher.suggest("a") == {"name": "baseline-q1"}
    assert searcher.suggest("b") is None
    for epoch in (1, 2, 3):
        core.observe("baseline-q1", epoch, figures(Candidate("", "baseline", SearchPoint(1), 0), epoch))
    assert searcher.suggest("b") == {"name": "trial-000"}
    assert searcher.suggest("c") == Searcher.FINISHED
    core.waits = lambda: 1 / 0  # type: ignore
    assert searcher.suggest("d") == Searcher.FINISHED and limits.interrupted
