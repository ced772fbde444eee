"""How much each searched setting matters, by Optuna's PED-ANOVA (Watanabe, Bansal and Hutter 2023, arXiv
2304.10255)."""

from __future__ import annotations

import warnings

from optuna import Study
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from search.base.space import Plan
from search.decide.parameters import distributions

#: Fewer finished trials say nothing of importances.
_LEAST = 12

#: The share of the finished trials that count as good.
_GOOD = 0.25


def importances(trials: Study, plan: Plan) -> dict[str, float]:
    """The importance of every searched setting for being among the best quarter of the finished trials, all
    qualities together; they add up to 1. Empty of few trials."""
    if len(trials.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < _LEAST:
        return {}
    with warnings.catch_warnings():
        # That it is experimental, and that trials of one value all count as good.
        warnings.simplefilter("ignore")
        evaluator = PedAnovaImportanceEvaluator(target_quantile=_GOOD)
        return get_param_importances(trials, evaluator=evaluator, params=list(distributions(plan)))
