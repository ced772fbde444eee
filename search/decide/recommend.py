"""Which training to keep at every rate: by what the model expects of it, not by its best reading."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.base.space import AtPoint, Plan, SearchPoint
from search.decide.belief import Prediction, SurrogateModel
from search.decide.noise import NoiseReading


@dataclass(frozen=True)
class Recommendation(AtPoint):
    """The training to keep at one quality; no trial where it is the baseline.

    `expected` is the rate change (percent) that the model expects of it at full length, `sigma` the
    standard deviation of that; `best_observed` is the lowest reading at full length of any trial of the rate.
    """

    point: SearchPoint
    trial: int | None
    epochs: int
    expected: float
    sigma: float
    best_observed: float | None


def predictions(
    trials: optuna.Study, plan: Plan, earlier: Sequence[FrozenTrial] = ()
) -> dict[int, Prediction]:
    """What the model expects of the trials trained in full, by number.

    It is fitted to all trials and to those of an earlier search, whatever sampler proposed them; only
    the recorded trials and the plan decide. Several epochs, neighbouring alphas, other strategies and
    rates all speak for a trial, so that one lucky reading does not.
    """
    return expected_of(believe(trials, plan, earlier), trials)


def expected_of(belief: SurrogateModel | None, trials: optuna.Study) -> dict[int, Prediction]:
    """What a fitted model expects of the trials trained in full, by number; nothing without one."""
    if belief is None:
        return {}
    finished = _finished(trials)
    return dict(zip((t.number for t in finished), belief.expect(finished), strict=True))


def believe(
    trials: optuna.Study,
    plan: Plan,
    earlier: Sequence[FrozenTrial] = (),
    noise: Sequence[NoiseReading] = (),
) -> SurrogateModel | None:
    """The model fitted to all that is recorded; None while no trial is trained in full."""
    if not _finished(trials):
        return None
    belief = SurrogateModel(plan, trials.get_trials(deepcopy=False), earlier=earlier, noise=noise)
    belief.fit()
    return belief


def _finished(trials: optuna.Study) -> list[FrozenTrial]:
    everything = trials.get_trials(deepcopy=False)
    return [t for t in everything if t.state == TrialState.COMPLETE and t.params]


def recommend(trials: optuna.Study, plan: Plan) -> list[Recommendation]:
    """One per rate, among the trials trained in full and the baseline: the trial of the lowest expected rate
    change where a gain is probable, else the baseline."""
    expected_by_number = predictions(trials, plan)
    finished = [t for t in trials.get_trials(deepcopy=False) if t.number in expected_by_number]
    chosen = []
    for quality in plan.qualities:
        rivals = [t for t in finished if t.user_attrs["quality"] == quality]
        best = min(rivals, key=lambda t: (expected_by_number[t.number].mean, t.number), default=None)
        best_observed = min((_value(t) for t in rivals), default=None)
        if best is None or not expected_by_number[best.number].is_probable:
            baseline = plan.point(quality)
            chosen.append(Recommendation(baseline, None, plan.epochs, 0.0, 0.0, best_observed))
            continue
        expected = expected_by_number[best.number]
        point = plan.point_of(quality, best.params)
        chosen.append(
            Recommendation(point, best.number, plan.epochs, expected.mean, expected.std, best_observed)
        )
    return chosen


def _value(trial: FrozenTrial) -> float:
    return math.inf if trial.value is None else trial.value
