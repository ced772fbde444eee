"""How far a search is, from records made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from search.base.space import BASELINE, TRIAL, Plan, SearchPoint
from search.records.progress import Progress, progress_of
from search.records.search_records import (
    FAILED,
    FINISHED,
    MEASURED_AT,
    RUNNING,
    STOPPED,
    SearchRecords,
    TrialRecord,
)

PLAN = Plan((1, 3), ("y",), 1e-8, 1e-5, 10, (), 3, 4, 0, "random", "val")

#: When monitoring began, in seconds since 1970.
SINCE = 1000.0


def training(name: str, state: str, epochs: int, begin: float = SINCE, fork: int = 0) -> TrialRecord:
    """A training that measured an epoch every 10 s."""
    role, quality = (BASELINE, int(name[-1])) if name.startswith(BASELINE) else (TRIAL, 1)
    point = SearchPoint(quality) if role == BASELINE else SearchPoint(quality, "y", 1e-7)
    readings = {fork + e: {MEASURED_AT: begin + 10.0 * e} for e in range(1, epochs + 1)}
    return TrialRecord(name, role, point, 0, state, "", readings, {}, fork=fork)


def records(baselines: list[TrialRecord], trials: list[TrialRecord]) -> SearchRecords:
    return SearchRecords("s", PLAN.qualities, 10, "val", "kodak", {b.quality: b for b in baselines}, trials)


def both(state: str = FINISHED, epochs: int = 10, begin: float = SINCE) -> list[TrialRecord]:
    return [training(f"baseline-q{q}", state, epochs, begin) for q in PLAN.qualities]


def progress(
    groups: list[SearchRecords], plan: Plan = PLAN, confirming: int = 0, now: float = 1100.0
) -> Progress:
    return progress_of(groups, plan, confirming, 1, SINCE, now)


def test_before_anything_is_measured_there_is_no_pace() -> None:
    found = progress([records([], [])])
    assert (found.pace, found.left, found.over, found.elapsed) == (None, None, 0, 100.0)
    assert (found.planned, found.rungs, found.trainings) == (4 + 2, (10,), [])
    assert progress([records(both(RUNNING, 1)[:1], [])]).pace is None  # as many reports as workers


def test_the_pace_leaves_the_first_report_of_every_worker_out() -> None:
    """10 epochs, the first of which ended at 1010, up to 1110."""
    found = progress([records(both()[:1], [])], now=1110.0)
    assert found.pace == pytest.approx(9 / 100)


def test_what_was_measured_before_this_session_or_in_another_search_gives_no_pace() -> None:
    earlier = both(begin=SINCE - 200)
    reused = [replace(record, source="another") for record in both()]
    assert progress([records(earlier, [])]).pace is None
    assert progress([records(reused, [])]).pace is None


def test_full_trainings_take_all_their_epochs() -> None:
    """A baseline of 10 epochs has ended; the other and 4 trials are left."""
    found = progress([records(both()[:1], [])], now=1110.0)
    assert found.pace is not None and found.left == pytest.approx((10 + 4 * 10) / found.pace)


def test_what_runs_counts_by_the_epochs_it_has_trained() -> None:
    found = progress([records([*both()[:1], *both(RUNNING, 4)[1:]], [training("trial-000", RUNNING, 3)])])
    assert found.pace is not None and found.left == pytest.approx((6 + 7 + 3 * 10) / found.pace)


def test_a_fork_is_not_trained_by_the_trials() -> None:
    plan = replace(PLAN, fork=4)
    found = progress([records(both(), [training("trial-000", RUNNING, 2, fork=4)])], plan)
    assert found.pace is not None and found.left == pytest.approx((4 * 6 - 2) / found.pace)


def test_with_early_stopping_the_typical_trial_follows_those_that_ended() -> None:
    plan = replace(PLAN, rungs=(1, 3))
    found = progress([records(both(), [])], plan)
    assert found.pace is not None and found.left == pytest.approx(4 * 4.5 / found.pace)
    ended = [training(f"trial-00{number}", STOPPED, 1) for number in range(2)]
    found = progress([records(both(), ended)], plan)
    assert found.pace is not None and found.left == pytest.approx(2 * (2 + 8 * 4.5) / 10 / found.pace)


def test_a_failed_baseline_has_nothing_left_to_train() -> None:
    found = progress([records([*both()[:1], *both(FAILED, 2)[1:]], [])])
    assert found.pace is not None and found.left == pytest.approx(40 / found.pace)


def test_the_confirmation_is_trained_in_full() -> None:
    trials = [training(f"trial-00{number}", FINISHED, 10) for number in range(4)]
    seed = records(both(), [training("trial-000-s1", RUNNING, 3)])
    found = progress([records(both(), trials), seed], confirming=4)
    assert (found.planned, found.over) == (4 + 2 + 4, 6 + 2)
    assert found.pace is not None and found.left == pytest.approx((4 * 10 - 2 * 10 - 3) / found.pace)


def test_never_less_than_nothing_is_left() -> None:
    trials = [training(f"trial-00{number}", FINISHED, 10) for number in range(9)]
    assert progress([records(both(), trials)]).left == 0.0


def test_every_training_is_of_one_group() -> None:
    search, seed = (
        records(both(), [training("trial-000", RUNNING, 1)]),
        records([], [training("trial-000-s1", RUNNING, 1)]),
    )
    found = progress([search, seed])
    assert found.search is search and found.trainings == [*search.everything(), *seed.everything()]
    assert [found.group(record) for record in found.trainings] == [search] * 3 + [seed]
