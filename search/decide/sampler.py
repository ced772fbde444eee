"""Samplers as a pure function of the storage and the seed: the search's own, and Optuna's."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from search.base.dimensions import Tuned
from search.base.space import Plan, SearchPoint
from search.decide.belief import SurrogateModel
from search.decide.candidates import sobol
from search.decide.noise import NoiseReading
from search.decide.parameters import distributions
from search.decide.surrogate import Array, prior
from search.store.optuna_internals import id_of_study, storage_of

#: Trials per rate that are spread evenly before the model proposes any.
STARTUP = 2

#: The surrogate's hyperparameters are fitted again after this share of trials more; in a long search
#: as many proposals are worked out at once.
_REFIT_SHARE, _BATCH_SHARE = 0.1, 0.02

_MODEL, _PROPOSALS = "surrogate", "proposals"


def make_sampler(
    plan: Plan,
    number: int,
    qualities: Sequence[int],
    earlier: Sequence[FrozenTrial] = (),
    noise: Sequence[NoiseReading] = (),
) -> BaseSampler:
    """The sampler that proposes trial `number` for one of these qualities.

    A new one for every trial, seeded by its number: what it proposes then depends on the recorded
    trials alone, and a restarted search goes on as if it had never stopped. Optuna's own samplers
    pool the rates and draw their first points at random.
    """
    if plan.sampler in ("surrogate", "grid"):
        # NumPy's generators take a seed of any size; recorded searches go on with this one.
        large_seed = plan.seed * 1_000_003 + number
        kind = RateSampler if plan.sampler == "surrogate" else GridSampler
        return kind(plan, qualities, large_seed, earlier, noise)
    own_seed = _seed_of(plan.seed, number)
    if plan.sampler == "random":
        return RandomSampler(seed=own_seed)
    startup = max(10, 2 * len(plan.qualities))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if plan.sampler == "gp":
            return GPSampler(seed=own_seed, n_startup_trials=startup)
        return TPESampler(seed=own_seed, n_startup_trials=startup, multivariate=True)


def _seed_of(*numbers: int) -> int:
    """A seed of 32 bits, which is what Optuna's samplers take, from numbers of any size."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def fitted(study: optuna.Study, plan: Plan) -> Array | None:
    """The surrogate's hyperparameters as last fitted for this study; None before the first fit, and if the
    search began with a version that has others."""
    known = storage_of(study).get_study_user_attrs(id_of_study(study)).get(_MODEL)
    theta = np.array(known["theta"]) if known else None
    usual, _ = prior(plan.strategies, len(plan.dimensions))
    return theta if theta is not None and theta.shape == usual.shape else None


