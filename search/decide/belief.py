"""The surrogate posterior of a search and its acquisition function: where to look next, what to keep."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import threadpoolctl
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from search.base.dimensions import Tuned
from search.base.space import Plan, SearchPoint
from search.decide.candidates import nearby, sobol
from search.decide.mixture import Mixture, places
from search.decide.noise import NoiseReading
from search.decide.surrogate import (
    Array,
    Data,
    Points,
    Posterior,
    fit,
    gather,
    pin_alpha,
    pins,
    squash,
    unsquash,
)

#: Readings of one trial are averaged over epochs that differ by less than this factor.
_EPOCH_RATIO = 1.7

#: At most so many trials inform the model: of each rate the last that finished, which lie where it
#: matters, and others spread over the search. (Its best readings are those that noise favoured.)
MOST_TRIALS = 150

#: Earlier searches' trials are numbered from here, and baselines on other seeds.
_EARLIER, _NOISE = 1_000_000, 2_000_000

#: Trials of a rate that may still turn out to be its best.
_RIVALS = 20

#: Values of alpha per rate and strategy among which the next trial is chosen, and after so many trials, when
#: several points are chosen at a time, each time from another grid.
_GRID, _COARSE_GRID, _FINE_TRIALS = 36, 8, 64

#: The same with tuned settings, for each of four kinds of their values; and how near coordinates of settings
#: are that are about the same.
_TUNED_GRID, _SAME = 12, 0.05

#: How many times its equal share of the trials a rate gets at least and may get, and some to spare.
_LEAST_SHARE, _MOST_SHARE, _SPARE = 0.7, 1.25, 2

#: Weight of learning where the best points are, against training them, at the start of a search; it
#: falls with the square of the budget that is left.
_CURIOSITY = 6.0

#: Points chosen at a time are moved aside by up to so many decades.
_ASIDE = 0.08

#: Nodes of the Gauss-Hermite quadrature over a candidate's reading, and their weights.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_WEIGHTS /= _WEIGHTS.sum()

#: Steps of a fit of the hyperparameters, and of one in a long search, which starts where the last ended.
_FIT_STEPS, _FEW_FIT_STEPS = 40, 12

#: A first reading above it (percent) is ruinous. Points are proposed only where one is improbable: by so many
#: standard deviations of the predicted reading; and not so few decades below what was ruinous.
RUINOUS, _SAFETY, _KEEP_BELOW = 50.0, 1.3, 0.5

#: Standard deviations of a one-sided interval of 95 %, in which a gain is called sure; of 92 %, in which a
#: point is kept instead of the baseline; and those with which proposals are weighed: with as many as the
#: second, one training alone would seldom decide anything.
SURE, PROBABLE, _CAUTION = 1.645, 1.4, 1.0

#: These matrices are small: a second thread costs more than it gives, and takes a core from the trials.
_one_thread = threadpoolctl.ThreadpoolController().wrap(limits=1)

#: User attribute of a trial: the epoch at which it left its baseline; without it 0.
FORK = "fork"

#: Prefix of the user attribute that holds the variance of a reading by epoch, percent squared.
VARIANCE = "variance:"


#: The quality and the tuned settings of a candidate.
_Own = tuple[int, Tuned]


@dataclass(frozen=True)
class Prediction:
    """What the model expects of a trial at full length: rate change and its standard deviation, percent."""

    mean: float
    std: float

    @property
    def is_sure(self) -> bool:
        """Whether a gain is expected with 95 % probability."""
        return self.mean + SURE * self.std < 0

    @property
    def is_probable(self) -> bool:
        """Whether a gain is expected with 92 % probability, so that the point is worth keeping."""
        return self.mean + PROBABLE * self.std < 0


class SurrogateModel:
    """The surrogate, fed with a study's trials. A pure function of its arguments.

    `earlier` are trials of another search: they inform the model, but none of them can be kept. `noise` are
    baselines on other seeds, which say how much a training's seed adds."""

    def __init__(
        self,
        plan: Plan,
        trials: Sequence[FrozenTrial],
        theta: Array | None = None,
        earlier: Sequence[FrozenTrial] = (),
        noise: Sequence[NoiseReading] = (),
    ) -> None:
        self.plan, self._earlier, self._foreign = plan, earlier, {id(trial) for trial in earlier}
        self._noise = noise
        self._strategies = {name: number for number, name in enumerate(plan.strategies or (None,))}
        # One that a crash left between being asked for and being described has no quality.
        self._trials = [t for t in trials if t.params and "quality" in t.user_attrs]
        self._long = len(self._trials) > MOST_TRIALS
        self._informing = self._choose()
        self.data = self._gather()
        self.theta = theta
        self._known: Mixture | None = None

    @_one_thread
    def fit(self, start: Array | None = None) -> Array:
        """Fit the hyperparameters and use them from now on; returns them."""
        steps = _FEW_FIT_STEPS if self._long and start is not None else _FIT_STEPS
        self.theta = fit(self.data, self.plan.strategies, start, steps)
        self._known = None
        return self.theta

    @_one_thread
    def propose(self, qualities: Sequence[int], count: int, seed: int) -> list[SearchPoint]:
        """The next `count` points, each where it is expected to improve the search's result most: the
        mean over the rates of the best rate change; none where a ruinous reading is probable.

        That is the knowledge gradient of Scott, Frazier and Powell (2011), 'The correlated knowledge
        gradient for simulation optimization of continuous parameters', with two ideas of what can be
        kept in the end: what is trained and a probable gain (which a training beside it may make of a
        doubtful one), or, early in a search, any point.
        """
        pending = self._points([t for t in self._trials if t.state == TrialState.RUNNING])
        posterior = self._posterior(pending)
        # Without the regularisation term a rate may have trained all that there is.
        tries = ((self._open(qualities), False), (qualities, False), (qualities, True))
        grids = (self._grid(wanted, seed, posterior, again) for wanted, again in tries)
        grid, own = self._safe(*next(found for found in grids if len(found[0])), posterior)
        rivals = pending.joined(self._unseeded(self._rivals(posterior, qualities)))
        everything = rivals.joined(grid)
        mean, covariance = posterior.joint(everything)
        noise = posterior.noise(everything) ** 2
        groups = [np.flatnonzero(everything.log_lmbda == self.plan.log_lmbda(q)) for q in qualities]
        known = len(rivals)
        curiosity = _CURIOSITY * max(0.0, 1 - len(self._trials) / self.plan.budget) ** 2
        draw = np.random.default_rng([seed, 1])
        chosen: list[SearchPoint] = []
        for place in range(count):
            gain = functools.partial(knowledge_gradient, mean, covariance, noise, groups, known)
            gradient = gain(keepable=known, caution=_CAUTION) + curiosity * gain(keepable=len(mean))
            best = int(np.argmax(gradient))
            # The same point twice would measure the same twice: trainings differ by nothing else.
            aside = draw.uniform(-_ASIDE, _ASIDE) if place else 0.0
            alpha = float(10 ** (grid.alpha[best] + aside)) if self.plan.strategies else 0.0
            quality, tuned = own[best]
            chosen.append(self.plan.point(quality, list(self._strategies)[grid.strategy[best]], alpha, tuned))
            column = covariance[:, known + best].copy()
            covariance -= np.outer(column, column) / (column[known + best] + noise[known + best])
        return chosen

    def _safe(self, grid: Points, own: list[_Own], posterior: Mixture) -> tuple[Points, list[_Own]]:
        """The candidates whose first reading is not ruinous in all probability, and not above (or just
        below) an alpha that was ruinous at this or a lower rate with about the same tuned settings: harm
        grows with alpha and with lambda. Where none is left, the least harmful one."""
        first = (min(self.plan.rungs, default=self.plan.epochs) - self.plan.fork) / (
            self.plan.epochs - self.plan.fork
        )
        early = replace(grid, progress=np.full(len(grid), first))
        mean, std = posterior.each(early)
        safe = mean + _SAFETY * std < squash(np.array(RUINOUS))
        latents = [set((name or "").split("+")) for name in self._strategies]
        for trial in self._informing:
            if max(trial.intermediate_values.values()) <= RUINOUS:
                continue
            alpha, strategy, log_lmbda = self._location(trial)
            as_harmful = [k for k, names in enumerate(latents) if names >= latents[int(strategy)]]
            beyond = (grid.alpha >= alpha - _KEEP_BELOW) & (grid.log_lmbda >= log_lmbda - 1e-9)
            beyond &= (np.abs(grid.tuned - self._coordinates([trial.params])) < _SAME).all(1)
            safe &= ~(beyond & np.isin(grid.strategy, as_harmful))
        rows = np.flatnonzero(safe) if safe.any() else np.array([int(np.argmin(mean))])
        return Points(*(column[rows] for column in vars(grid).values())), [own[row] for row in rows]

    def _open(self, qualities: Sequence[int]) -> list[int]:
        """The rates that have not had much more than their share of the trials: a model that is sure
        of one rate and wrong must not starve it."""
        count = {q: sum(t.user_attrs["quality"] == q for t in self._trials) for q in qualities}
        share = len(self._trials) / len(qualities)
        few = [q for q in qualities if count[q] < _LEAST_SHARE * share]
        return few or [q for q in qualities if count[q] < _MOST_SHARE * share + _SPARE]

    @_one_thread
    def expect(self, trials: Iterable[FrozenTrial]) -> list[Prediction]:
        """What the model expects of these trials at full length."""
        return self._expected(self._unseeded(list(trials)))

    def response(
        self, quality: int, strategy: str, alphas: Sequence[float], tuned: Tuned = ()
    ) -> list[Prediction]:
        """What the model expects of these alphas at full length."""
        return self.predict([self.plan.point(quality, strategy, alpha, tuned) for alpha in alphas])

    @_one_thread
    def predict(self, points: Sequence[SearchPoint]) -> list[Prediction]:
        """What the model expects of these points at full length."""
        rows = [(*self._place(p.quality, p.alpha, p.strategy), 1.0, -1) for p in points]
        return self._expected(Points.of(rows, tuned=self._coordinates([dict(p.tuned) for p in points])))

    def _expected(self, points: Points) -> list[Prediction]:
        if not len(points):
            return []
        mean, std = self._posterior().each(points)
        return [Prediction(float(m), float(s)) for m, s in zip(unsquash(mean), std, strict=True)]

    @_one_thread
    def expected_improvement(self, trial: FrozenTrial) -> float:
        """By how much the best of the trial's rate is expected to improve when it is trained to the end
        (expected improvement on the finished trials and the baseline), percent."""
        finished = self._finished(trial.user_attrs["quality"])
        means, stds = self._posterior().each(self._unseeded([trial, *finished]))
        mean, std = means.tolist(), float(stds[0])
        z = (min(0.0, *mean[1:]) - mean[0]) / std if finished else -mean[0] / std
        density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        return float(std * (z * (1 + math.erf(z / math.sqrt(2))) / 2 + density))

    def _finished(self, quality: int) -> list[FrozenTrial]:
        return [
            t
            for t in self._trials
            if t.state == TrialState.COMPLETE and t.intermediate_values and t.user_attrs["quality"] == quality
        ]

    def _posterior(self, pending: Points | None = None) -> Mixture:
        if self.theta is None:
            self.fit()
        assert self.theta is not None
        if self._known is None:
            # So many trials of a long search say where z acts.
            alone = Mixture([Posterior(self.theta, self.data)], np.ones(1)) if self._long else None
            self._known = alone or places(self.data, self.plan.strategies, self.theta)
        return self._known if pending is None or not len(pending) else self._known.awaiting(pending)

    def _choose(self) -> list[FrozenTrial]:
        """The trials that inform the model: all, or, of a long search, some of every rate."""
        known = [t for t in self._earlier if t.params.get("strategy") in self._strategies]
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
            fork = trial.user_attrs.get(FORK, 0)
            for trained in _binned(epoch - fork for epoch in trial.intermediate_values)[most:]:
                share = math.exp(_mean([math.log(n) for n in trained])) / (self.plan.epochs - fork)
                progress = min(1.0, share)  # rounding must not take it past the end
                epochs = [fork + count for count in trained]
                value = _mean([trial.intermediate_values[e] for e in epochs])
                known = _mean([trial.user_attrs.get(f"{VARIANCE}{e}", 0.0) for e in epochs])
                place = (*self._location(trial), progress, self._identity(trial))
                rows.append((*place, value, len(epochs), known, *self._coordinates([trial.params])[0]))
        rows += self._noise_rows()
        lambdas = [self.plan.mse_lmbda(quality) for quality in self.plan.qualities]
        settings = len(self.plan.dimensions)
        return gather(rows, pins(self.plan.alpha_min, len(self._strategies), lambdas, settings))

    def _noise_rows(self) -> list[tuple[float, ...]]:
        """Readings of alpha 0, where the rate change is what the seed adds. It is so of two trainings, the
        search's own baseline and the other: over the square root of 2 it is that of one. The sign says
        nothing, and savings are not compressed."""
        alpha = pin_alpha(self.plan.alpha_min)
        rows: list[tuple[float, ...]] = []
        for number, reading in enumerate(self._noise):
            place = (alpha, 0, self.plan.log_lmbda(reading.quality), 1.0, _NOISE + number)
            as_baseline = (0.0,) * len(self.plan.dimensions)
            rows.append((*place, -abs(reading.change) / math.sqrt(2), 1, reading.variance / 2, *as_baseline))
        return rows

    def seed_noise(self) -> dict[int, float]:
        """The standard deviation between training seeds in percent, by quality, as fitted."""
        points = Points.of([(0.0, 0, self.plan.log_lmbda(q), 1.0, -1) for q in self.plan.qualities])
        return dict(zip(self.plan.qualities, self._posterior().noise(points).tolist(), strict=True))

    def _identity(self, trial: FrozenTrial) -> int:
        """A number that no trial of this search and no earlier one shares."""
        return trial.number + (_EARLIER if id(trial) in self._foreign else 0)

    def _location(self, trial: FrozenTrial) -> tuple[float, float, float]:
        params, quality = trial.params, trial.user_attrs["quality"]
        return self._place(quality, params.get("alpha", 0.0), params.get("strategy"))

    def _place(self, quality: int, alpha: float, strategy: str | None) -> tuple[float, float, float]:
        """log10 alpha, strategy and log10 lambda as the model counts them."""
        log_alpha = math.log10(alpha) if alpha else pin_alpha(self.plan.alpha_min)
        return log_alpha, self._strategies[strategy] if alpha else 0, self.plan.log_lmbda(quality)

    def _coordinates(self, params: Sequence[Mapping[str, Any]]) -> Array:
        """The tuned settings among parameters, a row each; one without a value has that of the baselines."""
        settings = self.plan.dimensions
        rows = [[s.coordinate(given.get(s.name, s.default)) for s in settings] for given in params]
        return np.array(rows, float).reshape(len(params), len(settings))

    def _points(self, trials: Sequence[FrozenTrial]) -> Points:
        """The trials at full length."""
        rows = [(*self._location(trial), 1.0, trial.number) for trial in trials]
        return Points.of(rows, tuned=self._coordinates([trial.params for trial in trials]))

    def _unseeded(self, trials: Sequence[FrozenTrial]) -> Points:
        """The same without what their seeds add, which is no gain."""
        return replace(self._points(trials), trial=np.full(len(trials), -1))

    def _rivals(self, posterior: Mixture, qualities: Sequence[int]) -> list[FrozenTrial]:
        rivals: list[FrozenTrial] = []
        for quality in qualities:
            finished = self._finished(quality)
            if finished:
                mean = posterior.mean(self._points(finished))
                rivals += [finished[row] for row in np.argsort(mean, kind="stable")[:_RIVALS]]
        return rivals

    def _grid(
        self, qualities: Sequence[int], seed: int, posterior: Mixture, again: bool
    ) -> tuple[Points, list[_Own]]:
        """The candidates, alpha on a grid shifted at random, and the quality and tuned settings of each;
        `again`: also what was trained already."""
        low, high = math.log10(self.plan.alpha_min), math.log10(self.plan.alpha_max)
        pinned = pin_alpha(self.plan.alpha_min)
        shifts = np.random.default_rng(seed).random((len(qualities), len(self._strategies)))
        rows: list[tuple[float, ...]] = []
        own: list[_Own] = []
        for i, quality in enumerate(qualities):
            groups, log_lmbda = self._values(quality, seed, posterior, again), self.plan.log_lmbda(quality)
            for s in range(len(self._strategies)):
                for group in groups:
                    for k, tuned in enumerate(group):
                        alpha = low + (high - low) * (k + shifts[i, s]) / len(group)
                        rows.append((alpha if self.plan.strategies else pinned, s, log_lmbda, 1.0, -1))
                        own.append((quality, tuned))
        return Points.of(rows, tuned=self._coordinates([dict(tuned) for _, tuned in own])), own

    def _values(self, quality: int, seed: int, posterior: Mixture, again: bool) -> list[list[Tuned]]:
        """Candidates for the tuned settings, in groups that each get alphas over the whole range: as in the
        baselines, the best known, spread ones, and some near the best. Without the regularisation term only
        what the quality has not trained."""
        settings, fine = self.plan.dimensions, len(self._trials) <= _FINE_TRIALS
        if not settings:
            return [[()] * (_GRID if fine else _COARSE_GRID)]
        count = _TUNED_GRID if fine else _COARSE_GRID // 2
        draw = np.random.default_rng([seed, 2, quality])
        usual, best = self.plan.usual_values, self._best_values(quality, posterior)
        others = [sobol(settings, count, draw), nearby(settings, best, count, draw)]
        if self.plan.strategies:
            return [[usual] * count, [best] * count, *others]
        trained = {self.plan.defaults, *self._trained_values(quality)}
        return [[v for v in dict.fromkeys([*others[0], *others[1]]) if again or v not in trained]]

    def _trained_values(self, *qualities: int) -> list[Tuned]:
        return [
            tuple((s.name, trial.params[s.name]) for s in self.plan.dimensions)
            for trial in self._trials
            if trial.user_attrs["quality"] in qualities
        ]

    def _best_values(self, quality: int, posterior: Mixture) -> Tuned:
        """Of the settings that were tried at any rate, and those of the baselines, the ones with the lowest
        expected rate change at this one, alpha left aside."""
        tried = [self.plan.usual_values, *self._trained_values(*self.plan.qualities)]
        known = list(dict.fromkeys(tried))
        place = (*self._place(quality, 0.0, None), 1.0, -1)
        at = Points.of([place] * len(known), tuned=self._coordinates([dict(values) for values in known]))
        return known[int(np.argmin(posterior.mean(at)))]


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
    noise: Array,
    groups: list[NDArray[np.int64]],
    known: int,
    keepable: int,
    caution: float = 0.0,
) -> Array:
    """For every candidate (the rows from `known`), by how much the sum over the rates of the best mean
    is expected to fall once it is trained, when of each rate's rows those below `keepable`, the
    candidate, and the baseline (0) can be kept, each if it is below 0 by `caution` standard deviations."""
    candidates, variance = np.arange(known, len(mean)), np.diag(covariance)
    reach = covariance[:, candidates] / np.sqrt(variance[candidates] + noise[candidates])

    def bound(variances: Array) -> Array:
        return -caution * np.sqrt(np.maximum(variances, 0))

    worth = np.zeros(len(candidates))
    for group in groups:
        kept, fresh = group[group < keepable], group[group >= known]
        own = reach[fresh, fresh - known]
        now = mean[kept].min(initial=0.0, where=mean[kept] < bound(variance[kept]))
        later, alone = bound(variance[kept][:, None] - reach[kept] ** 2), bound(variance[fresh] - own**2)
        for node, share in zip(_NODES, _WEIGHTS, strict=True):
            means, trained = mean[kept][:, None] + node * reach[kept], mean[fresh] + node * own
            then = means.min(0, initial=0.0, where=means < later)
            then[fresh - known] = np.minimum(then[fresh - known], np.where(trained < alone, trained, 0.0))
            worth += share * (now - then)
    return worth
