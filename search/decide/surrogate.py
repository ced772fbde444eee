"""A Gaussian process over everything that a search has measured: every reading at its own fidelity.

The value is the rate change (percent, negative saves bits) of a point (rate, strategy, alpha) after a
fraction t of the full training. The model is

    y = g(x) + (1 - t) d(x, t) + trial effect + noise

g is what counts, the rate change at full length; d is how early readings differ from it, and vanishes
as t goes to 1; the trial effect is what all readings of one training share. Both functions see alpha
through u = log10 alpha + shear log10 lambda + offset(strategy): the useful window of alpha moves with
the rate and lies elsewhere for y than for z, and in u it stands still. alpha = 0 is the baseline, whose
rate change is 0 by definition: pseudo-readings below the smallest alpha say so.

Plain numpy with an analytic gradient, since a proposal must not take longer than a reading; the fit is
maximum a posteriori (Rasmussen and Williams 2006, section 5.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]

#: Decades below the smallest alpha at which a trial is taken to be the baseline, and how surely (percent).
_PIN_BELOW, _PIN_SIGMA = 1.5, 0.2

#: Length scale of the early deviation over ln t.
_TIME_SCALE = 1.0

#: Length scale over log10 lambda of what a strategy has of its own: one may be the better at low rates
#: and the worse at high ones.
_OWN_RATE_LENGTH = 0.8

#: Correlation of two strategies' early deviations.
_EARLY_SHARED = 0.7

#: log10 lambda is counted from here, so that the shear does not move u by its mean.
_MIDDLE_RATE = math.log10(0.01)


@dataclass(frozen=True)
class Points:
    """Where values are known or asked for, one row each: log10 alpha, strategy as a number,
    log10 lambda, progress t in (0, 1], and the trial (-1: none, its effect is not included)."""

    alpha: Array
    strategy: NDArray[np.int64]
    rate: Array
    progress: Array
    trial: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.alpha)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Points:
        return Points(
            self.alpha[rows], self.strategy[rows], self.rate[rows], self.progress[rows], self.trial[rows]
        )


def join(*parts: Points) -> Points:
    """All rows of the parts, in order."""
    fields = ("alpha", "strategy", "rate", "progress", "trial")
    return Points(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))


@dataclass(frozen=True)
class Squash:
    """Keeps savings as they are and compresses harm: readings reach from -3 to +300 %, and the harmful
    tail must not bend the model near the optimum. y below 0 stays; above it becomes s log(1 + y / s)."""

    scale: float

    def __call__(self, value: Array) -> Array:
        harm = np.maximum(value, 0)
        return np.minimum(value, 0) + self.scale * np.log1p(harm / self.scale)

    def slope(self, value: Array) -> Array:
        return 1 / (1 + np.maximum(value, 0) / self.scale)


#: name, prior mean, prior standard deviation. Lengths in decades, amplitudes in percent.
_PRIORS = (
    ("log_length", math.log(0.8), 0.4),
    ("log_rate_length", math.log(1.2), 0.5),
    ("shear", 0.5, 0.5),
    ("log_amplitude", math.log(4.0), 0.6),
    ("log_own_amplitude", math.log(1.2), 0.4),
    ("log_early_length", math.log(1.0), 0.4),
    ("log_early_amplitude", math.log(3.0), 0.7),
    ("log_noise", math.log(0.5), 0.5),
    ("log_trial_effect", math.log(0.15), 0.6),
)
_OFFSET_SIGMA = 0.4


def prior(strategies: int) -> tuple[Array, Array]:
    """Mean and standard deviation of the hyperparameters; the last ones are the strategies' offsets."""
    mean = [row[1] for row in _PRIORS] + [0.0] * (strategies - 1)
    sigma = [row[2] for row in _PRIORS] + [_OFFSET_SIGMA] * (strategies - 1)
    return np.array(mean), np.array(sigma)


