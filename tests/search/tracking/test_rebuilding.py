"""MLflow compared with the records of a made-up search, and what keeps it from being completed."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.records.folder import OpenedSearch, open_search
from search.records.search_records import MEASURED_AT, RUNNING
from search.store.find import FolderError
from search.store.lock import only_driver
from search.tracking import rebuilding
from search.tracking.rebuilding import LACKING, rebuild, run
from search.tracking.tracker import STATUS, TrackingError
from tests.support.made_up import made_up_search


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> OpenedSearch:
    root = tmp_path_factory.mktemp("results")
    return open_search(str(made_up_search(root / "mine")), root, with_model=False)


class Held:
    """The runs that MLflow holds: at first all, as recorded."""

    def __init__(self, search: OpenedSearch) -> None:
        self.runs = {record.name: held(record) for record in search.records.everything()}
        self.asked: list[tuple[str, str]] = []

    def __call__(self, uri: str, name: str) -> dict[str, Any]:
        self.asked.append((uri, name))
        return self.runs


def held(record: Any) -> SimpleNamespace:
    metrics = dict(record.readings[record.last_epoch]) if record.readings else {}
    status = STATUS[record.state]
    return SimpleNamespace(info=SimpleNamespace(status=status), data=SimpleNamespace(metrics=metrics))


@pytest.fixture
def mlflow(search: OpenedSearch, monkeypatch: pytest.MonkeyPatch) -> Held:
    made = Held(search)
    monkeypatch.setattr(rebuilding, "held_runs", made)
    monkeypatch.setattr(rebuilding, "open_search", lambda *_: search)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return made


def command(rebuild: bool = False, tracking_uri: str | None = None) -> int:
    return run(argparse.Namespace(search="mine", results=Path(), rebuild=rebuild, tracking_uri=tracking_uri))


@pytest.mark.usefixtures("mlflow")
def test_where_nothing_is_missing_nothing_is_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert command() == 0
    assert capsys.readouterr().out == "MLflow has 6 of 6 training runs of mine\n"


def test_missing_and_different_runs_are_named_with_the_command_that_completes_them(
    mlflow: Held, capsys: pytest.CaptureFixture[str]
) -> None:
    del mlflow.runs["trial-002"], mlflow.runs["baseline-q1"]
    mlflow.runs["trial-000"].info.status = "RUNNING"
    mlflow.runs["trial-001"].data.metrics["val/bpp"] += 1e-9
    assert command() == LACKING
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [
        "MLflow has 4 of 6 training runs of mine",
        "missing: baseline-q1, trial-002",
        "different from the records: trial-000, trial-001",
    ]
    assert said[3].startswith("to complete it: ") and said[3].endswith("--rebuild")


def test_a_metric_that_mlflow_lacks_is_a_difference_and_the_moment_of_measurement_is_none(
    mlflow: Held, capsys: pytest.CaptureFixture[str]
) -> None:
    mlflow.runs["trial-000"].data.metrics[MEASURED_AT] = -1.0
    assert command() == 0
    del mlflow.runs["trial-003"].data.metrics["leaves/psnr"]
    assert command() == LACKING
    assert "different from the records: trial-003\n" in capsys.readouterr().out


def test_a_training_that_measured_nothing_is_compared_by_its_state(
    search: OpenedSearch, mlflow: Held, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = replace(search.records.trials[0], name="trial-004", state=RUNNING, readings={}, images={})
    records = replace(search.records, trials=[*search.records.trials, begun])
    monkeypatch.setattr(rebuilding, "open_search", lambda *_: replace(search, records=records))
    mlflow.runs["trial-004"] = held(begun)
    assert mlflow.runs["trial-004"].info.status == "KILLED" and command() == 0
    mlflow.runs["trial-004"].info.status = "FINISHED"
    assert command() == LACKING
    assert "different from the records: trial-004" in capsys.readouterr().out


@pytest.mark.usefixtures("mlflow")
def test_the_confirmation_is_compared_as_well(
    search: OpenedSearch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = replace(
        search.records, baselines={}, trials=[replace(search.records.trials[0], name="trial-000-s1")]
    )
    monkeypatch.setattr(rebuilding, "open_search", lambda *_: replace(search, confirmed=[seed]))
    assert command() == LACKING
    assert "has 6 of 7 training runs of mine\nmissing: trial-000-s1\n" in capsys.readouterr().out


def test_the_address_is_that_given_or_that_of_the_search(search: OpenedSearch, mlflow: Held) -> None:
    command()
    command(tracking_uri="http://mlflow:5000")
    own, given = mlflow.asked
    assert own == (f"sqlite:///{search.folder.parent}/mlflow.db", "mine")
    assert given == ("http://mlflow:5000", "mine")


class Tracker:
    """A tracker that keeps what it is told, or fails."""

    def __init__(self, *_: Any) -> None:
        self.told: list[Any] = []

    def write(self, groups: list[Any], strategies: tuple[str, ...], live: bool) -> None:
        self.told.append((groups, strategies, live))

    def conclude(self, figures: dict[str, float], _: Any) -> None:
        self.told.append(figures)

    def artifacts(self) -> None:
        pass

    def close(self, status: str) -> None:
        self.told.append(status)


@pytest.mark.parametrize(("complete", "status"), [(True, "FINISHED"), (False, "KILLED")])
def test_everything_is_written_with_the_status_that_the_search_has(
    complete: bool, status: str, search: OpenedSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker()
    monkeypatch.setattr(rebuilding, "Tracker", lambda *_: tracker)
    monkeypatch.setattr(rebuilding, "strategy_results", lambda *_: [])
    if not complete:
        search = replace(search, plan=replace(search.plan, budget=5))
    rebuild(search, "sqlite:///x.db")
    assert tracker.told == [([search.records], search.plan.strategies, False), {}, status]


def test_a_running_search_is_left_to_its_own_process(search: OpenedSearch) -> None:
    with only_driver(search.folder), pytest.raises(FolderError, match="is running and writes to MLflow"):
        rebuild(search, "sqlite:///x.db")


def test_what_mlflow_does_not_take_is_said_in_one_line(
    search: OpenedSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise OSError("No space left\non device")

    monkeypatch.setattr(Tracker, "write", failing)
    monkeypatch.setattr(rebuilding, "Tracker", Tracker)
    monkeypatch.setattr(rebuilding, "strategy_results", lambda *_: [])
    with pytest.raises(
        TrackingError, match=r"^MLflow is only partly complete \(No space left\); run this again$"
    ):
        rebuild(search, "sqlite:///x.db")
