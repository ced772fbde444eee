"""The result of a search in the terminal: the figures of its tables."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from lic.evaluation.bdrate import Interval
from search.base.space import SearchPoint
from search.decide.belief import Prediction
from search.records.confirmed import Confirmed, ConfirmedResults
from search.records.folder import OpenedSearch, open_search
from search.records.results import strategy_results
from search.records.search_records import SearchRecords
from search.session.summary import effort, findings, rates, show, strategies, verdict
from tests.support.made_up import made_up_search

NONE = ConfirmedResults()


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> OpenedSearch:
    root = tmp_path_factory.mktemp("made-up")
    made_up_search(root / "mine")
    return open_search("mine", root, with_model=False)


def printed(*tables: object) -> str:
    console = Console(file=io.StringIO(), width=250, no_color=True)
    for table in tables:
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.strip().startswith(start))


def test_each_rate_has_its_best_point_and_what_it_gained(search: OpenedSearch) -> None:
    """Every trial saves 4 % of its baseline's bits, of which there are 0.1 x 1.5^quality / 2 a pixel."""
    text = printed(rates(search.records))
    for quality in (1, 3):
        told = row(text, f"{quality} ")
        assert f"{0.1 * 1.5**quality * 0.96 / 2:.4f}" in told and f"{28 + quality:.2f}" in told
        assert "-4.00" in told and "trial-00" in told


def test_a_rate_that_only_has_its_baseline_shows_that(search: OpenedSearch) -> None:
    alone = replace(search.records, trials=[])
    told = row(printed(rates(alone)), "3 ")
    assert f"{0.1 * 1.5**3 / 2:.4f}" in told and "trial" not in told and "-4.00" not in told