class Surrogate:
    """The model for one set of hyperparameters `theta` (see `prior`)."""

    def __init__(self, theta: Array, strategies: int) -> None:
        self.theta, self.strategies = np.asarray(theta, float), strategies
        values = dict(zip((row[0] for row in _PRIORS), self.theta, strict=False))
        self.length = math.exp(values["log_length"])
        self.rate_length = math.exp(values["log_rate_length"])
        self.shear = float(values["shear"])
        self.amplitude = math.exp(values["log_amplitude"])
        self.own_amplitude = math.exp(values["log_own_amplitude"])
        self.early_length = math.exp(values["log_early_length"])
        self.early_amplitude = math.exp(values["log_early_amplitude"])
        self.noise = math.exp(values["log_noise"])
        self.trial_effect = math.exp(values["log_trial_effect"])
        self.offsets = np.concatenate([[0.0], self.theta[len(_PRIORS) :]])

    def _u(self, points: Points) -> Array:
        return points.alpha + self.shear * (points.rate - _MIDDLE_RATE) + self.offsets[points.strategy]

    def covariance(self, a: Points, b: Points) -> Array:
        """Prior covariance of the values at a (rows) and b (columns), without noise."""
        distance = np.abs(self._u(a)[:, None] - self._u(b)[None])
        same = a.strategy[:, None] == b.strategy[None]
        value = self._levels(a, b, same) * _matern(distance, self.length)
        early = _decay(a)[:, None] * _decay(b)[None]
        if early.any():
            early *= self.early_amplitude**2 * np.where(same, 1.0, _EARLY_SHARED)
            early *= _rates(a, b, self.rate_length)
            value += early * _matern(distance, self.early_length) * _time(a, b)
        return value + self.trial_effect**2 * _same_trial(a, b)

    def _levels(self, a: Points, b: Points, same: NDArray[np.bool_]) -> Array:
        common = self.amplitude**2 * _rates(a, b, self.rate_length)
        return common + self.own_amplitude**2 * same * _rates(a, b, _OWN_RATE_LENGTH)

    def variance(self, points: Points) -> Array:
        """The diagonal of `covariance(points, points)`."""
        early = self.early_amplitude**2 * _decay(points) ** 2
        return self.amplitude**2 + self.own_amplitude**2 + early + self.trial_effect**2 * (points.trial >= 0)

    def cost(self, data: Data) -> tuple[float, Array]:
        """Negative log posterior of the hyperparameters, and its gradient."""
        p, u = data.points, self._u(data.points)
        difference = u[:, None] - u[None]
        distance, sign = np.abs(difference), np.sign(difference)
        rate_difference = p.rate[:, None] - p.rate[None]
        rates, same = _rates(p, p, self.rate_length), p.strategy[:, None] == p.strategy[None]
        shape = _matern(distance, self.length)
        common = self.amplitude**2 * shape * rates
        own = self.own_amplitude**2 * shape * same * _rates(p, p, _OWN_RATE_LENGTH)
        full = common + own
        weight = self.early_amplitude**2 * _decay(p)[:, None] * _decay(p)[None] * _time(p, p)
        weight = weight * np.where(same, 1.0, _EARLY_SHARED) * rates
        early = weight * _matern(distance, self.early_length)
        same_trial = self.trial_effect**2 * _same_trial(p, p)
        noise = self.noise**2 * data.noise_share
        matrix = full + early + same_trial
        matrix[np.diag_indices_from(matrix)] += noise + data.variance
        try:
            factor = cholesky(matrix, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(self.theta)
        weights = cho_solve((factor, True), data.value, check_finite=False)
        inner = cho_solve((factor, True), np.eye(len(p)), check_finite=False) - np.outer(weights, weights)

        # Derivatives of the two Matern terms by u, and by the logarithm of their lengths.
        by_length = self._levels(p, p, same) * _matern_slope(distance, self.length) / self.length
        by_early_length = weight * _matern_slope(distance, self.early_length) / self.early_length
        by_u = (by_length + by_early_length) * sign
        inner_u = inner * by_u
        moved = np.array([0.5 * (inner_u * rate_difference).sum()])
        rows = inner_u.sum(1)
        offsets = [float(rows[p.strategy == s].sum()) for s in range(1, self.strategies)]
        smooth = common + early
        trace = {
            "log_length": -0.5 * (inner * by_length * distance).sum(),
            "log_rate_length": 0.5 * (inner * smooth * (rate_difference / self.rate_length) ** 2).sum(),
            "shear": float(moved[0]),
            "log_amplitude": (inner * common).sum(),
            "log_own_amplitude": (inner * own).sum(),
            "log_early_length": -0.5 * (inner * by_early_length * distance).sum(),
            "log_early_amplitude": (inner * early).sum(),
            "log_noise": (np.diag(inner) * noise).sum(),
            "log_trial_effect": (inner * same_trial).sum(),
        }
        gradient = np.array([*(trace[row[0]] for row in _PRIORS), *offsets])
        mean, sigma = prior(self.strategies)
        away = (self.theta - mean) / sigma
        value = 0.5 * data.value @ weights + np.log(np.diag(factor)).sum() + 0.5 * away @ away
        return float(value), gradient + away / sigma


@dataclass(frozen=True)
class Data:
    """Readings as the surrogate wants them: `value` squashed; `noise_share` the factor on the learned
    noise variance of a row; `variance` what is known of its noise beforehand."""

    points: Points
    value: Array
    noise_share: Array
    variance: Array
    squash: Squash


def fit(data: Data, strategies: int, start: Array | None = None, steps: int = 40) -> Surrogate:
    """The most probable hyperparameters given the data, from `start` or the prior mean."""
    mean, sigma = prior(strategies)

    def cost(theta: Array) -> tuple[float, Array]:
        return Surrogate(theta, strategies).cost(data)

    found = minimize(
        cost,
        mean if start is None else start,
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(mean - 3 * sigma, mean + 3 * sigma, strict=True)),
        options={"maxiter": steps},
    )
    return Surrogate(found.x, strategies)


