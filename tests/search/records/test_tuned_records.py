"""A search with tuned settings in its records, tables, confirmation and MLflow, on made-up trainings."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lic.evaluation.bdrate import Interval
from lic.recipe import learning_rate
from search.base.dimensions import Tuned
from search.base.space import TRIAL, Candidate, SearchPoint
from search.decide.core import Core
from search.engine.tune import training_config_of
from search.records.confirm import FixedSchedule, points_to_confirm
from search.records.confirmed import Confirmed
from search.records.confirmed import table_of as confirmed_table
from search.records.folder import OpenedSearch, SearchFolder, open_search
from search.records.results import best_per_rate, rate_table, strategy_results, trial_table
from search.session import summary
from search.session.terminal import line
from search.settings.config import resolve
from search.settings.plan import plan_of, template_of
from search.store.find import STUDY, FolderError
from search.store.storage import sqlite_address
from search.tracking.rebuilding import run
from search.zoo.exporting import describe
from tests.support.made_up import FINGERPRINT, go_on, made_up_search

TUNE = "lr=1e-4..1e-3 ema=0,0.9,0.99"


@pytest.fixture(scope="module", params=["", "alpha=0"])
def search(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OpenedSearch:
    """With alpha and strategies, and without."""
    root = tmp_path_factory.mktemp("results")
    return open_search(str(made_up_search(root / "mine", tune=TUNE, fix=request.param)), root)


def test_records_have_the_values_and_tables_have_columns_of_them(search: OpenedSearch) -> None:
    records = search.records
    assert all([name for name, _ in trial.tuned] == ["ema", "lr"] for trial in records.trials)
    assert all(not baseline.tuned for baseline in records.baselines.values())
    defaults = {"ema": search.settings.ema, "lr": search.settings.lr}
    trials = trial_table(records).set_index("trial")
    for record in records.everything():
        expected = dict(record.tuned) or defaults
        assert trials.loc[record.name, ["ema", "lr"]].to_dict() == expected
    best = best_per_rate(records)
    assert {record.role for record in best.values()} == {TRIAL}  # all trials save 4 %
    rates = rate_table(records)
    assert list(rates["lr"]) == [dict(record.tuned)["lr"] for record in best.values()]
    shown = summary.rates(records)
    assert shown.head[4:6] == ("ema", "lr")
    assert all(row[3] in ("y", "z", "y+z", "tuned") and row[-3] != "-" for row in shown.rows)
    ((overall),) = [
        r for r in strategy_results(records, search.plan.strategies) if r.strategy == "best of all"
    ]
    assert overall.tuned == 2


def test_trials_are_described_by_all_that_was_chosen(search: OpenedSearch) -> None:
    record = search.records.trials[0]
    lr = f"lr {dict(record.tuned)['lr']:.3g}"
    for text in (line(search.records, record), describe(record), record.point.description):
        assert lr in text and "ema" in text and "baseline" not in text
        assert ("alpha" in text) == bool(search.plan.strategies)


def test_confirmations_repeat_the_values(search: OpenedSearch, tmp_path: Path) -> None:
    records, plan = search.records, search.plan
    candidates = points_to_confirm(records, plan, 1, 1)
    address = f"sqlite:///{tmp_path}/study.db"
    schedule = FixedSchedule(address, "mine", plan, candidates)
    while schedule.suggest() is not None:
        pass
    assert FixedSchedule(address, "mine", plan, candidates).unfinished() == candidates
    trial = next(c for c in candidates if c.role != "baseline")
    assert trial.tuned == best_per_rate(records)[trial.quality].tuned
    result = Confirmed(trial.point, "trial-000", 1, Interval(-1.0, -2.0, 0.0), 1)
    table = confirmed_table([result])
    assert table.loc[0, "lr"] == dict(trial.tuned)["lr"]
    assert summary.confirmation([result], "leaves").head[4:6] == ("ema", "lr")


def test_a_search_goes_on_with_what_it_proposed(tmp_path: Path) -> None:
    for sampler in ("random", "surrogate"):
        whole = made_up_search(tmp_path / f"{sampler}-whole", tune=TUNE, budget="6", sampler=sampler)
        part = made_up_search(tmp_path / f"{sampler}-part", count=4, tune=TUNE, budget="6", sampler=sampler)
        settings = SearchFolder.read(part).settings
        go_on(Core(sqlite_address(part / STUDY), part.name, plan_of(settings), FINGERPRINT), 99)
        points = [
            [SearchPoint.of_params(t.user_attrs["quality"], t.params) for t in SearchFolder.read(f).trials()]
            for f in (whole, part)
        ]
        assert points[0] == points[1] and len(points[0]) == 6


def test_mlflow_has_them_as_params(search: OpenedSearch, tmp_path: Path) -> None:
    import argparse

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    wanted = argparse.Namespace(search=str(search.folder), results=tmp_path, rebuild=True, tracking_uri=uri)
    assert run(wanted) == 0
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    runs = {r.data.tags.get("lictune.trial"): r for r in client.search_runs([experiment.experiment_id])}
    for record in search.records.everything():
        expected = dict(record.tuned) or dict(search.plan.defaults)
        params = runs[record.name].data.params
        assert {name: params[name] for name in expected} == {n: f"{v:.3g}" for n, v in expected.items()}
        assert ("lr" in runs[record.name].info.run_name) == bool(record.tuned)


def test_a_forged_value_is_refused(tmp_path: Path) -> None:
    folder = made_up_search(tmp_path / "mine", tune=TUNE)
    with sqlite3.connect(folder / STUDY) as database:
        database.execute("update trial_params set param_name = 'batch' where param_name = 'lr'")
    with pytest.raises(FolderError, match="invalid tuned"):
        SearchFolder.read(folder).trials()


def configured(tuned: Tuned, **given: str) -> dict[str, object]:
    template = template_of(resolve({"preset": "tiny", **given}, {}, lambda _: 0).settings)
    point = SearchPoint(3, "y", 1e-7, tuned)
    found = training_config_of(Candidate("trial-000", TRIAL, point, 0), template)
    assert found.rest_epoch is None
    return {name: getattr(found.training, name) for name in ("lr", "clip", "optimizer", "ema", "alpha")}


def test_the_training_takes_the_values() -> None:
    usual = configured(())
    tuned: Tuned = (("clip", 2.5), ("ema", 0.9), ("lr", 2e-4), ("optimizer", "muon"))
    assert configured(tuned) == {**usual, **dict(tuned)}


def test_without_lr_a_tuned_optimizer_has_its_own() -> None:
    for start, lr in (("scratch", "1e-3"), ("scratch", "2e-3")):
        found = configured((("optimizer", "soap"),), start=start, lr=lr, optimizer="adam")
        usual = learning_rate("soap", start) / learning_rate("adam", start)
        assert found["lr"] == pytest.approx(float(lr) * usual)
    assert configured((("optimizer", "adam"),), lr="2e-3", optimizer="adam")["lr"] == 2e-3


def test_a_trial_without_the_term_is_not_checked_for_convergence_and_has_alpha_0() -> None:
    template = template_of(resolve({"preset": "tiny"}, {}, lambda _: 0).settings)
    tuned, baseline = (
        training_config_of(Candidate("x", TRIAL, SearchPoint(3, tuned=values), 0), template)
        for values in ((("clip", 2.0),), ())
    )
    assert tuned.training.alpha == 0 and tuned.rest_epoch is None and baseline.rest_epoch is not None