def test_what_is_missing_has_its_reason_and_a_failed_baseline_is_named(search: OpenedSearch) -> None:
    records = search.records
    failed = {**records.baselines, 3: replace(records.baselines[3], state="failed", reason="NaN")}
    console = Console(file=io.StringIO(), width=250, no_color=True)
    broken = replace(records, baselines=failed)
    results = strategy_results(broken, search.plan.strategies)
    show(broken, results, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert re.search(r"quality \[?3\]?\b.*baseline failed", text)
    refused = {result.refused for result in results if result.refused}
    assert refused and all(reason in text for reason in refused)
    assert printed(strategies(broken, results)).splitlines()[0].strip() in text


def times(records: SearchRecords, train: float, evaluate: float) -> SearchRecords:
    """The same, every epoch of which took so many seconds."""
    spent = {"time/train_seconds": train, "time/eval_seconds": evaluate, "memory/peak_mib": 512.0}

    def timed(record: object) -> object:
        readings = {epoch: figures | spent for epoch, figures in record.readings.items()}  # type: ignore[attr-defined]
        return replace(record, readings=readings)  # type: ignore[type-var]

    return replace(
        records,
        trials=[timed(trial) for trial in records.trials],  # type: ignore[misc]
        baselines={quality: timed(record) for quality, record in records.baselines.items()},  # type: ignore[misc]
    )


def test_the_effort_counts_epochs_and_time(search: OpenedSearch) -> None:
    """Six trainings of two epochs, each of 30 s and 6 s, by two workers in five minutes: 432 of 600 s."""
    told = effort(times(search.records, 30.0, 6.0), 300.0, 2, 2048.0, 0.0)
    count = len(search.records.finished())
    assert told.startswith(f"4 trials: {count} ") and "100 % of the epochs" in told
    assert "72 % of 2 x 5.0 min" in told
    assert "6.0 min" in told and "1.2 min" in told
    assert "512 MiB" in told and "2048 MiB" in told


def test_a_folder_is_read_as_it_was_written(search: OpenedSearch, tmp_path: Path) -> None:
    again = made_up_search(tmp_path / "mine")
    found = open_search(str(again), tmp_path, with_model=False)
    assert printed(rates(found.records)) == printed(rates(search.records))


def test_a_gain_is_said_to_be_sure_or_within_noise(search: OpenedSearch) -> None:
    records = search.records
    names = {record.name: Prediction(-4.0, 1.0) for record in records.finished(1)}
    sure = replace(
        records, expected={**names, **{r.name: Prediction(-1.0, 1.0) for r in records.finished(3)}}
    )
    assert findings(sure)[0] == "better than the baseline with 95 % probability: quality 1"
    doubtful = replace(records, expected={r.name: Prediction(-1.0, 1.0) for r in records.finished()})
    assert findings(doubtful)[0].startswith("no trial is better than its baseline beyond noise")
    name = records.finished(3)[0].name
    assert findings(sure)[1] == (
        f"baseline kept, as a gain is doubtful (below 92 %): {name} (quality 3, -1.00 ± 1.00 %)"
    )
    worse = replace(records, expected={r.name: Prediction(0.5, 1.0) for r in records.finished()})
    assert not any("doubtful" in told for told in findings(worse))


def test_the_verdict_says_what_was_found_and_how_sure_that_is(search: OpenedSearch) -> None:
    records = search.records
    first = records.finished(1)[0]
    nothing = {record.name: Prediction(0.5, 1.0) for record in records.finished()}
    said = verdict(replace(records, expected={**nothing, first.name: Prediction(-3.0, 1.5)}), NONE)
    assert said == (
        "result: fewer bits than the baseline at 1 of 2 qualities, by the model, on one training seed: "
        f"quality 1 ({first.point.description}), -3.00 ± 1.50 %, a gain with 97.7 % probability"
    )
    nearest = {**nothing, first.name: Prediction(-0.5, 1.0)}
    assert verdict(replace(records, expected=nearest), NONE) == (
        f"result: nothing beats the baseline; most promising: quality 1 ({first.point.description}), "
        "-0.50 ± 1.00 %, a gain with 69.1 % probability; each of the 4 trials trained in full saves less "
        "than 2.1 % with 95 % probability"
    )
    assert "no trial was trained in full" in verdict(replace(records, expected={}, trials=[]), NONE)


def test_the_verdict_on_confirmed_points_is_that_of_the_fresh_seeds(search: OpenedSearch) -> None:
    better = Confirmed(SearchPoint(1, "y", 1e-7), "trial-001", 3, Interval(-2.0, -3.0, -1.0), 5)
    unclear = replace(better, rate_change=Interval(-1.0, -3.0, 1.0))
    both = ConfirmedResults([better, unclear], {"BD-rate": Interval(-0.3, -1.0, 0.4)})
    assert verdict(search.records, both) == (
        "result: fewer bits on fresh seeds at quality 1 (y, alpha 1.00e-07): -2.00 % [-3.00, -1.00]; BD-rate "
        "over all qualities: -0.30 % [-1.00, +0.40]"
    )
    none = verdict(search.records, ConfirmedResults([unclear], {"BD-rate": "no curve"}))
    assert none == "result: none of the confirmed points is better than its baseline on fresh seeds"


def test_a_bd_rate_of_two_points_is_doubted(search: OpenedSearch) -> None:
    records = search.records
    baselines = {q: replace(records.baselines[1], point=SearchPoint(q)) for q in (1, 3, 5)}
    two = {q: baselines[q] for q in (1, 3)}
    for given, said in ((baselines, False), (two, True), ({1: baselines[1]}, False)):
        told = findings(replace(records, baselines=given))
        assert any("straight line" in sentence for sentence in told) == said


def test_ruinous_trials_are_counted(search: OpenedSearch) -> None:
    records = search.records
    trials = [
        replace(record, readings={e: {**m, "val/bpp": 3 * m["val/bpp"]} for e, m in record.readings.items()})
        if number == 0
        else record
        for number, record in enumerate([*records.trials, *records.trials])
    ]
    many = replace(records, trials=[*records.trials, *records.trials, *trials])
    later = len(many.trials) - 2 * len(many.qualities)
    assert findings(many)[-1] == (
        f"first rate change above +50 %: 1 of {later} trials after the start-up trials ({100 / later:.0f} %)"
    )


def test_the_noise_between_seeds_is_said_per_quality(search: OpenedSearch) -> None:
    """As measured; as the model fitted it only where nothing was found and none was measured."""
    unsure = {record.name: Prediction(-0.1, 1.0) for record in search.records.finished()}
    sure = {record.name: Prediction(-4.0, 0.1) for record in search.records.finished()}
    records = replace(search.records, expected=unsure, fitted_noise={1: 0.31, 3: 1.84})
    assert (
        "no trial is better than its baseline beyond noise (95 % probability); "
        "seed noise: 0.31 % at quality 1, 1.8 % at quality 3 (fitted by the model)"
    ) in findings(records)
    assert not any("seed noise" in told for told in findings(replace(records, expected=sure)))
    measured = replace(records, measured_noise={1: 0.3, 3: 1.8})
    for expected in (unsure, sure):
        told = findings(replace(measured, expected=expected))
        assert (
            "seed noise: 0.3 % at quality 1, 1.8 % at quality 3 (measured by baselines on other seeds)"
            in told
        )
        assert not any("fitted" in sentence for sentence in told)
