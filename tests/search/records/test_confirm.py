"""Confirmation on fresh seeds: which trainings, and what is made of them, without any training."""

from __future__ import annotations

from dataclasses import replace

import pytest
from optuna.storages import InMemoryStorage

from search.base.space import BASELINE
from search.records.confirm import Confirmation, points_to_confirm
from search.records.search_records import SearchRecords
from tests.support.confirming import PLAN, searched_records


@pytest.fixture(scope="module")
def searched() -> SearchRecords:
    return searched_records()


def test_baselines_and_best_points_on_fresh_seeds(searched: SearchRecords) -> None:
    points = points_to_confirm(searched, PLAN, best=2, seeds=3)
    assert {c.seed for c in points} == {5, 6, 7}  # the search's own seed is 4
    assert [c.role for c in points[:6]] == [BASELINE] * 6
    of_rate_one = [c for c in points if c.quality == 1 and c.seed == 5 and c.role != BASELINE]
    assert len(of_rate_one) == 2
    finished = {r.name: r for r in searched.finished()}
    assert all(finished[c.name.rpartition("-s")[0]].alpha == c.alpha for c in of_rate_one)
    assert len({c.name for c in points}) == len(points) == 3 * (6 + 12)


def test_what_is_confirmed_is_trained_in_full(searched: SearchRecords) -> None:
    """Whether the search forked or not, and nothing waits for a baseline."""
    points = points_to_confirm(searched, PLAN, best=1, seeds=1)
    confirmation = Confirmation(InMemoryStorage(), "s", replace(PLAN, fork=1), points, "kodak")
    assert (confirmation.plan, confirmation.waits()) == (PLAN, False)
    assert [confirmation.suggest() for _ in points] == points
