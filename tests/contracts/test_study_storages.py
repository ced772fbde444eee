"""What every storage of a search's records has to do: a SQLite file, a PostgreSQL server, and the memory of a
process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState

from search.decide.core import Core, open_studies
from search.decide.readings import images_of, readings_of
from search.store.storage import open_storage, open_to_read, sqlite_address
from tests.search.decide.test_core import PLAN, figures, records, run_all
from tests.support.database import Database

KINDS = ("SQLite", "PostgreSQL", "memory")

#: Opens the storage as another process would; that of a process's memory is always the same.
Opening = Callable[[], BaseStorage]


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opening:
    if request.param == "memory":
        memory = InMemoryStorage()
        return lambda: memory
    if request.param == "SQLite":
        return lambda: open_storage(sqlite_address(tmp_path / "study.db"))
    database: Database = request.getfixturevalue("database")
    monkeypatch.setenv("PGPASSWORD", database.password)
    return lambda: open_storage(database.url("lictune"))


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Of a study, its own in a database that tests share."""
    return request.node.name


@pytest.mark.parametrize("sampler", ["surrogate", "gp"])
def test_a_search_decides_the_same_on_each_and_leaves_all_in_it(
    opened: Opening, name: str, sampler: str
) -> None:
    """What the core keeps at hand is what the storage holds."""
    plan = dataclasses.replace(PLAN, sampler=sampler, budget=14)
    core, alone = Core(opened(), name, plan), Core(InMemoryStorage(), name, plan)
    for one in (core, alone):
        left = one.suggest()
        assert left is not None
        one.observe(left.name, 1, figures(left, 1), {"val/bpp": [0.1, 0.2], "val/mse": [1.0, 2.0]})
    assert run_all(core) == run_all(alone)
    for known, held in zip((core.trials, core.baselines), open_studies(opened(), name), strict=True):
        assert known.user_attrs == held.user_attrs
        trials = known.get_trials(), held.get_trials()
        assert len(trials[0]) == len(trials[1]) > 0
        for ours, theirs in zip(*trials, strict=True):
            if ours.datetime_complete and theirs.datetime_complete:
                assert abs((ours.datetime_complete - theirs.datetime_complete).total_seconds()) < 10
                ours.datetime_complete = theirs.datetime_complete
            ours._trial_id = theirs._trial_id
            assert ours == theirs


def test_numbers_and_words_come_back_as_they_were(opened: Opening, name: str) -> None:
    core = Core(opened(), name, dataclasses.replace(PLAN, qualities=(1,), budget=1, sampler="random"))
    baseline, trial = core.suggest(), core.suggest()
    assert baseline is not None and trial is not None
    exact = {"val/bpp": 0.1 + 0.2, "val/mse": 5e-324, "val/psnr": 1.7976931348623157e308, "x": 1e-17}
    columns = {"val/bpp": [1 / 3] * 500, "val/mse": [2 / 3] * 500}
    core.observe(baseline.name, 1, exact, columns)
    reason = "Speicher voll: 'x'; \"y\" \\ % {0} \N{SNOWMAN} " * 100
    core.fail(trial.name, reason)
    trials, baselines = open_studies(opened(), name)
    assert readings_of(baselines.trials[0]) == {1: exact}
    assert images_of(baselines.trials[0]) == {1: columns}
    (held,) = trials.trials
    assert (held.state, held.user_attrs["reason"]) == (TrialState.FAIL, reason)
    assert held.params["alpha"] == trial.alpha
    assert records(Core(opened(), name, core.plan)).trials[0].alpha == trial.alpha


def test_searches_of_one_storage_do_not_mix(opened: Opening, name: str) -> None:
    plans = [dataclasses.replace(PLAN, budget=5, sampler="random", seed=seed) for seed in (0, 1)]
    cores = [Core(opened(), f"{name}-{plan.seed}", plan) for plan in plans]
    found: list[list[object]] = [[], []]
    for _ in range(3 + 5):  # in turns
        for core, so_far in zip(cores, found, strict=True):
            candidate = core.suggest()
            assert candidate is not None
            core.observe(candidate.name, 1, figures(candidate, 1))
            so_far.append(candidate)
    for plan, so_far in zip(plans, found, strict=True):
        alone = Core(InMemoryStorage(), "s", plan)
        assert so_far == [alone.suggest() for _ in so_far]
        assert len(open_studies(opened(), f"{name}-{plan.seed}")[0].trials) == 5


def test_what_is_not_there_is_not_made(opened: Opening, name: str) -> None:
    with pytest.raises(KeyError):
        open_studies(opened(), name)
    assert not [s for s in optuna.get_all_study_summaries(opened()) if s.study_name.startswith(name)]


@pytest.mark.parametrize("kind", ["SQLite", "PostgreSQL"])
def test_reading_changes_nothing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A storage that is opened to be read refuses to be written to, and shows what was."""
    if kind == "SQLite":
        address = sqlite_address(tmp_path / "study.db")
    else:
        database: Database = request.getfixturevalue("database")
        monkeypatch.setenv("PGPASSWORD", database.password)
        address = database.url("lictune")
    core = Core(open_storage(address), name, dataclasses.replace(PLAN, budget=4, sampler="random"))
    run_all(core)
    reading = open_to_read(address)
    trials, _ = open_studies(reading, name)
    assert [trial.params for trial in trials.trials] == [trial.params for trial in core.trials.trials]
    with pytest.raises(optuna.exceptions.StorageInternalError) as caught:
        trials.set_user_attr("touched", True)
    assert any(word in str(caught.value.__cause__) for word in ("read-only", "readonly"))
    assert "touched" not in open_studies(open_storage(address), name)[0].user_attrs
