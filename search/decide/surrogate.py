"""A Gaussian process over everything that a search has measured: every reading at its own fidelity.

The value is the rate change (percent, negative saves bits) of a point (quality, strategy, alpha) after a
fraction t of the full training, harm compressed (`squash`). The model is

    y = harm(u) + g(x) + (1 - t) d(x, t) + sigma(lambda) (trial effect + (f - 1) (1 - t)^1.5 reading noise)

harm(u) = slope w log(1 + exp((u - onset) / w)) is the mean function: beyond its onset harm grows with
alpha, about as a power of it, and the logarithm of a power is a straight line. g is what is saved, or lost,
beside that at full length: a part that neighbouring rates share and one of every rate's own, both alike for
strategies that act at the same place, both nothing far below the onset; d is how early readings differ, and
vanishes as t goes to 1. All see alpha through u = log10 alpha + shear log10 lambda + offset(strategy): the
useful window moves down by about a decade per decade of lambda and lies further right for z, and in u it
stands still. alpha = 0 is the baseline, whose rate change is 0 by definition: pseudo-readings below the
smallest alpha say so. sigma is the noise between seeds, log-linear in lambda: two trainings differ by 0.2 %
at the lowest rate and by several at the highest, and by f times as much before the learning rate falls.

Where a search tunes settings of the training (`Points.tuned`) there is one more term
(search.decide.tuned_term).

The gradient of the marginal likelihood is torch's, the fit scipy's: maximum a posteriori (Rasmussen and
Williams 2006, section 5.4).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from lic.recipe import LAMBDAS
from search.decide.tuned_term import TunedTerm, matern, tuned_priors

Array = NDArray[np.float64]

#: Above it (percent) harm is compressed: readings reach from -3 to +3000 %.
SCALE = 2.0

#: Decades below the smallest alpha at which a trial is taken to be the baseline, and how surely (percent).
_PIN_BELOW, _PIN_SIGMA = 1.5, 0.1

#: Decades over which harm sets in.
_HARM_WIDTH = 0.2

#: Length scale of the early deviation over ln t, and the correlation of two strategies' early deviations.
_TIME_SCALE, _EARLY_SHARED = 1.0, 0.7

#: Exponent of the noise of early readings, and of its fall with training.
_NOISE_FALL = 1.5

#: Gauss-Newton steps of a linearisation, and how often it and the fit take turns.
_TANGENTS, _ROUNDS = 3, 2

#: Decades below the onset of harm at which a weight does half of what it can, and over which that sets in.
_REACH, _REACH_WIDTH = 1.3, 0.35

#: Correlation of what two strategies save that act decades apart: y and z; those that act at the same place,
#: y and y+z, save alike.
_ACROSS = 0.3

#: log10 lambda is counted from here, so that the shear does not move u by its mean.
_MIDDLE = math.log10(0.01)

#: The lambdas between which the noise between seeds is log-linear; beyond them it is constant.
_LOWEST, _HIGHEST = (math.log10(f(LAMBDAS.values())) for f in (min, max))

#: name: prior mean, prior standard deviation. Lengths in decades, amplitudes in percent.
PRIORS: dict[str, tuple[float, float]] = {
    "log_length": (math.log(0.8), 0.2),
    "log_rate_length": (math.log(0.7), 0.25),
    "shear": (1.0, 0.25),
    "onset": (-6.3, 0.7),
    "log_slope": (math.log(3.5), 0.3),
    "log_amplitude": (math.log(1.2), 0.12),
    "log_own_amplitude": (math.log(0.2), 0.2),
    "log_single_amplitude": (math.log(0.6), 0.3),
    "log_early_length": (math.log(0.8), 0.4),
    "log_early_amplitude": (math.log(2.0), 0.6),
    "log_noise_low": (math.log(0.2), 0.4),
    "log_noise_high": (math.log(1.2), 0.7),
    "log_early_noise": (math.log(10.0), 0.4),
}


def squash(value: Array) -> Array:
    """Percent with harm compressed: s log(1 + y / s) of y above 0; savings stay as they are."""
    return np.minimum(value, 0) + SCALE * np.log1p(np.maximum(value, 0) / SCALE)


def unsquash(value: Array) -> Array:
    """The inverse of `squash`."""
    return np.minimum(value, 0) + SCALE * np.expm1(np.maximum(value, 0) / SCALE)


def _slope(value: Array) -> Array:
    """Derivative of `squash`, and no less than a twentieth."""
    return np.maximum(1 / (1 + np.maximum(value, 0) / SCALE), 0.05)


@dataclass(frozen=True)
class Points:
    """Where values are known or asked for, one row each: log10 alpha, strategy as a number, log10 lambda,
    progress t in (0, 1], the trial (-1: none, its effect is not included), `slope`, the derivative of
    `squash` at what is expected there, which scales the noise, and a column for every tuned setting
    (Dimension.coordinate), all 0 where they are as in the baselines."""

    alpha: Array
    strategy: NDArray[np.int64]
    log_lmbda: Array
    progress: Array
    trial: NDArray[np.int64]
    slope: Array
    tuned: Array

    def __len__(self) -> int:
        return len(self.alpha)

    @staticmethod
    def of(
        rows: Sequence[tuple[float, ...]], slope: Array | None = None, tuned: Array | None = None
    ) -> Points:
        """Rows of log10 alpha, strategy, log10 lambda, progress and trial."""
        table = np.array(rows, float).reshape(-1, 5)
        slope = np.ones(len(table)) if slope is None else slope
        tuned = np.zeros((len(table), 0)) if tuned is None else tuned
        return Points(
            table[:, 0], table[:, 1].astype(int), table[:, 2], table[:, 3], table[:, 4].astype(int), slope,
            tuned,
        )  # fmt: skip

    def joined(self, other: Points) -> Points:
        """The rows of both."""
        return Points(*(np.concatenate([mine, vars(other)[name]]) for name, mine in vars(self).items()))


@dataclass(frozen=True)
class Data:
    """Readings at points, `value` and its `variance` known beforehand in percent; `count` says how many
    readings a row is the mean of. The first `pinned` rows are pins. Linearised (`Posterior.data`) they are
    squashed."""

    points: Points
    value: Array
    variance: Array
    count: Array
    pinned: int

    @property
    def settings(self) -> int:
        """The number of tuned settings."""
        return int(self.points.tuned.shape[1])

    def at(self, expected: Array, noise: Array) -> Data:
        """Squashed by the tangent at the squashed values that are `expected`, given the standard deviation of
        a reading in percent.

        Noise is added to percent, not to what is squashed: a tangent at the noisy reading itself would weigh
        a reading the more the higher it came out. Far above what is expected the tangent overshoots; there
        the reading itself is the better place."""
        slope = _slope(unsquash(expected))
        itself = squash(self.value)
        # No tangent lies below; the least slope would take a good reading beside a ruinous one there.
        value = np.maximum(expected + slope * (self.value - unsquash(expected)), itself)
        beyond = value > np.maximum(itself, expected + 3 * slope * noise)
        slope, value = np.where(beyond, _slope(self.value), slope), np.where(beyond, itself, value)
        return Data(
            replace(self.points, slope=slope), value, slope**2 * self.variance, self.count, self.pinned
        )


class Hyperparameters:
    """`theta`, a value per row of PRIORS, an offset (decades) of every strategy but the first, and, if
    settings are tuned, those of the term for them (search.decide.tuned_term)."""

    def __init__(self, theta: Tensor, settings: int = 0) -> None:
        self.value = dict(zip(PRIORS, theta, strict=False))
        end = len(theta) - len(tuned_priors(settings))
        self.offsets = torch.cat([theta.new_zeros(1), theta[len(PRIORS) : end]])
        self.tuned = TunedTerm(theta[end:]) if settings else None

    def __getattr__(self, name: str) -> Tensor:
        return self.value[name] if name in self.value else self.value[f"log_{name}"].exp()

    def u(self, points: Points) -> Tensor:
        place = torch.from_numpy(points.log_lmbda) - _MIDDLE
        return torch.from_numpy(points.alpha) + self.shear * place + self.offsets[points.strategy]

    def harm(self, points: Points) -> Tensor:
        """The mean function."""
        beyond = (self.u(points) - self.onset) / _HARM_WIDTH
        return self.slope * _HARM_WIDTH * torch.nn.functional.softplus(beyond)

    def reach(self, points: Points) -> Tensor:
        """Of 1, how much a weight matters: nothing far below the onset of harm."""
        return torch.sigmoid((self.u(points) - self.onset + _REACH) / _REACH_WIDTH)

    def noise(self, points: Points) -> Tensor:
        """Standard deviation between seeds at full length (percent), squashed."""
        place = torch.from_numpy(np.clip((points.log_lmbda - _LOWEST) / (_HIGHEST - _LOWEST), 0, 1))
        log = self.log_noise_low + place * (self.log_noise_high - self.log_noise_low)
        return log.exp() * torch.from_numpy(points.slope)

    def reading_noise(self, points: Points) -> Tensor:
        """Standard deviation of what a reading has of its own beside its training (percent), squashed."""
        early = torch.from_numpy((1 - points.progress) ** _NOISE_FALL)
        return self.noise(points) * (self.early_noise - 1).clamp(min=0) * early

    def covariance(self, a: Points, b: Points) -> Tensor:
        """Prior covariance of the values at a (rows) and b (columns), without the readings' own noise."""
        return self.smooth(a, b) + self.trial_effect(a, b)

    def smooth(self, a: Points, b: Points) -> Tensor:
        """The same without what the seed of a training adds."""
        distance = (self.u(a)[:, None] - self.u(b)[None]).abs()
        same = torch.from_numpy(a.strategy[:, None] == b.strategy[None]).double()
        between = self.offsets[a.strategy][:, None] - self.offsets[b.strategy][None]
        kin = _ACROSS + (1 - _ACROSS) * (-0.5 * between**2).exp()
        apart = torch.from_numpy(a.log_lmbda[:, None] - b.log_lmbda[None])
        rates = (-0.5 * (apart / self.rate_length) ** 2).exp()
        shared = self.amplitude**2 * rates + self.single_amplitude**2 * (apart.abs() < 1e-9)
        value = (shared * kin + self.own_amplitude**2 * same * rates) * matern(distance / self.length)
        left = (1 - a.progress)[:, None] * (1 - b.progress)[None]
        if left.any():
            time = torch.from_numpy(np.log(a.progress)[:, None] - np.log(b.progress)[None]) / _TIME_SCALE
            early = self.early_amplitude**2 * (_EARLY_SHARED + (1 - _EARLY_SHARED) * same)
            shape = matern(distance / self.early_length) * (-0.5 * time**2).exp()
            value = value + rates * early * torch.from_numpy(left) * shape
        value = value * self.reach(a)[:, None] * self.reach(b)[None]
        if self.tuned is not None:
            value = value + self.tuned.covariance(a.tuned, b.tuned, torch.from_numpy(left), rates)
        return value

    def trial_effect(self, a: Points, b: Points) -> Tensor:
        """The covariance of what the seed of a training adds to all its readings."""
        one = torch.from_numpy((a.trial[:, None] == b.trial[None]) & (a.trial[:, None] >= 0))
        return one * self.noise(a)[:, None] * self.noise(b)[None]

    def variance(self, points: Points) -> Tensor:
        """The diagonal of `covariance(points, points)`."""
        early = self.early_amplitude**2 * torch.from_numpy((1 - points.progress) ** 2)
        trial = self.noise(points) ** 2 * torch.from_numpy(points.trial >= 0)
        value = self.amplitude**2 + self.own_amplitude**2 + self.single_amplitude**2 + early
        value = value * self.reach(points) ** 2 + trial
        if self.tuned is not None:
            value = value + self.tuned.variance(points.tuned, torch.from_numpy((1 - points.progress) ** 2))
        return value


