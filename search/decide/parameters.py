"""The parameters of a trial in Optuna: alpha, strategy, and the tuned settings under their own names."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial

from search.base.space import Plan, SearchPoint


def distributions(plan: Plan) -> dict[str, BaseDistribution]:
    """Where the parameters of a trial come from, by name; its quality is not among them."""
    term: dict[str, BaseDistribution] = {}
    if plan.strategies:
        term["alpha"] = FloatDistribution(plan.alpha_min, plan.alpha_max, log=True)
        term["strategy"] = CategoricalDistribution(plan.strategies)
    for dimension in plan.dimensions:
        term[dimension.name] = (
            CategoricalDistribution(dimension.choices)
            if dimension.choices
            else FloatDistribution(dimension.low, dimension.high, log=dimension.log)
        )
    return term


def ask(trial: optuna.Trial, plan: Plan, quality: int) -> SearchPoint:
    """The point that a trial's sampler proposes."""
    params: dict[str, Any] = {}
    for name, of in distributions(plan).items():
        if isinstance(of, FloatDistribution):
            # A plain float: samplers give NumPy's, which no checkpoint read with weights_only may hold.
            params[name] = float(trial.suggest_float(name, of.low, of.high, log=of.log))
        elif isinstance(of, CategoricalDistribution):
            params[name] = trial.suggest_categorical(name, of.choices)
    return plan.point_of(quality, params)


def is_inside(plan: Plan, trial: FrozenTrial) -> bool:
    """Whether a trial of another search has a strategy of this plan's and values in its ranges; a value that
    it does not have is that of the baselines."""
    if trial.params.get("strategy") not in (plan.strategies or (None,)):
        return False
    try:
        for dimension in plan.dimensions:
            dimension.coordinate(trial.params.get(dimension.name, dimension.default))
    except ValueError:
        return False
    return True
