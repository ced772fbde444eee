"""Tuned settings of the training in the decision core: the term of the surrogate, proposals, and searches
that find a planted effect."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from optuna.storages import InMemoryStorage

from search.base.dimensions import Dimension, Tuned, Value
from search.base.space import SAMPLERS, TRIAL, Candidate, Plan, SearchPoint
from search.decide.candidates import nearby, sobol
from search.decide.core import Core
from search.decide.recommend import recommend
from search.decide.surrogate import Array, Hyperparameters, Points, Posterior, fit, gather, pins, prior
from search.records.importance import importances
from search.simulation.simulator import SELECTION, simulate
from tests.search.decide.test_core import PLAN, train

CLIP = Dimension("clip", 1.0, 0.1, 10.0, log=True)
LR = Dimension("lr", 1e-3, 1e-4, 1e-2, log=True)
OPTIMIZER = Dimension("optimizer", "adam", choices=("adam", "soap"))
TUNED = (CLIP, LR, OPTIMIZER)

#: Optuna's samplers and the search's own; a grid has no place for tuned settings.
ABLE = [sampler for sampler in SAMPLERS if sampler != "grid"]

#: At this lr all rates gain this many percent; clip has no effect.
BEST_LR, GAIN = 3e-4, 4.0


def effect(tuned: dict[str, Value]) -> float:
    away = (math.log10(float(tuned["lr"])) - math.log10(BEST_LR)) / (3 - abs(math.log10(BEST_LR)))
    return GAIN * (min(away**2, 9.0) - 1) - (0.5 if tuned.get("optimizer") == "soap" else 0.0)


def response(
    alpha: float, strategy: str, lmbda: float, epoch: int, seed: int, tuned: dict[str, Value]
) -> float:
    """Alpha is inert but for harm at its upper end."""
    del strategy, lmbda, seed
    harm = 3e6 * alpha
    return effect(tuned) * (1 + 0.3 * (1 - epoch / 9)) + harm


def plan_of(sampler: str = "surrogate", **changes: object) -> Plan:
    plan = dataclasses.replace(PLAN, sampler=sampler, selection=SELECTION, dimensions=TUNED, budget=24)
    return dataclasses.replace(plan, **changes)  # type: ignore[arg-type]


def points(tuned: Array, rate: float = -2.0, progress: float = 1.0) -> Points:
    return Points.of([(-9.5, 0, rate, progress, -1)] * len(tuned), tuned=tuned)


def usual(settings: int) -> Hyperparameters:
    return Hyperparameters(torch.from_numpy(prior(("y",), settings)[0]), settings)


def test_without_tuned_settings_there_are_no_hyperparameters_for_them() -> None:
    for strategies in (("y",), ("y", "z", "y+z")):
        assert len(prior(strategies)[0]) == len(prior(strategies, 2)[0]) - 4
    assert usual(0).tuned is None


def test_the_term_is_known_where_all_is_as_in_the_baselines() -> None:
    """Its variance is 0 there, also early, and it correlates with nothing."""
    hyper = usual(2)
    at, other = points(np.zeros((1, 2)), progress=0.1), points(np.array([[0.3, 1.0]]))
    assert float(hyper.covariance(at, at)) < 1e-3  # of alpha below its reach
    assert float(hyper.covariance(at, other)) == pytest.approx(float(hyper.covariance(at, at)), abs=1e-3)
    assert float(hyper.covariance(other, other)) > 1


def test_the_covariance_is_one_and_its_diagonal_is_the_variance() -> None:
    draw = np.random.default_rng(0)
    tuned = np.column_stack([draw.uniform(-0.5, 0.5, 40), draw.integers(0, 3, 40)])
    some = dataclasses.replace(points(tuned), progress=draw.choice([0.1, 0.5, 1.0], 40))
    hyper = usual(2)
    matrix = hyper.covariance(some, some)
    assert torch.allclose(matrix.diagonal(), hyper.variance(some), atol=1e-9)
    assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-9


def test_all_other_choices_are_equally_far() -> None:
    found = usual(1).covariance(points(np.array([[1.0]])), points(np.array([[2.0], [3.0], [9.0]])))
    assert float(found.max() - found.min()) < 1e-12


def test_a_setting_without_effect_gets_a_longer_length() -> None:
    draw = np.random.default_rng(1)
    tuned = draw.uniform(-0.5, 0.5, (40, 2))
    value = -8 * np.exp(-((tuned[:, 0] - 0.3) ** 2) / 0.05) + 8 * math.exp(-0.09 / 0.05)
    rows = [(-9.0, 0, -2.0, 1.0, i, value[i], 1.0, 0.0, *tuned[i]) for i in range(40)]
    data = gather(rows, pins(1e-8, 1, (0.01,), 2))
    theta = fit(data, ("y",))
    assert theta[-1] - theta[-2] > 0.7  # log lengths of the second and the first
    posterior = Posterior(theta, data)
    best, worst, origin = posterior.mean(points(np.array([[0.3, 0.1], [-0.4, 0.1], [0.0, 0.0]])))
    assert best < -4 and worst > 0 and abs(origin) < 0.7


def test_candidates_are_inside_and_a_function_of_the_seed() -> None:
    def found(seed: int) -> tuple[list[Tuned], list[Tuned]]:
        at: Tuned = (("clip", 0.1), ("lr", 1e-2), ("optimizer", "soap"))
        draw = np.random.default_rng(seed)
        return sobol(TUNED, 12, draw), nearby(TUNED, at, 12, draw)

    spread, near = found(3)
    assert (spread, near) == found(3) != found(4)
    for values in (*spread, *near):
        assert [name for name, _ in values] == ["clip", "lr", "optimizer"]
        for setting, (_, value) in zip(TUNED, values, strict=True):
            setting.coordinate(value)
    assert {dict(values)["optimizer"] for values in spread} == {"adam", "soap"}
    shares = [LR.share(dict(values)["lr"]) for values in near]
    assert min(shares) > 0.4 and len(set(shares)) > 3  # near the upper end, where it was


@pytest.mark.parametrize("sampler", ABLE)
@pytest.mark.parametrize("strategies", [PLAN.strategies, ()])
def test_every_sampler_proposes_them_and_resumes(sampler: str, strategies: tuple[str, ...]) -> None:
    """The core is opened anew before each proposal."""
    plan = plan_of(sampler, strategies=strategies, budget=14, selection="val")

    def proposals(fresh: bool) -> list[Candidate]:
        storage, found = InMemoryStorage(), []
        core = Core(storage, "s", plan)
        while (candidate := core.suggest()) is not None:
            assert candidate in core.unfinished()
            train(core, candidate)
            found.append(candidate)
            core = Core(storage, "s", plan) if fresh else core
        return [candidate for candidate in found if candidate.role == TRIAL]

    found = proposals(fresh=False)
    assert found == proposals(fresh=True) and len(found) == 14
    for candidate in found:
        assert [name for name, _ in candidate.tuned] == ["clip", "lr", "optimizer"]
        assert [type(value) for _, value in candidate.tuned] == [float, float, str]
        assert 0.1 <= float(dict(candidate.tuned)["clip"]) <= 10
        if strategies:
            assert candidate.strategy in strategies and 1e-8 <= candidate.alpha <= 1e-5
        else:
            assert candidate.strategy is None and candidate.alpha == 0
    assert len({candidate.tuned for candidate in found}) > 6


def test_the_default_may_lie_outside() -> None:
    outside = (
        Dimension("lr", 1e-5, 1e-4, 1e-2, log=True),
        Dimension("optimizer", "muon", choices=("a", "b")),
    )
    core = Core(InMemoryStorage(), "s", plan_of(dimensions=outside, budget=9, selection="val"))
    found = []
    while (candidate := core.suggest()) is not None:
        train(core, candidate)
        found.append(candidate)
    assert {dict(c.tuned)["lr"] for c in found[3:6]} == {1e-4} and len(found) == 12


@pytest.mark.parametrize("strategies", [("y",), ()])
def test_a_planted_effect_is_found_and_the_inert_setting_is_no_obstacle(strategies: tuple[str, ...]) -> None:
    core = Core(InMemoryStorage(), "s", plan_of(strategies=strategies, rungs=()))
    outcome = simulate(response, core.plan, 2, core=core)
    changes = [effect(dict(item.tuned)) if item.trial is not None else 0.0 for item in outcome.recommended]
    assert max(changes) < -0.7 * GAIN, changes
    assert recommend(core.trials, core.plan) == outcome.recommended
    assert [type(item.point) for item in outcome.recommended] == [SearchPoint] * 3
    weights = importances(core.trials, core.plan)
    assert set(weights) == {"clip", "lr", "optimizer"} | ({"alpha", "strategy"} if strategies else set())
    assert sum(weights.values()) == pytest.approx(1) and weights["lr"] > weights["clip"]


def test_no_combination_of_choices_is_trained_twice_without_the_term() -> None:
    choices = (OPTIMIZER, Dimension("ema", 0.0, choices=(0.0, 0.9, 0.99)))
    dimensions = tuple(sorted(choices, key=lambda dimension: dimension.name))
    plan = plan_of(dimensions=dimensions, strategies=(), budget=15, selection="val")
    core, found = Core(InMemoryStorage(), "s", plan), []
    while (candidate := core.suggest()) is not None:
        train(core, candidate)
        found.append(candidate.point)
    assert len(set(found)) == 3 + 15
    assert plan.defaults not in {point.tuned for point in found}


def test_an_earlier_search_informs_with_its_values() -> None:
    """Of one without the settings they are those of the baselines; values outside the ranges are left out."""
    plan = plan_of("random", selection="val", budget=4)
    tuned, plain = Core(InMemoryStorage(), "a", plan), Core(InMemoryStorage(), "b", plan_of(
        "random", selection="val", budget=4, dimensions=()))  # fmt: skip
    for core in (tuned, plain):
        while (candidate := core.suggest()) is not None:
            train(core, candidate)
    for source, dimensions, expected in (
        (tuned, TUNED, 4), (plain, TUNED, 4), (tuned, (), 4),
        (tuned, (dataclasses.replace(LR, low=9.9e-3),), 0),
    ):  # fmt: skip
        core = Core(InMemoryStorage(), "c", plan_of(selection="val", dimensions=dimensions))
        core.learn_from(source.trials.trials, "earlier")
        assert len(core.earlier()) == expected
        for _ in range(4):
            candidate = core.suggest()
            assert candidate is not None
            train(core, candidate)
