"""What every sampler has to do, through the decision core: proposals inside the space, of plain types, and a
function of the storage and the seed alone."""

from __future__ import annotations

import dataclasses

import pytest
from optuna.storages import InMemoryStorage

from search.base.space import SAMPLERS, TRIAL, Candidate, Plan
from search.decide.core import Core
from tests.search.decide.test_core import PLAN, run_all, train

#: Enough trials that each sampler is past the points that it spreads or draws at first.
BUDGET = 13


def plan_of(sampler: str, **changes: object) -> Plan:
    return dataclasses.replace(PLAN, sampler=sampler, budget=BUDGET, **changes)  # type: ignore[arg-type]


def proposals(plan: Plan) -> list[Candidate]:
    """The trials of a whole search."""
    done = run_all(Core(InMemoryStorage(), "s", plan))
    return [candidate for candidate, _ in done if candidate.role == TRIAL]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_proposals_are_inside_the_space_and_of_plain_types(sampler: str) -> None:
    """NumPy's numbers would go into the checkpoints, which are read with weights_only."""
    found = proposals(plan_of(sampler))
    assert len(found) == BUDGET
    for candidate in found:
        assert PLAN.alpha_min <= candidate.alpha <= PLAN.alpha_max
        assert candidate.strategy in PLAN.strategies and candidate.quality in PLAN.qualities
        assert [type(value) for value in (candidate.alpha, candidate.strategy, candidate.quality)] == [
            float, str, int,
        ]  # fmt: skip
    assert {candidate.quality for candidate in found} == set(PLAN.qualities)
    assert len({candidate.alpha for candidate in found}) > 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_proposals_are_a_function_of_storage_and_seed(sampler: str) -> None:
    """The core is opened anew before each proposal. Any seed that a search can have will do: Optuna's
    samplers take 32 bits, and each of a search's trials has a seed of its own."""
    found = []
    for seed in (0, 4295, 2**32 - 1):
        plan = plan_of(sampler, seed=seed)
        expected, storage, again = proposals(plan), InMemoryStorage(), []
        while (candidate := (core := Core(storage, "s", plan)).suggest()) is not None:
            train(core, candidate)
            again.append(candidate)
        assert again[len(PLAN.qualities) :] == expected
        found.append(tuple(candidate.alpha for candidate in expected))
    assert len(set(found)) == (1 if sampler == "grid" else 3)  # of a grid every point is given


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trials_without_a_result_are_no_obstacle(sampler: str) -> None:
    """Workers ask at once, before anything is measured, and trainings fail."""
    core = Core(InMemoryStorage(), "s", plan_of(sampler))
    asked = []
    while (candidate := core.suggest()) is not None:
        asked.append(candidate)
        if candidate.role == TRIAL and len(asked) % 4 == 0:
            core.fail(candidate.name, "out of memory")
    assert [candidate.role for candidate in asked].count(TRIAL) == BUDGET
    assert all(PLAN.alpha_min <= c.alpha <= PLAN.alpha_max for c in asked if c.role == TRIAL)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_smallest_space_is_searched(sampler: str) -> None:
    """One rate, one strategy, and a range of alpha that is narrower than rounding."""
    low = 1e-7
    plan = plan_of(sampler, qualities=(3,), strategies=("z",), alpha_min=low, alpha_max=low * (1 + 1e-9))
    found = proposals(plan)
    assert len(found) == BUDGET
    assert {(c.quality, c.strategy) for c in found} == {(3, "z")}
    assert all(plan.alpha_min <= c.alpha <= plan.alpha_max for c in found)
