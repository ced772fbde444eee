"""What the samplers propose, through the decision core."""

from __future__ import annotations

import dataclasses

from optuna.storages import InMemoryStorage

from search.base.space import BASELINE
from search.decide.core import Core
from search.decide.sampler import RateSampler, fitted, make_sampler
from tests.search.decide.test_core import PLAN, run_all


def test_recorded_searches_go_on_with_the_seeds_that_they_began_with() -> None:
    for seed, number in ((7, 3), (2**32 - 1, 99_999)):
        plan = dataclasses.replace(PLAN, sampler="surrogate", seed=seed)
        sampler = make_sampler(plan, number, plan.qualities)
        assert isinstance(sampler, RateSampler) and sampler._seed == 1_000_003 * seed + number


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


def test_hyperparameters_of_another_version_are_fitted_anew() -> None:
    """A search that began with a model of fewer hyperparameters goes on with today's."""
    plan = dataclasses.replace(PLAN, sampler="surrogate", budget=9)
    core = Core(InMemoryStorage(), "s", plan)
    run_all(core)
    theta = fitted(core.trials, plan)
    assert theta is not None
    core.trials.set_user_attr("surrogate", {"trials": 9, "theta": theta[:-1].tolist()})
    assert fitted(core.trials, plan) is None
    later = Core(core.trials._storage, "s", dataclasses.replace(plan, budget=12))
    assert len([c for c, _ in run_all(later) if c.role != BASELINE]) == 3
    again = fitted(later.trials, plan)
    assert again is not None and len(again) == len(theta)
