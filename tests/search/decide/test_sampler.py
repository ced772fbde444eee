"""What the samplers propose, through the decision core."""

from __future__ import annotations

import dataclasses

import pytest
from optuna.storages import InMemoryStorage

from search.base.space import BASELINE, SAMPLERS
from search.decide.core import Core
from search.decide.sampler import RateSampler, make_sampler
from tests.search.decide.test_core import PLAN, run_all


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_any_seed_that_a_search_can_have_makes_proposals(sampler: str) -> None:
    """Optuna's samplers take seeds of 32 bits; each of a search's trials has one of its own."""
    found = []
    for seed in (0, 4295, 2**32 - 1):
        plan = dataclasses.replace(PLAN, budget=12, sampler=sampler, seed=seed, rungs=())
        done = [candidate for candidate, _ in run_all(Core(InMemoryStorage(), "s", plan))]
        assert len(done) == 3 + 12
        found.append(tuple(candidate.alpha for candidate in done[3:]))
    assert len(set(found)) == (1 if sampler == "grid" else 3)


def test_recorded_searches_go_on_with_the_seeds_that_they_began_with() -> None:
    for seed, number in ((7, 3), (2**32 - 1, 99_999)):
        plan = dataclasses.replace(PLAN, sampler="surrogate", seed=seed)
        sampler = make_sampler(plan, number, plan.qualities)
        assert isinstance(sampler, RateSampler) and sampler._seed == 1_000_003 * seed + number


@pytest.mark.parametrize("sampler", ["surrogate", "tpe", "gp", "random"])
def test_proposals_depend_on_the_seed(sampler: str) -> None:
    plans = [dataclasses.replace(PLAN, budget=14, sampler=sampler, seed=seed) for seed in (0, 0, 1)]
    first, same, other = (run_all(Core(InMemoryStorage(), "s", plan)) for plan in plans)
    assert first == same
    assert [c.alpha for c, _ in first] != [c.alpha for c, _ in other]
    # NumPy's floats would go into the checkpoints, which are read with weights_only.
    assert {type(c.alpha) for c, _ in first} == {float} and {type(c.quality) for c, _ in first} == {int}


def test_a_grid_is_complete() -> None:
    plan = dataclasses.replace(PLAN, sampler="grid", budget=36, rungs=())
    done = [c for c, _ in run_all(Core(InMemoryStorage(), "s", plan)) if c.role != BASELINE]
    points = {(c.quality, c.strategy, f"{c.alpha:.4g}") for c in done}
    alphas = ("1e-08", "1e-07", "1e-06", "1e-05")
    assert points == {(q, s, a) for q in plan.qualities for s in plan.strategies for a in alphas}


def test_every_rate_gets_its_startup_points_and_its_share() -> None:
    """The surrogate chooses the rate as well; none is starved."""
    plan = dataclasses.replace(PLAN, sampler="surrogate")
    done = [c for c, _ in run_all(Core(InMemoryStorage(), "s", plan)) if c.role != BASELINE]
    assert [c.quality for c in done[:6]] == [1, 3, 6] * 2
    counts = [sum(c.quality == quality for c in done) for quality in PLAN.qualities]
    assert sum(counts) == 30
    assert max(counts) <= 1.25 * 10 + 3
    assert min(counts) >= 4
