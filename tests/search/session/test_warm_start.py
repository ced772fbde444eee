"""What one search takes from another is copied once, and the other is not needed again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import InMemoryStorage
from rich.console import Console

from search.decide.core import Core
from search.records.folder import SearchFolder
from search.session import driver
from search.session.session import Experiment, Session
from search.settings.complaints import ConfigError
from search.settings.config import Settings, resolve, resolve_again
from search.settings.plan import plan_of
from search.store.find import FolderError
from search.store.provenance import ENVIRONMENT
from tests.support.made_up import FINGERPRINT, go_on, made_up_search

#: A budget that leaves the earlier search some trials to go on with.
BUDGET = "8"


def numbers(core: Core) -> list[int]:
    """The numbers that the copied trials had in their own search."""
    return [trial.user_attrs["source_number"] for trial in core.earlier()]


def opened(folder: Path, test_set: str = "leaves", **settings: Any) -> Core:
    """The core of a search in this folder as its driver opens it, at its start and whenever it goes on."""
    folder.mkdir(exist_ok=True)
    (folder / ENVIRONMENT).write_text('{"test_set": "leaves"}')
    given = Settings(
        rates=(1, 3), strategies=("y", "z", "y+z"), epochs=2, budget=4, results=str(folder.parent),
        reuse_baselines=False, **settings,
    )  # fmt: skip
    experiment = Experiment(plan_of(given), None, FINGERPRINT, test_set)  # type: ignore[arg-type]
    session = Session(SearchFolder(folder, given), experiment, None, None, Console(quiet=True))  # type: ignore[arg-type]
    return session.prepare()


def test_a_search_that_goes_on_needs_nothing_of_the_earlier_one(tmp_path: Path) -> None:
    earlier = made_up_search(tmp_path / "first")
    assert numbers(opened(tmp_path / "second", warm_start="first")) == [0, 1, 2, 3]
    shutil.rmtree(earlier)
    assert numbers(opened(tmp_path / "second", warm_start="first")) == [0, 1, 2, 3]
    with pytest.raises(FolderError, match="there is no search 'first'"):
        opened(tmp_path / "third", warm_start="first")


def test_trials_of_a_search_that_still_runs_are_copied_once(tmp_path: Path) -> None:
    """Trial 2 ends after trial 3, when the copying, which was killed, is done again: by count, 3 would come
    twice and 2 never."""
    first = made_up_search(tmp_path / "first", count=4, budget=BUDGET)  # the baselines, trials 0 and 1
    source = Core(SearchFolder.read(first).storage(), "first", plan_of(SearchFolder.read(first).settings))
    slow = source.suggest()
    assert slow is not None and slow.name == "trial-002"
    go_on(source, 1)  # trial 3

    storage, plan = InMemoryStorage(), plan_of(SearchFolder.read(first).settings)
    core = Core(storage, "second", plan)
    ended = SearchFolder.read(first).trials()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("optuna.Study.set_user_attr", _killed)
        with pytest.raises(InterruptedError):
            core.learn_from(ended, "first")
    core = Core(storage, "second", plan)
    assert (numbers(core), core.has_learnt) == ([0, 1, 3], False)

    for epoch in (1, 2):
        source.observe(
            slow.name, epoch, {"val/bpp": 0.1, "val/mse": 40.0, "val/psnr": 30.0, "leaves/bpp": 0.1}
        )
    core.learn_from(SearchFolder.read(first).trials(), "first")
    assert (numbers(core), core.has_learnt) == ([0, 1, 3, 2], True)

    go_on(source, 2)  # what ends later is not for this search: it went on without
    core.learn_from(SearchFolder.read(first).trials(), "first")
    assert numbers(Core(storage, "second", plan)) == [0, 1, 3, 2]


def _killed(*_: object) -> None:
    raise InterruptedError


def test_what_a_former_version_copied_without_numbers_has_to_do(tmp_path: Path) -> None:
    """The earlier search has gone on since, or is gone."""
    first = made_up_search(tmp_path / "first")
    trials = SearchFolder.read(first).trials()
    core = opened(tmp_path / "second")
    for trial in trials[:3]:
        core._study_of_earlier().add_trial(trial)
    shutil.rmtree(first)
    again = opened(tmp_path / "second", warm_start="first")
    assert [trial.params for trial in again.earlier()] == [trial.params for trial in trials[:3]]


def test_a_search_over_other_lambdas_is_no_start(tmp_path: Path) -> None:
    made_up_search(tmp_path / "first", lambdas="0.001,0.002,0.01")
    given = {"results": str(tmp_path), "warm_start": "first", "preset": "tiny", "model": "hyperprior"}
    same = resolve({**given, "lambdas": "0.001,0.002,0.01"}, {}, lambda _: 0)
    assert driver._with_earlier(same, print) == same
    for other in ({}, {"lambdas": "0.001,0.002"}):
        with pytest.raises(ConfigError, match=r"first have other lambdas \(0.001,0.002,0.01\), so its rate"):
            driver._with_earlier(resolve({**given, **other}, {}, lambda _: 0), print)


def test_a_search_with_another_distortion_is_no_start(tmp_path: Path) -> None:
    made_up_search(tmp_path / "first")
    given = {"results": str(tmp_path), "warm_start": "first", "preset": "tiny", "model": "hyperprior"}
    with pytest.raises(ConfigError, match="have the distortion mse, not ms-ssim, so their rate changes are"):
        driver._with_earlier(resolve({**given, "distortion": "ms-ssim"}, {}, lambda _: 0), print)


class ReachedError(Exception):
    """How far a command got."""


def test_the_last_search_is_noted_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the new one is there, it is itself the last."""
    made_up_search(tmp_path / "first")
    noted = []

    def record(resolved: Any, *_: Any) -> None:
        noted.append(resolved.settings.warm_start)
        raise ReachedError

    monkeypatch.setattr(driver, "_record_start", record)
    monkeypatch.setattr("lic.training.trial.open_images", lambda _: _images())
    given = {"results": str(tmp_path), "name": "second", "warm_start": "last", "preset": "tiny"}
    given |= {"model": "hyperprior", "start": "scratch", "trials_per_gpu": "0", "data": "deadleaves"}
    for warm_start, expected in (("last", "first"), ("first", "first"), (str(tmp_path / "first"),) * 2):
        resolved = resolve({**given, "warm_start": warm_start}, {}, lambda _: 0)
        with pytest.raises(ReachedError):
            driver.search(resolved, tmp_path / "second")
        shutil.rmtree(tmp_path / "second")
        assert noted.pop() == expected
    with pytest.raises(FolderError, match="there is no search 'nothing'"):
        driver.search(resolve({**given, "warm_start": "nothing"}, {}, lambda _: 0), tmp_path / "second")
    (tmp_path / "first" / "study.db").write_bytes(b"junk")
    with pytest.raises(FolderError, match="is not a SQLite database"):
        driver.search(resolve({**given, "warm_start": "first"}, {}, lambda _: 0), tmp_path / "second")
    assert not (tmp_path / "second").exists()