def prior(strategies: Sequence[str], settings: int = 0) -> tuple[Array, Array]:
    """Mean and standard deviation of the hyperparameters, with so many tuned settings. A strategy that holds
    the first one's latent is as harmful; another may act decades further right."""
    first = strategies[0].split("+")[0] if strategies else ""
    offsets = [(0.0, 0.15) if first in name.split("+") else (-2.0, 1.2) for name in strategies[1:]]
    table = np.array([*PRIORS.values(), *offsets, *tuned_priors(settings)])
    return table[:, 0], table[:, 1]


def fit(data: Data, strategies: Sequence[str], start: Array | None = None, steps: int = 40) -> Array:
    """The most probable hyperparameters given the readings, from `start` or the prior mean."""
    theta = prior(strategies, data.settings)[0] if start is None else start
    for _ in range(_ROUNDS):
        theta = _most_probable(Posterior(theta, data).data, strategies, theta, steps)
    return theta


def _surprise(residual: Tensor, factor: Tensor, pinned: int) -> Tensor:
    """The negative logarithm of the density of what the mean function leaves, given the first `pinned` rows,
    but for a constant; `factor` is the Cholesky factor of the covariance.

    The pins hold whatever the hyperparameters are. Counted as data they would speak for those under which so
    many zeros are one fact: no gains anywhere, and z harmful exactly where y is."""
    away = torch.linalg.solve_triangular(factor, residual[:, None], upper=False)
    rows = slice(pinned, None)  # the chain rule
    return 0.5 * (away[rows] ** 2).sum() + factor.diagonal()[rows].log().sum()


