"""What a confirmation found, from the columns of its trainings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from optuna.storages import InMemoryStorage

from lic.evaluation.bdrate import CurveError, Interval
from search.base.space import BD_RATE_PSNR, CONFIRMATION, RD_COST, Candidate, SearchPoint, repeated_name
from search.decide.core import make_studies
from search.records.confirm import Confirmation, baselines_on, points_to_confirm
from search.records.confirmed import (
    BETTER,
    UNDECIDED,
    WORSE,
    Confirmed,
    Repetitions,
    baselines_needed,
    bd_rates,
    by_point,
    confirmed,
    confirmed_bd_rate,
    repeated_trial,
    repetitions_of,
    table_of,
)
from search.records.curves import interval_over_seeds
from search.records.search_records import PSNR, RecordReader, SearchRecords
from tests.search.records import test_racing as racing
from tests.support.confirming import PLAN, SAVING, columns, searched_records, train


@pytest.fixture(scope="module")
def searched() -> SearchRecords:
    return searched_records()


def test_the_mean_over_seeds_with_its_interval(searched: SearchRecords) -> None:
    points = points_to_confirm(searched, PLAN, best=1, seeds=3)
    confirmation = Confirmation(InMemoryStorage(), "s", PLAN, points, "kodak")
    assert train(confirmation) == points
    found = confirmed(confirmation.repetitions(), "kodak")
    luck = np.mean([np.random.default_rng(seed).normal(1, 0.01) for seed in (5, 6, 7)])
    assert [item.quality for item in found] == [1, 2, 3, 4, 5, 6]
    for item in found:
        assert item.seeds == 3
        assert item.rate_change.value == pytest.approx(100 * (SAVING * luck - 1))
        assert item.rate_change.low < item.rate_change.value < item.rate_change.high
    for figure in bd_rates(confirmation.repetitions(), searched).values():
        assert not isinstance(figure, str)
        assert figure.value == pytest.approx(100 * (SAVING * luck - 1), abs=0.02)
        assert figure.low < figure.value < figure.high


def test_one_seed_speaks_of_the_images_alone(searched: SearchRecords) -> None:
    points = points_to_confirm(searched, PLAN, best=1, seeds=1)
    confirmation = Confirmation(InMemoryStorage(), "s", PLAN, points, "kodak")
    train(confirmation)
    interval = confirmed(confirmation.repetitions(), "kodak")[0].rate_change
    luck = np.random.default_rng(5).normal(1, 0.01)
    assert (interval.low, interval.high) == pytest.approx((100 * (SAVING * luck - 1),) * 2)


def test_what_is_not_complete_is_not_claimed(searched: SearchRecords) -> None:
    """A failed training leaves its seed out, of its point and of the curve."""
    points = points_to_confirm(searched, PLAN, best=1, seeds=1)
    confirmation = Confirmation(InMemoryStorage(), "s", PLAN, points, "kodak")
    first = confirmation.suggest()
    assert first is not None
    assert first.quality == 1
    confirmation.fail(first.name, "out of memory")
    train(confirmation)
    assert [item.quality for item in confirmed(confirmation.repetitions(), "kodak")] == [2, 3, 4, 5, 6]
    with pytest.raises(CurveError, match="no seed has all points"):
        confirmed_bd_rate(confirmation.repetitions(), searched, PSNR)


def test_a_metric_without_a_curve_hides_no_other_and_no_error(
    searched: SearchRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = points_to_confirm(searched, PLAN, best=1, seeds=1)
    confirmation = Confirmation(InMemoryStorage(), "s", PLAN, points, "kodak")
    train(confirmation)
    found = bd_rates(confirmation.repetitions(), replace(searched, without_ms_ssim="small.png is 150 x 150"))
    assert found["BD-rate (MS-SSIM)"] == "small.png is 150 x 150"
    assert isinstance(found["BD-rate"], Interval) and -10 < found["BD-rate"].value < 0

    def broken(*_: object, **__: object) -> None:
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr("search.records.curves.bd_rate_interval", broken)
    with pytest.raises(ValueError, match="broadcast"):
        bd_rates(confirmation.repetitions(), searched)


def test_the_records_say_the_same() -> None:
    storage = InMemoryStorage()
    studies = make_studies(storage, "s")
    confirmation = racing.opened(storage)
    racing.train(lambda: confirmation)
    groups = RecordReader(studies, racing.PLAN, "kodak").read_confirmation()
    assert confirmed(repetitions_of(groups, racing.PLAN, 5), "kodak") == confirmed(
        confirmation.repetitions(), "kodak"
    )
    assert [item.seeds for item in confirmed(repetitions_of(groups, racing.PLAN, 2), "kodak")] == [2, 2, 2]


def test_a_single_seed_decides_only_where_no_other_may_come() -> None:
    interval = interval_over_seeds([-1.0], 0.01, 24)
    assert Confirmed(SearchPoint(1, "y", 1e-7), "trial-000", 1, interval, 1).outcome == BETTER
    assert Confirmed(SearchPoint(1, "y", 1e-7), "trial-000", 1, interval, 3).outcome == UNDECIDED


def repetition(quality: int, seed: int) -> Candidate:
    name = repeated_name(f"trial-00{quality}", seed)
    return Candidate(name, CONFIRMATION, SearchPoint(quality, "y", 1e-7), seed)


def repetitions(*complete: str, limit: int = 2) -> Repetitions:
    """Of two points on two seeds each, of which these trainings are complete."""
    runs = [
        run
        for seed in (5, 6)
        for run in (
            *baselines_on(replace(PLAN, qualities=(1, 2)), seed),
            repetition(1, seed),
            repetition(2, seed),
        )
    ]
    return Repetitions(
        replace(PLAN, objective=RD_COST),
        runs,
        {r.name: columns(r) for r in runs if r.name in complete},
        limit,
    )


def test_a_repeated_training_is_named_after_the_trial_and_its_seed() -> None:
    assert repeated_name("trial-007", 12) == "trial-007-s12"
    assert repeated_trial(repetition(3, 12)) == "trial-003"
    odd = Candidate("trial-s1-s1", CONFIRMATION, SearchPoint(1, "y", 1e-7), 1)
    assert repeated_trial(odd) == "trial-s1"


def test_a_curve_needs_the_baselines_of_all_qualities_and_the_cost_its_own() -> None:
    run = repetition(2, 5)
    assert baselines_needed(replace(PLAN, objective=RD_COST), run) == ["baseline-q2-s5"]
    everything = baselines_needed(replace(PLAN, objective=BD_RATE_PSNR), run)
    assert everything == [f"baseline-q{quality}-s5" for quality in PLAN.qualities]


def test_the_trainings_of_a_point_are_told_apart_from_the_baselines() -> None:
    grouped = by_point(repetitions().candidates)
    assert grouped == {f"trial-00{q}": [repetition(q, 5), repetition(q, 6)] for q in (1, 2)}


def test_a_seed_counts_once_the_training_and_its_baseline_are_complete() -> None:
    here = repetitions("trial-001-s5", "baseline-q1-s5", "trial-001-s6", "baseline-q2-s6", "trial-002-s6")
    runs = by_point(here.candidates)
    assert here.complete(runs["trial-001"]) == [repetition(1, 5)]
    assert here.complete(runs["trial-002"]) == [repetition(2, 6)]
    assert [(item.trial, item.seeds) for item in confirmed(here, "kodak")] == [
        ("trial-001", 1),
        ("trial-002", 1),
    ]
    assert repetitions("trial-001-s5").result("trial-001", runs["trial-001"], "kodak") is None


@pytest.mark.parametrize(("limit", "looks"), [(1, 1), (2, 1), (3, 2), (10, 9)])
def test_a_point_is_looked_at_after_every_seed_from_the_second_on(limit: int, looks: int) -> None:
    assert repetitions(limit=limit).looks == looks


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (-2.0, -0.1, BETTER),
        (0.1, 2.0, WORSE),
        (-1.0, 1.0, UNDECIDED),
        (-1.0, 0.0, UNDECIDED),
        (0.0, 1.0, UNDECIDED),
    ],
)
def test_an_interval_decides_only_if_it_excludes_0(low: float, high: float, outcome: str) -> None:
    found = Confirmed(SearchPoint(1, "y", 1e-7), "trial-000", 2, Interval((low + high) / 2, low, high), 3)
    assert found.outcome == outcome


def test_where_the_baselines_were_selected_the_bd_rate_is_0(searched: SearchRecords) -> None:
    points = points_to_confirm(searched, PLAN, best=1, seeds=2)
    confirmation = Confirmation(InMemoryStorage(), "s", PLAN, points, "kodak")
    train(confirmation)
    without = replace(searched, trials=[])
    assert confirmed_bd_rate(confirmation.repetitions(), without, PSNR).value == pytest.approx(0, abs=1e-9)


def test_the_table_has_a_row_per_point() -> None:
    found = Confirmed(SearchPoint(3, "y+z", 2e-7), "trial-004", 2, Interval(-1.0, -2.0, -0.5), 3)
    assert table_of([found]).to_dict("records") == [
        {
            "quality": 3, "trial": "trial-004", "alpha": 2e-7, "strategy": "y+z", "seeds": 2,
            "rate_change": -1.0, "rate_change_low": -2.0, "rate_change_high": -0.5, "outcome": BETTER,
        }
    ]  # fmt: skip
    assert table_of([]).empty