class Posterior:
    """The surrogate given the data; `pending` are points whose values are still to come, so that what
    they will tell is not asked for again (their believed values are the posterior means)."""

    def __init__(self, surrogate: Surrogate, data: Data, pending: Points | None = None) -> None:
        self.surrogate, self.points = surrogate, data.points
        matrix = surrogate.covariance(data.points, data.points)
        matrix[np.diag_indices_from(matrix)] += surrogate.noise**2 * data.noise_share + data.variance
        factor = _factor(matrix)
        weights = cho_solve((factor, True), data.value, check_finite=False)
        self._known, self._weights = data.points, weights
        if pending is not None and len(pending):
            everything = join(data.points, pending)
            cross = surrogate.covariance(data.points, pending)
            corner = surrogate.covariance(pending, pending)
            corner[np.diag_indices_from(corner)] += surrogate.noise**2
            lower = solve_triangular(factor, cross, lower=True, check_finite=False)
            block = _factor(corner - lower.T @ lower)
            n, m = len(data.points), len(pending)
            whole = np.zeros((n + m, n + m))
            whole[:n, :n], whole[n:, :n], whole[n:, n:] = factor, lower.T, block
            factor, self.points = whole, everything
        self._factor = factor

    def mean(self, points: Points) -> Array:
        """Expected (squashed) values at the points."""
        return self.surrogate.covariance(points, self._known) @ self._weights

    def covariance(self, a: Points, b: Points) -> Array:
        """Posterior covariance of the values at a (rows) and b (columns)."""
        return self.surrogate.covariance(a, b) - self._reach(a).T @ self._reach(b)

    def variance(self, points: Points) -> Array:
        reach = self._reach(points)
        return np.maximum(self.surrogate.variance(points) - (reach**2).sum(0), 1e-12)

    def _reach(self, points: Points) -> Array:
        cross = self.surrogate.covariance(self.points, points)
        return solve_triangular(self._factor, cross, lower=True, check_finite=False)


def pins(alpha_min: float, strategies: int, rates: Sequence[float]) -> Points:
    """Points far below the smallest alpha, for every rate (lambda) and strategy."""
    rows = [(s, math.log10(rate)) for rate in rates for s in range(strategies)]
    n = len(rows)
    return Points(
        np.full(n, math.log10(alpha_min) - _PIN_BELOW),
        np.array([s for s, _ in rows]),
        np.array([rate for _, rate in rows]),
        np.ones(n),
        np.full(n, -1),
    )


def gather(points: Points, value: Array, count: Array, variance: Array, pinned: Points) -> Data:
    """Readings and pins as data. Each row is the mean of `count` readings in percent, whose `variance`
    (percent squared) is known from the images; the learned noise comes on top."""
    finite = np.isfinite(value)
    points, value, count, variance = points.take(finite), value[finite], count[finite], variance[finite]
    best = -float(np.quantile(value, 0.1)) if len(value) else 0.0
    squash = Squash(float(np.clip(best, 1.0, 10.0)))
    slope = np.maximum(squash.slope(value), 0.1)
    n = len(pinned)
    return Data(
        join(points, pinned),
        np.concatenate([squash(value), np.zeros(n)]),
        np.concatenate([slope**2 / count, np.zeros(n)]),
        np.concatenate([slope**2 * variance + 1e-6, np.full(n, _PIN_SIGMA**2)]),
        squash,
    )


def _factor(matrix: Array) -> Array:
    """The lower Cholesky factor; what rounding has made indefinite gets as much noise as it takes."""
    noise = 0.0
    while True:
        try:
            whole = matrix + noise * np.eye(len(matrix))
            return cholesky(whole, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            noise = max(1e-9 * float(np.trace(matrix)) / len(matrix), 10 * noise)


def _rates(a: Points, b: Points, length: float) -> Array:
    # Of few distinct rates, and so of few exponentials.
    rates_a, row = np.unique(a.rate, return_inverse=True)
    rates_b, column = np.unique(b.rate, return_inverse=True)
    table = np.exp(-0.5 * ((rates_a[:, None] - rates_b[None]) / length) ** 2)
    return table[row[:, None], column[None]]


def _matern(distance: Array, length: float) -> Array:
    z = math.sqrt(5) / length * distance
    return (1 + z + z * z / 3) * np.exp(-z)


def _matern_slope(distance: Array, length: float) -> Array:
    """Derivative of `_matern` by distance / length."""
    z = math.sqrt(5) / length * distance
    return -math.sqrt(5) / 3 * z * (1 + z) * np.exp(-z)


def _decay(points: Points) -> Array:
    return 1 - points.progress


def _time(a: Points, b: Points) -> Array:
    apart = (np.log(a.progress)[:, None] - np.log(b.progress)[None]) / _TIME_SCALE
    return np.exp(-0.5 * apart**2)


def _same_trial(a: Points, b: Points) -> Array:
    return (a.trial[:, None] == b.trial[None]) & (a.trial[:, None] >= 0)