def _most_probable(data: Data, strategies: Sequence[str], start: Array, steps: int) -> Array:
    mean, sigma = prior(strategies, data.settings)

    def cost(theta: Array) -> tuple[float, Array]:
        at = torch.tensor(theta, requires_grad=True)
        hyper = Hyperparameters(at, data.settings)
        matrix = hyper.covariance(data.points, data.points) + torch.diag(_noise_variance(hyper, data))
        factor, wrong = torch.linalg.cholesky_ex(matrix)
        if wrong:
            return 1e10, np.zeros_like(theta)
        unlikely = ((at - torch.from_numpy(mean)) / torch.from_numpy(sigma)) ** 2
        residual = torch.from_numpy(data.value) - hyper.harm(data.points)
        total = _surprise(residual, factor, data.pinned) + 0.5 * unlikely.sum()
        total.backward()
        assert at.grad is not None
        return float(total.detach()), at.grad.numpy()

    bounds = list(zip(mean - 3 * sigma, mean + 3 * sigma, strict=True))
    found = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps})
    return np.asarray(found.x)


class Posterior:
    """The model given readings under hyperparameters `theta`. `data` are the readings squashed by tangents at
    their posterior means: Gauss-Newton steps, or one from `start`, the data of a similar posterior."""

    @torch.no_grad()
    def __init__(self, theta: Array, readings: Data, start: Data | None = None) -> None:
        self.theta = np.asarray(theta, float)
        self.hyper = Hyperparameters(torch.from_numpy(self.theta), readings.settings)
        points = readings.points
        smooth, harm = self.hyper.smooth(points, points), self.hyper.harm(points)
        self.data = start or readings.at(squash(readings.value), np.zeros(len(points)))
        for _ in range(1 if start else _TANGENTS):
            self._condition(smooth, harm)
            self.data = readings.at(np.asarray(harm + smooth @ self._weights), self.noise(points))
        self._condition(smooth, harm)
        self._known = self._all = self.data.points

    def _condition(self, smooth: Tensor, harm: Tensor) -> None:
        points = self.data.points
        noise = torch.diag(_noise_variance(self.hyper, self.data))
        self._factor = _cholesky(smooth + self.hyper.trial_effect(points, points) + noise)
        self._residual = torch.from_numpy(self.data.value) - harm
        self._weights = torch.cholesky_solve(self._residual[:, None], self._factor)[:, 0]

    @torch.no_grad()
    def surprise(self) -> float:
        """The negative logarithm of the readings' density given the pins (in percent), but for a constant."""
        found = _surprise(self._residual, self._factor, self.data.pinned)
        return float(found) - float(np.log(self.data.points.slope).sum())

    @torch.no_grad()
    def awaiting(self, pending: Points) -> Posterior:
        """What will be known once trials at `pending` have ended; their expected values are the means."""
        cross = self.hyper.covariance(self._known, pending)
        corner = self.hyper.covariance(pending, pending) + 1e-6 * torch.eye(len(pending))
        lower = torch.linalg.solve_triangular(self._factor, cross, upper=False)
        n, m = len(self._known), len(pending)
        whole = self._factor.new_zeros(n + m, n + m)
        whole[:n, :n], whole[n:, :n] = self._factor, lower.T
        whole[n:, n:] = _cholesky(corner - lower.T @ lower)
        later = copy.copy(self)
        later._factor, later._all = whole, self._known.joined(pending)
        return later

    @torch.no_grad()
    def mean(self, points: Points) -> Array:
        """Expected squashed values at the points."""
        cross = self.hyper.covariance(points, self._known)
        return np.asarray(self.hyper.harm(points) + cross @ self._weights)

    @torch.no_grad()
    def covariance(self, points: Points) -> Array:
        """Posterior covariance of the squashed values at the points."""
        reach = self._reach(points)
        return np.asarray(self.hyper.covariance(points, points) - reach.T @ reach)

    @torch.no_grad()
    def std(self, points: Points) -> Array:
        """Posterior standard deviation of the squashed values at the points."""
        variance = self.hyper.variance(points) - (self._reach(points) ** 2).sum(0)
        return np.sqrt(np.maximum(np.asarray(variance), 1e-12))

    def _reach(self, points: Points) -> Tensor:
        cross = self.hyper.covariance(self._all, points)
        return torch.linalg.solve_triangular(self._factor, cross, upper=False)

    @torch.no_grad()
    def noise(self, points: Points) -> Array:
        """Standard deviation of a new training's reading at the points (percent, of no harm)."""
        own = self.hyper.reading_noise(points)
        return np.asarray((self.hyper.noise(points) ** 2 + own**2).sqrt())


