"""What the model proposes: where it looks next, and where it does not look again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.base.space import Plan, SearchPoint
from search.decide.belief import RUINOUS, VARIANCE, SurrogateModel, knowledge_gradient
from tests.search.decide.test_core import PLAN

SURROGATE = dataclasses.replace(PLAN, sampler="surrogate")
SPACE: dict[str, BaseDistribution] = {
    "quality": CategoricalDistribution(PLAN.qualities),
    "alpha": FloatDistribution(PLAN.alpha_min, PLAN.alpha_max, log=True),
    "strategy": CategoricalDistribution(PLAN.strategies),
}

#: How far a proposal that is made together with others is moved aside, at most (decades).
ASIDE = 0.1


def trial(number: int, quality: int, strategy: str, alpha: float, values: Mapping[int, float]) -> FrozenTrial:
    """A trial with these rate changes by epoch, finished if the last is there, and stopped otherwise."""
    done = PLAN.epochs in values
    found = create_trial(
        state=TrialState.COMPLETE if done else TrialState.PRUNED if values else TrialState.RUNNING,
        value=values[PLAN.epochs] if done else None,
        params={"quality": quality, "alpha": alpha, "strategy": strategy},
        distributions=SPACE,
        user_attrs={"quality": quality, "lambda": SearchPoint(quality).lmbda},
        intermediate_values=dict(values),
    )
    found.number = number
    return found


def finished(number: int, quality: int, strategy: str, alpha: float, value: float) -> FrozenTrial:
    return trial(number, quality, strategy, alpha, {1: value + 1.0, 3: value + 0.5, 9: value})


def spread(count: int = 12) -> list[FrozenTrial]:
    """Harmless trials of every rate and strategy."""
    alphas = np.geomspace(1e-8, 2e-7, count)
    return [
        finished(
            i, PLAN.qualities[i % 3], PLAN.strategies[(i + i // 3) % 3], float(alphas[i]), -1.0 + 0.1 * i
        )
        for i in range(count)
    ]


def model_of(trials: list[FrozenTrial], plan: Plan = SURROGATE) -> SurrogateModel:
    model = SurrogateModel(plan, trials)
    model.fit()
    return model


def test_proposals_are_a_function_of_the_arguments() -> None:
    first, again = (model_of(spread()).propose(PLAN.qualities, 5, 7) for _ in range(2))
    assert first == again
    assert first != model_of(spread()).propose(PLAN.qualities, 5, 8)
    assert all(p.quality in PLAN.qualities and p.strategy in PLAN.strategies for p in first)
    low, high = PLAN.alpha_min * 10**-ASIDE, PLAN.alpha_max * 10**ASIDE
    assert all(type(p.alpha) is float and low <= p.alpha <= high for p in first)


@pytest.mark.parametrize(("quality", "strategy"), [(1, "y"), (3, "y"), (3, "z"), (6, "y+z")])
def test_what_was_ruinous_is_not_done_again(quality: int, strategy: str) -> None:
    """Not within half a decade, not beyond, not at a higher rate, and not with another latent besides."""
    alpha = 3e-7
    trials = [*spread(), trial(12, quality, strategy, alpha, {1: 1900.0})]
    model = model_of(trials)
    found = [point for seed in range(4) for point in model.propose(PLAN.qualities, 6, seed)]
    assert len(found) == 24
    for point in found:
        assert point.strategy is not None
        as_harmful = set(strategy.split("+")) <= set(point.strategy.split("+"))
        if as_harmful and point.quality >= quality:
            assert math.log10(point.alpha) < math.log10(alpha) - 0.5 + ASIDE


def test_one_that_no_model_expected_to_harm_counts_as_well() -> None:
    """Beside good readings nearby."""
    near = [finished(12 + i, 3, "y", 1e-7 * 10 ** (0.05 * i), -2.0) for i in range(4)]
    model = model_of([*spread(), *near, trial(16, 3, "y", 1.5e-7, {1: RUINOUS + 1})])
    for seed in range(6):
        (point,) = model.propose((3,), 1, seed)
        assert point.strategy == "z" or point.alpha < 1.5e-7 * 10**-0.5 * (1 + 1e-9)


@pytest.mark.xfail(
    strict=True, reason="where none is safe the least mean is taken, far beyond what was ruinous"
)
def test_where_everything_harms_no_larger_alpha_is_proposed() -> None:
    trials = [trial(i, 3, strategy, 1.1e-8, {1: 2000.0}) for i, strategy in enumerate(PLAN.strategies)]
    (point,) = model_of(trials).propose((3,), 1, 0)
    assert point.quality == 3 and point.alpha < 1.1e-8 * 10**0.5


def test_a_rate_that_fell_behind_comes_first() -> None:
    """Every rate gets a part of an equal share, whatever a model makes of the others."""
    trials = [finished(i, (1, 3)[i % 2], "y", 10 ** (-8 + 0.1 * i), -2.0) for i in range(18)]
    trials.append(finished(18, 6, "y", 1e-8, 3.0))
    model = model_of(trials)
    assert {p.quality for seed in range(3) for p in model.propose(PLAN.qualities, 1, seed)} == {6}
    # And none gets much more than it.
    much = [finished(i, 6, "y", 10 ** (-8 + 0.05 * i), -9.0) for i in range(18)]
    few = [finished(18 + i, (1, 3)[i % 2], "y", 1e-8, 3.0) for i in range(16)]
    model = model_of([*much, *few])
    assert 6 not in {p.quality for seed in range(3) for p in model.propose(PLAN.qualities, 1, seed)}
    # A rate whose baseline failed is no candidate.
    assert {p.quality for p in model.propose((1, 6), 4, 0)} <= {1, 6}


def test_running_trials_are_not_proposed_again() -> None:
    before = model_of(spread())
    (first,) = before.propose((3,), 1, 0)
    assert first.strategy is not None
    running = [trial(12 + i, 3, first.strategy, first.alpha, {}) for i in range(3)]
    after = SurrogateModel(SURROGATE, [*spread(), *running], before.theta)
    (second,) = after.propose((3,), 1, 0)
    assert (second.strategy, second.alpha) != (first.strategy, first.alpha)


def test_what_is_expected_is_near_what_was_measured() -> None:
    trials = [finished(i, 3, "y", 10 ** (-8 + 0.1 * i), -2.0) for i in range(12)]
    model = model_of(trials)
    assert model.expect([]) == []
    expected = model.expect(trials)
    assert [p.mean for p in expected] == pytest.approx([-2.0] * 12, abs=1.0)
    assert all(p.std > 0 for p in expected)
    (at,) = model.response(3, "y", [1e-7])
    assert at.mean == pytest.approx(-2.0, abs=0.7)
    poor, good = trial(12, 3, "y", 5e-6, {1: 3000.0}), trial(13, 3, "y", 8e-8, {1: -4.0})
    with_both = SurrogateModel(SURROGATE, [*trials, poor, good], model.theta)
    assert with_both.expected_improvement(good) > with_both.expected_improvement(poor) >= 0


@pytest.mark.parametrize("value", [100.0, 500.0, 1000.0, 3000.0, 1e5])
@pytest.mark.parametrize("epochs", [(1,), (1, 3, 9)])
def test_one_training_that_broke_down_among_good_ones_is_survived(
    value: float, epochs: tuple[int, ...]
) -> None:
    """Whatever was fitted before it was known, and what is fitted with it."""
    good = [finished(i, 3, "y", 10 ** (-8 + 0.1 * i), -2.0) for i in range(12)]
    theta = model_of(good).theta
    model = SurrogateModel(SURROGATE, [*good, trial(12, 3, "y", 1e-7, dict.fromkeys(epochs, value))], theta)
    for _ in range(2):
        for found in model.response(3, "y", [1e-8, 3e-8, 1e-7]):
            assert -10 < found.mean < value and 0 < found.std < 10
        model.fit(theta)


def test_readings_that_the_images_leave_open_count_for_less() -> None:
    plain = [finished(i, 3, "y", 1e-8 * 10 ** (0.1 * i), -2.0) for i in range(6)]
    model = model_of(plain)
    open_ones = [finished(i, 3, "y", 1e-8 * 10 ** (0.1 * i), -2.0) for i in range(6)]
    for found in open_ones:
        found.user_attrs.update({f"{VARIANCE}{epoch}": 25.0 for epoch in (1, 3, 9)})
    less = SurrogateModel(SURROGATE, open_ones, model.theta)
    assert less.response(3, "y", [2e-8])[0].std > model.response(3, "y", [2e-8])[0].std


def test_trials_of_an_earlier_search_inform_and_cannot_be_kept() -> None:
    earlier = [finished(i, 3, "y", 10 ** (-8 + 0.1 * i), -2.0) for i in range(12)]
    theta = model_of(earlier).theta
    informed, plain = SurrogateModel(SURROGATE, [], theta, earlier), SurrogateModel(SURROGATE, [], theta)
    (with_it,), (without,) = (m.response(3, "y", [1e-7]) for m in (informed, plain))
    assert with_it.std < without.std and with_it.mean < without.mean - 0.5
    assert len(informed.propose(PLAN.qualities, 3, 0)) == 3
    assert informed.expected_improvement(trial(0, 3, "y", 1e-7, {1: -3.0})) > 0


def test_an_earlier_strategy_that_is_not_searched_is_left_out() -> None:
    plan = dataclasses.replace(SURROGATE, strategies=("y",))
    model = SurrogateModel(plan, [], None, spread())
    assert set(model.data.points.strategy) == {0}
    model.fit()
    assert {p.strategy for p in model.propose(PLAN.qualities, 3, 0)} == {"y"}


def test_a_second_training_is_worth_what_it_settles() -> None:
    """One trained point of -0.9 +- 1 % and three candidates: beside it, elsewhere, and one that harms.
    By the mean alone there is nothing to settle: the point is kept whatever the next training says."""
    mean = np.array([-0.9, -0.9, -0.9, 2.0])
    covariance = np.diag([1.0, 1.0, 1e-6, 1e-6])
    covariance[0, 1] = covariance[1, 0] = 1.0
    groups = [np.arange(4)]
    gains = {c: knowledge_gradient(mean, covariance, np.full(4, 0.25), groups, 1, 1, c) for c in (0.0, 1.0)}
    # The next mean is normal around -0.9 with 0.8 of the variance, the rest is doubt: it is kept below -0.45.
    reach, bound = math.sqrt(0.8), (0.9 - math.sqrt(0.2)) / math.sqrt(0.8)
    below = (1 + math.erf(bound / math.sqrt(2))) / 2
    density = math.exp(-(bound**2) / 2) / math.sqrt(2 * math.pi)
    assert gains[1.0][0] == pytest.approx(0.9 * below + reach * density, abs=0.1)  # nine nodes over a step
    assert gains[1.0][1:] == pytest.approx([0.9, 0.0], abs=1e-9)  # sure at once, and never
    assert gains[0.0][1:] == pytest.approx(0.0, abs=1e-5)