def _images() -> Any:
    from lic.data.sets import ImageSet

    class Packed:
        images = ()
        fingerprint = ""

        def __len__(self) -> int:
            return 0

    return tuple(ImageSet(name, Packed(), name) for name in ("train", "val", "leaves"))  # type: ignore[arg-type]


def test_the_flag_may_be_given_again(tmp_path: Path) -> None:
    folder = made_up_search(tmp_path / "second", warm_start="first")
    assert resolve_again({"warm_start": "first"}, folder, lambda _: 0).settings.warm_start == "first"


GIVEN = {"model": "hyperprior", "width": "8", "start": "scratch", "epochs": "2"}


def compared(tmp_path: Path, **settings: str) -> list[str]:
    """What is said when a search with these settings takes trials of the search `first`."""
    said: list[str] = []
    wanted = {**GIVEN, "warm_start": "first", "results": str(tmp_path), **settings}
    driver._with_earlier(resolve(wanted, {}, lambda _: 0), said.append)
    return said


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"regularizer": "pooled"}, "first have the regularizer covariance, not pooled, so their alphas"),
        (
            {"objective": "rd-cost"},
            "first have the objective bd-rate-psnr, not rd-cost, so their rate",
        ),
        ({"scale": "paper"}, "first have the scale reference, not paper, so their alphas"),
        ({"model": "cheng"}, "first are of the model hyperprior, not cheng"),
    ],
)
def test_what_cannot_be_compared_is_refused(settings: dict[str, str], told: str, tmp_path: Path) -> None:
    made_up_search(tmp_path / "first")
    assert compared(tmp_path) == []
    assert compared(tmp_path, model="bmshj2018-hyperprior") == []  # the same by its other name
    with pytest.raises(ConfigError, match=told):
        compared(tmp_path, **settings)


def test_another_training_is_told(tmp_path: Path) -> None:
    made_up_search(tmp_path / "first", batch="8")
    (sentence,) = compared(tmp_path, batch="16", epochs="3")
    assert "trained with batch 8 instead of 16, epochs 2 instead of 3: what they gained may not" in sentence


def test_the_scale_of_the_paper_compares_alphas_of_one_geometry_alone(tmp_path: Path) -> None:
    made_up_search(tmp_path / "first", batch="8", scale="paper")
    assert compared(tmp_path, batch="8", scale="paper") == []
    with pytest.raises(ConfigError, match="first have the batch 8, not 16, so their alphas"):
        compared(tmp_path, batch="16", scale="paper")