def pin_alpha(alpha_min: float) -> float:
    """log10 of the alpha that is taken for that of the baseline."""
    return math.log10(alpha_min) - _PIN_BELOW


def pins(alpha_min: float, strategies: int, lambdas: Sequence[float], settings: int = 0) -> Points:
    """Points far below the smallest alpha, for every rate (lambda) and strategy."""
    alpha = pin_alpha(alpha_min)
    rows = [(alpha, s, math.log10(lmbda), 1.0, -1) for lmbda in lambdas for s in range(strategies)]
    return Points.of(rows, tuned=np.zeros((len(rows), settings)))


def gather(rows: Sequence[tuple[float, ...]], pinned: Points) -> Data:
    """Readings and pins as data. A row is log10 alpha, strategy, log10 lambda, progress, trial, the mean of
    `count` readings in percent, count, their variance that is known from the images (percent squared), and
    the tuned settings."""
    table = np.array(rows, float).reshape(-1, 8 + pinned.tuned.shape[1])
    table = table[np.isfinite(table[:, 5])]
    value, count, variance = table[:, 5], table[:, 6], table[:, 7]
    n = len(pinned)
    return Data(
        pinned.joined(Points.of(table[:, :5], tuned=table[:, 8:])),
        np.concatenate([np.zeros(n), value]),
        np.concatenate([np.full(n, _PIN_SIGMA**2), variance + 1e-6]),
        np.concatenate([np.full(n, np.inf), count]),
        n,
    )


def _noise_variance(hyper: Hyperparameters, data: Data) -> Tensor:
    learned = hyper.reading_noise(data.points) ** 2 / torch.from_numpy(data.count)
    return learned + torch.from_numpy(data.variance)


def _cholesky(matrix: Tensor) -> Tensor:
    """The lower Cholesky factor; what rounding has made indefinite gets as much noise as it takes."""
    noise = 0.0
    assert bool(matrix.isfinite().all())
    while True:
        factor, wrong = torch.linalg.cholesky_ex(matrix + noise * torch.eye(len(matrix), dtype=matrix.dtype))
        if not wrong:
            return factor
        noise = max(1e-9 * float(matrix.trace()) / len(matrix), 10 * noise)
