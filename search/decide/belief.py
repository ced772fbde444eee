"""What a search believes, from the trials it has: where to look next, and what to recommend."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import threadpoolctl
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from search.base.space import Plan, SearchPoint, lmbda_of
from search.decide.surrogate import Array, Data, Points, Posterior, Surrogate, fit, gather, join, pins

#: Readings of one trial are averaged over epochs that differ by less than this factor.
_EPOCH_RATIO = 1.7

#: At most so many trials inform the model: of each rate the last that finished, which lie where it
#: matters, and others spread over the search. (Its best readings are those that noise favoured.)
MOST_TRIALS = 150

#: Earlier searches' trials are numbered from here.
_EARLIER = 1_000_000

#: Trials of a rate that may still turn out to be its best.
_RIVALS = 20

#: Values of alpha per rate and strategy among which the next trial is chosen.
_GRID = 36

#: The same in a long search, where many points are chosen at a time, each time from another grid.
_COARSE_GRID = 8

#: How many times its equal share of the trials a rate may get, and some to spare.
_MOST_SHARE, _SPARE = 1.25, 2

#: Weight of learning where the best points are, against training them, at the start of a search; it
#: falls with the square of the budget that is left.
_CURIOSITY = 6.0

#: Points chosen at a time are moved aside by up to so many decades.
_ASIDE = 0.08

#: Nodes of the Gauss-Hermite quadrature over a candidate's reading, and in a long search.
_NODES, _FEW_NODES = 9, 5

#: Steps of a fit of the hyperparameters, and of one in a long search, which starts where the last ended.
_FIT_STEPS, _FEW_FIT_STEPS = 40, 12

#: These matrices are small: a second thread costs more than it gives, and takes a core from the trials.
_one_thread = threadpoolctl.ThreadpoolController().wrap(limits=1, user_api="blas")

#: User attribute of a trial: the epoch at which it left its baseline; without it 0.
FORK = "fork"

#: Prefix of the user attribute that holds the variance of a reading by epoch, percent squared.
VARIANCE = "variance:"


@dataclass(frozen=True)
class Prediction:
    """What the model expects of a trial at full length: rate change and its standard deviation, percent."""

    mean: float
    std: float


class SurrogateModel:
    """The surrogate, fed with a study's trials. A pure function of its arguments.

    `earlier` are trials of another search: they inform the model, but none of them can be kept."""

    def __init__(
        self,
        plan: Plan,
        trials: Sequence[FrozenTrial],
        theta: Array | None = None,
        earlier: Sequence[FrozenTrial] = (),
    ) -> None:
        self.plan, self._earlier, self._foreign = plan, earlier, {id(trial) for trial in earlier}
        self._strategies = {name: number for number, name in enumerate(plan.strategies)}
        # One that a crash left between being asked for and being described has no lambda.
        self._trials = [t for t in trials if t.params.get("alpha") and "lambda" in t.user_attrs]
        self._long = len(self._trials) > MOST_TRIALS
        self._informing = self._choose()
        self.data = self._gather()
        self.surrogate = Surrogate(theta, len(plan.strategies)) if theta is not None else None

    @_one_thread
    def fit(self, start: Array | None = None) -> Array:
        """Fit the hyperparameters and use them from now on; returns them."""
        steps = _FEW_FIT_STEPS if self._long and start is not None else _FIT_STEPS
        self.surrogate = fit(self.data, len(self.plan.strategies), start, steps)
        return self.surrogate.theta

    @_one_thread
    def propose(self, qualities: Sequence[int], count: int, seed: int) -> list[SearchPoint]:
        """The next `count` points, each where it is expected to improve the search's result most: the
        mean over the rates of the best rate change.

        That is the knowledge gradient of Scott, Frazier and Powell (2011), 'The correlated knowledge
        gradient for simulation optimization of continuous parameters', with two ideas of what can be
        kept in the end: only what is trained, or (early in a search) any point.
        """
        grid, own = self._grid(self._open(qualities), seed)
        pending = self._points([t for t in self._trials if t.state == TrialState.RUNNING])
        posterior = self._posterior(pending)
        rivals = join(pending, self._points(self._rivals(posterior, qualities)))
        everything = join(rivals, grid)
        mean, covariance = posterior.mean(everything), posterior.covariance(everything, everything)
        assert self.surrogate is not None
        noise = self.surrogate.noise**2 + self.surrogate.trial_effect**2
        groups = [np.flatnonzero(everything.rate == math.log10(lmbda_of(q))) for q in qualities]
        known = len(rivals)
        curiosity = _CURIOSITY * max(0.0, 1 - len(self._trials) / self.plan.budget) ** 2
        nodes = _FEW_NODES if self._long else _NODES
        draw = np.random.default_rng([seed, 1])
        chosen: list[SearchPoint] = []
        for place in range(count):
            worth = knowledge_gradient(mean, covariance, noise, groups, known, known, nodes)
            worth += curiosity * knowledge_gradient(mean, covariance, noise, groups, known, len(mean), nodes)
            best = int(np.argmax(worth))
            # The same point twice would measure the same twice: trainings differ by nothing else.
            aside = draw.uniform(-_ASIDE, _ASIDE) if place else 0.0
            alpha = 10 ** (grid.alpha[best] + aside)
            chosen.append(SearchPoint(own[best], self.plan.strategies[grid.strategy[best]], float(alpha)))
            column = covariance[:, known + best].copy()
            covariance -= np.outer(column, column) / (column[known + best] + noise)
        return chosen

    def _open(self, qualities: Sequence[int]) -> list[int]:
        """The rates that have not had much more than their share of the trials: a model that is sure
        of one rate and wrong must not starve it."""
        count = {q: sum(t.user_attrs["quality"] == q for t in self._trials) for q in qualities}
        limit = _MOST_SHARE * len(self._trials) / len(qualities) + _SPARE
        return [q for q in qualities if count[q] < limit]

    @_one_thread
    def expect(self, trials: Iterable[FrozenTrial]) -> list[Prediction]:
        """What the model expects of these trials at full length."""
        return self._expected(self._points(list(trials)))

    @_one_thread
    def response(self, quality: int, strategy: str, alphas: Sequence[float]) -> list[Prediction]:
        """What the model expects of these alphas at full length."""
        place = (self._strategies[strategy], math.log10(lmbda_of(quality)), 1.0, -1)
        return self._expected(_points_of(np.array([(math.log10(alpha), *place) for alpha in alphas])))

    def _expected(self, points: Points) -> list[Prediction]:
        if not len(points):
            return []
        posterior = self._posterior(None)
        mean, variance = posterior.mean(points), posterior.variance(points)
        harm = self.data.squash.scale * np.expm1(np.maximum(mean, 0) / self.data.squash.scale)
        return [
            Prediction(float(min(m, 0) + h), float(math.sqrt(v)))
            for m, h, v in zip(mean, harm, variance, strict=True)
        ]

    @_one_thread
    def expected_improvement(self, trial: FrozenTrial) -> float:
        """By how much the best of the trial's rate is expected to improve when it is trained to the end
        (expected improvement on the finished trials and the baseline), in standard deviations of one
        reading's noise."""
        posterior = self._posterior(None)
        finished = [
            t
            for t in self._trials
            if t.state == TrialState.COMPLETE and t.user_attrs["quality"] == trial.user_attrs["quality"]
        ]
        mean = posterior.mean(self._points([trial, *finished]))
        sigma = math.sqrt(float(posterior.variance(self._points([trial]))[0]))
        z = (min(0.0, *mean[1:]) - float(mean[0])) / sigma if finished else -float(mean[0]) / sigma
        density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        assert self.surrogate is not None
        return sigma * (z * (1 + math.erf(z / math.sqrt(2))) / 2 + density) / self.surrogate.noise

    def _posterior(self, pending: Points | None) -> Posterior:
        if self.surrogate is None:
            self.fit()
        assert self.surrogate is not None
        return Posterior(self.surrogate, self.data, pending)

    def _choose(self) -> list[FrozenTrial]:
        """The trials that inform the model: all, or, of a long search, some of every rate."""
        known = [t for t in self._earlier if t.params["strategy"] in self._strategies]
        with_values = [t for t in (*self._trials, *known) if t.intermediate_values]
        if len(with_values) <= MOST_TRIALS:
            return with_values
        share = MOST_TRIALS // (2 * len(self.plan.qualities))
        kept: list[FrozenTrial] = []
        for quality in self.plan.qualities:
            of_rate = [t for t in with_values if t.user_attrs["quality"] == quality]
            of_rate.sort(key=lambda t: (t.state == TrialState.COMPLETE, t.number), reverse=True)
            step = max(1, len(of_rate) // share)
            spread = [t for place, t in enumerate(of_rate[share:]) if place % step == 0]
            kept += [*of_rate[:share], *spread[:share]]
        return kept

    def _gather(self) -> Data:
        rows: list[tuple[float, ...]] = []
        # Two readings of a trial at least, else its own effect cannot be told from noise.
        most = -2 if self._long else 0
        for trial in self._informing:
            location = self._location(trial)
            fork = trial.user_attrs.get(FORK, 0)
            bins = _binned(epoch - fork for epoch in trial.intermediate_values)
            for trained in bins[most:]:
                whole = self.plan.epochs - fork
                progress = math.exp(_mean([math.log(count) for count in trained])) / whole
                epochs = [fork + count for count in trained]
                value = _mean([trial.intermediate_values[e] for e in epochs])
                known = _mean([trial.user_attrs.get(f"{VARIANCE}{e}", 0.0) for e in epochs])
                rows.append((*location, progress, self._identity(trial), value, len(epochs), known))
        table = np.array(rows, float).reshape(-1, 8)
        points = _points_of(table[:, :5])
        lambdas = [lmbda_of(quality) for quality in self.plan.qualities]
        pinned = pins(self.plan.alpha_min, len(self.plan.strategies), lambdas)
        return gather(points, table[:, 5], table[:, 6], table[:, 7], pinned)

    def _identity(self, trial: FrozenTrial) -> int:
        """A number that no trial of this search and no earlier one shares."""
        return trial.number + (_EARLIER if id(trial) in self._foreign else 0)

    def _location(self, trial: FrozenTrial) -> tuple[float, float, float]:
        return (
            math.log10(trial.params["alpha"]),
            self._strategies[trial.params["strategy"]],
            math.log10(trial.user_attrs["lambda"]),
        )

    def _points(self, trials: Sequence[FrozenTrial]) -> Points:
        """The trials at full length."""
        rows = [(*self._location(trial), 1.0, trial.number) for trial in trials]
        return _points_of(np.array(rows, float).reshape(-1, 5))

    def _rivals(self, posterior: Posterior, qualities: Sequence[int]) -> list[FrozenTrial]:
        finished = [t for t in self._trials if t.state == TrialState.COMPLETE and t.intermediate_values]
        if not finished:
            return []
        mean = dict(zip((t.number for t in finished), posterior.mean(self._points(finished)), strict=True))
        rivals = []
        for quality in qualities:
            of_rate = [t for t in finished if t.user_attrs["quality"] == quality]
            rivals += sorted(of_rate, key=lambda t: mean[t.number])[:_RIVALS]
        return rivals

    def _grid(self, qualities: Sequence[int], seed: int) -> tuple[Points, list[int]]:
        """The candidates, alpha on a grid shifted at random, and the quality of each."""
        low, high = math.log10(self.plan.alpha_min), math.log10(self.plan.alpha_max)
        shifts = np.random.default_rng(seed).random((len(qualities), len(self._strategies)))
        count = _COARSE_GRID if self._long else _GRID
        rows, own = [], []
        for i, quality in enumerate(qualities):
            for s in range(len(self._strategies)):
                for k in range(count):
                    alpha = low + (high - low) * (k + shifts[i, s]) / count
                    rows.append((alpha, s, math.log10(lmbda_of(quality)), 1.0, -1))
                    own.append(quality)
        return _points_of(np.array(rows)), own


def _points_of(table: NDArray[np.float64]) -> Points:
    return Points(table[:, 0], table[:, 1].astype(int), table[:, 2], table[:, 3], table[:, 4].astype(int))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _binned(epochs: Iterable[int]) -> list[list[int]]:
    """The epochs that a trial trained in groups of neighbours, the last by itself."""
    ordered = sorted(epochs)
    groups: dict[int, list[int]] = {}
    for epoch in ordered[:-1]:
        groups.setdefault(int(math.log(epoch) / math.log(_EPOCH_RATIO)), []).append(epoch)
    return [*groups.values(), ordered[-1:]]


def knowledge_gradient(
    mean: Array,
    covariance: Array,
    noise: float,
    groups: list[NDArray[np.int64]],
    known: int,
    keepable: int,
    nodes: int,
) -> Array:
    """For every candidate (the rows from `known`), by how much the sum over the rates of the best mean
    is expected to fall once it is trained, when of each rate's rows those below `keepable`, the
    candidate, and the baseline (0) can be kept."""
    candidates = np.arange(known, len(mean))
    reach = covariance[:, candidates] / np.sqrt(np.diag(covariance)[candidates] + noise)
    worth = np.zeros(len(candidates))
    at, shares = np.polynomial.hermite_e.hermegauss(nodes)
    for group in groups:
        kept, fresh = group[group < keepable], group[group >= known]
        now = min(0.0, float(mean[kept].min())) if len(kept) else 0.0
        for node, share in zip(at, shares / shares.sum(), strict=True):
            then = np.zeros(len(candidates))
            if len(kept):
                then = np.minimum(0, (mean[kept][:, None] + node * reach[kept]).min(0))
            own = mean[fresh] + node * reach[fresh, fresh - known]
            then[fresh - known] = np.minimum(then[fresh - known], own)
            worth += share * (now - then)
    return worth