def spread_point(plan: Plan, qualities: Sequence[int], number: int) -> SearchPoint:
    """Point `number` of an even spread: the rates in turn, each strategy as often, log alpha along the
    golden ratio's sequence from a start that the plan's seed gives. The first point of every rate has the
    tuned settings' values of the baselines, so that the effect of alpha is seen by itself."""
    count = len(qualities)
    share = (np.random.default_rng(plan.seed).random() + number * 0.6180339887498949) % 1
    # Harm begins a decade lower per decade of lambda.
    quality = qualities[number % count]
    lowest, own = min(plan.point(q).lmbda for q in qualities), plan.point(quality).lmbda
    widest = plan.alpha_max / plan.alpha_min * lowest / own
    alpha = plan.alpha_min * max(widest, 1.0) ** share
    tuned = spread_values(plan, number, count)
    if not plan.strategies:
        return plan.point(quality, tuned=tuned)
    strategy = plan.strategies[(number + number // count) % len(plan.strategies)]
    return plan.point(quality, strategy, float(alpha), tuned if number >= count else plan.usual_values)


def spread_values(plan: Plan, number: int, qualities: int) -> Tuned:
    """Values of an even spread of the tuned settings for point `number`, others than those of the baselines,
    and other ones for each point of a quality."""
    if not plan.dimensions:
        return ()
    spread = sobol(plan.dimensions, STARTUP * qualities + 1, np.random.default_rng(plan.seed))
    others = [values for values in dict.fromkeys(spread) if values != plan.defaults]
    turn, quality = divmod(number, qualities)
    return others[(quality * STARTUP + turn) % len(others)]


class RateSampler(BaseSampler):
    """Proposes rate, alpha and strategy together, by the surrogate (search.decide.belief).

    What it must remember from one trial to the next, the fitted hyperparameters and proposals worked
    out in advance, is kept as user attributes of the study.
    """

    def __init__(
        self,
        plan: Plan,
        qualities: Sequence[int],
        seed: int,
        earlier: Sequence[FrozenTrial] = (),
        noise: Sequence[NoiseReading] = (),
    ) -> None:
        self._plan, self._qualities, self._seed = plan, tuple(qualities), seed
        self._earlier, self._noise = earlier, noise

    def infer_relative_search_space(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        return {"quality": CategoricalDistribution(self._plan.qualities), **distributions(self._plan)}

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Any]:
        startup = STARTUP * len(self._qualities)
        if trial.number + len(self._earlier) < startup:
            point = spread_point(self._plan, self._qualities, trial.number)
        else:
            point = self._proposed(study, trial.number)
        tuned = dict(point.tuned)
        if not self._plan.strategies:
            return {"quality": point.quality, **tuned}
        alpha = min(max(point.alpha, self._plan.alpha_min), self._plan.alpha_max)
        return {"quality": point.quality, "alpha": alpha, "strategy": point.strategy, **tuned}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        sampler = RandomSampler(seed=_seed_of(self._seed))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _proposed(self, study: optuna.Study, number: int) -> SearchPoint:
        storage, study_id = storage_of(study), id_of_study(study)
        attributes = storage.get_study_user_attrs(study_id)
        ahead = attributes.get(_PROPOSALS, {"first": 0, "points": []})
        place = number - ahead["first"]
        if 0 <= place < len(ahead["points"]) and ahead["points"][place][0] in self._qualities:
            quality, alpha, strategy, *tuned = ahead["points"][place]
            names = (dimension.name for dimension in self._plan.dimensions)
            return self._plan.point(quality, strategy, alpha, tuple(zip(names, tuned, strict=True)))

        trials = [t for t in study.get_trials(deepcopy=False) if t.number != number]
        theta = fitted(study, self._plan)
        belief = SurrogateModel(self._plan, trials, theta, self._earlier, self._noise)
        if theta is None or number >= attributes[_MODEL]["trials"] * (1 + _REFIT_SHARE):
            model = {"trials": number, "theta": belief.fit(theta).tolist()}
            storage.set_study_user_attr(study_id, _MODEL, model)
        count = max(1, round(_BATCH_SHARE * number))
        points = belief.propose(self._qualities, count, self._seed)
        if count > 1:
            listed = [[p.quality, p.alpha, p.strategy, *dict(p.tuned).values()] for p in points]
            storage.set_study_user_attr(study_id, _PROPOSALS, {"first": number, "points": listed})
        return points[0]


class GridSampler(RateSampler):
    """The budget as a grid: every rate and strategy at the same alphas, evenly spaced in log alpha. For
    a map of the response, such as `search.simulate --table` searches."""

    def sample_relative(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Any]:
        plan, rates = self._plan, self._qualities
        pairs = len(rates) * len(plan.strategies)
        alphas = np.geomspace(plan.alpha_min, plan.alpha_max, max(2, plan.budget // pairs))
        place, pair = divmod(trial.number, pairs)
        return {
            "quality": rates[pair % len(rates)],
            "alpha": min(max(float(alphas[place % len(alphas)]), plan.alpha_min), plan.alpha_max),
            "strategy": plan.strategies[pair // len(rates)],
        }
