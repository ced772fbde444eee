"""What is said of a confirmation, before it and while it runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from optuna.storages import InMemoryStorage

from lic.evaluation.bdrate import Interval
from search.base.space import SearchPoint
from search.records.confirmed import Confirmed, ConfirmedResults
from search.session.confirming import Followup, announced, at_most
from search.session.estimate import confirmation_at_most
from search.session.pace import Pace
from search.session.summary import confirmed_findings
from search.settings.config import resolve
from search.settings.plan import plan_of, template_of
from tests.search.records.test_racing import PLAN, finish, opened


def test_the_trainings_are_counted_at_most() -> None:
    assert at_most(PLAN, best=2, seeds=5) == 5 * 3 * (1 + 2)
    text = announced(2, 5, 45)
    assert "at most 45 training runs" in text and "the best 2 points" in text and "excludes 0" in text
    assert "excludes" not in announced(1, 2, 12) and announced(1, 1, 6).endswith("on 1 fresh seed")


def test_the_time_of_a_confirmation_at_most() -> None:
    """12 full trainings of 9 epochs of 50 steps; the reported images at epochs 1, 3 and 9; 5 at a time."""
    settings = resolve({"preset": "tiny", "steps_per_epoch": "50", "cadence": "dense"}, {}, lambda _: 0)
    plan, template = plan_of(settings.settings), template_of(settings.settings)
    found = confirmation_at_most(plan, template, Pace(0.1, 2.0, 6.0), 12, 5, 0.5)
    run = 9 * (50 * 0.1 + 2.0) + 3 * 6.0
    assert found.hours == pytest.approx(3 * run / 3600)
    assert found.gpu_hours == pytest.approx(0.5 * 12 * run / 3600)


def test_each_decision_is_said_once_and_the_plan_shrinks() -> None:
    confirmation = opened(InMemoryStorage())
    said: list[str] = []
    monitor: Any = SimpleNamespace(confirming=0, changed=lambda: None)
    followup = Followup(confirmation, monitor, said.append)
    assert monitor.confirming == 30
    while (candidate := confirmation.suggest()) is not None:
        followup.changed()
        finish(confirmation, candidate)
        followup.changed()
    assert monitor.confirming == 20
    assert len(said) == 2  # of three points, one has all its seeds
    assert "quality 1, trial-001: better than the baseline, -5.00 %" in said[0]
    assert said[0].endswith("on 2 of at most 5 seeds") and "worse" in said[1]


def test_the_result_in_words() -> None:
    def point(quality: int, low: float, high: float) -> Confirmed:
        interval = Interval((low + high) / 2, low, high)
        return Confirmed(SearchPoint(quality, "y", 1e-7), f"trial-00{quality}", 3, interval, 5)

    found = [point(1, -3, -1), point(2, 1, 2), point(3, -1, 1), point(4, -2, -1)]
    rates: dict[str, Interval | str] = {
        "BD-rate": Interval(-1.0, -2.0, 0.0), "BD-rate (MS-SSIM)": "no curve",
    }  # fmt: skip
    said = confirmed_findings(ConfirmedResults(found, rates))
    assert said == [
        "BD-rate on fresh seeds of the points that were expected to save bits: -1.00 % [-2.00, +0.00]",
        "BD-rate (MS-SSIM) on fresh seeds of the points that were expected to save bits: no curve",
        "better than the baseline on fresh seeds: quality 1 (trial-001), quality 4 (trial-004)",
        "worse than the baseline on fresh seeds: quality 2 (trial-002)",
        "not distinguishable from the baseline on at most 5 seeds: quality 3 (trial-003)",
    ]
    assert "no point is complete" in confirmed_findings(ConfirmedResults())[0]
