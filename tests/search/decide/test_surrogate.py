"""The model: its gradient, its limits, and that it learns what it is there to learn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lic.recipe import LAMBDAS
from search.decide.surrogate import (
    Array,
    Data,
    Points,
    Posterior,
    Squash,
    Surrogate,
    fit,
    gather,
    pins,
    prior,
)

RATES = tuple(LAMBDAS.values())


def points(n: int, seed: int = 0) -> Points:
    draw = np.random.default_rng(seed)
    return Points(
        draw.uniform(-8, -5, n),
        draw.integers(0, 3, n),
        np.log10(draw.choice(RATES, n)),
        draw.choice([1 / 9, 1 / 3, 1.0], n),
        draw.integers(0, n // 2, n),
    )


def truth(p: Points) -> Array:
    """An optimum that moves with the rate, and differs between the strategies."""
    u = p.alpha + 0.6 * (p.rate + 2) + np.array([0.0, 0.3, -0.2])[p.strategy] + 6.8
    level = np.array([2.0, 3.0, 2.5])[p.strategy]
    return -level * np.exp(-(u**2)) + 3 * 10 ** np.minimum(u - 0.8, 1.8)


def data(n: int, seed: int = 0, noise: float = 0.3) -> Data:
    p = points(n, seed)
    value = truth(p) + noise * np.random.default_rng(seed + 1).normal(size=n)
    return gather(p, value, np.ones(n), np.zeros(n), pins(1e-8, 3, RATES))


def test_gradient_equals_finite_differences() -> None:
    readings = data(60)
    theta = prior(3)[0] + 0.3 * np.random.default_rng(2).normal(size=len(prior(3)[0]))
    _, gradient = Surrogate(theta, 3).cost(readings)
    for i, step in enumerate(1e-5 * np.eye(len(theta))):
        up, down = (Surrogate(theta + sign * step, 3).cost(readings)[0] for sign in (1, -1))
        assert gradient[i] == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-3)


def test_it_finds_the_optimum_of_every_rate() -> None:
    readings = data(120)
    posterior = Posterior(fit(readings, 3), readings)
    grid = np.linspace(-8, -5, 61)
    for rate in RATES:
        found = []
        for strategy in range(3):
            n = len(grid)
            at = Points(grid, np.full(n, strategy), np.full(n, math.log10(rate)), np.ones(n), np.full(n, -1))
            best = int(np.argmin(posterior.mean(at)))
            found.append((float(posterior.mean(at)[best]), float(truth(at)[best]), float(truth(at).min())))
        _, true, _ = min(found)
        assert true - min(row[2] for row in found) < 0.35  # regret below the noise of one reading


def test_a_vanishing_alpha_is_the_baseline() -> None:
    readings = data(40)
    posterior = Posterior(fit(readings, 3), readings)
    far = pins(1e-8, 3, RATES)
    assert np.abs(posterior.mean(far)).max() < 0.3
    assert np.sqrt(posterior.variance(far)).max() < 0.3


def test_pending_trials_take_uncertainty_away_and_leave_the_mean() -> None:
    readings, at = data(40), points(12, 5)
    surrogate = fit(readings, 3)
    without, pending = Posterior(surrogate, readings), Posterior(surrogate, readings, at)
    assert (pending.variance(at) < without.variance(at)).all()
    assert pending.mean(at) == pytest.approx(without.mean(at))
    assert np.diag(pending.covariance(at, at)) == pytest.approx(pending.variance(at), rel=1e-6)


def test_known_noise_and_averages_count() -> None:
    """A reading known to be noisy, or one of few, says less."""
    p, value = points(30), np.full(30, -2.0)
    spread = []
    for count, variance in ((1.0, 0.0), (1.0, 4.0), (5.0, 0.0)):
        readings = gather(p, value, np.full(30, count), np.full(30, variance), pins(1e-8, 3, RATES))
        surrogate = Surrogate(prior(3)[0], 3)
        spread.append(Posterior(surrogate, readings).variance(p).mean())
    assert spread[2] < spread[0] < spread[1]


def test_squash_keeps_savings_and_compresses_harm() -> None:
    squash = Squash(2.0)
    values = np.array([-8.0, -0.1, 0.0, 0.01, 300.0])
    assert squash(values)[:3] == pytest.approx(values[:3])
    assert squash(values)[3] == pytest.approx(0.01, rel=0.01)
    assert squash(values)[4] == pytest.approx(2 * math.log(151))


def test_what_is_not_a_number_is_left_out() -> None:
    p = points(10)
    value = np.full(10, -1.0)
    value[3], value[4] = np.nan, np.inf
    readings = gather(p, value, np.ones(10), np.zeros(10), pins(1e-8, 3, RATES))
    assert len(readings.points) == 8 + 18
    assert np.isfinite(readings.value).all()


def test_the_same_point_many_times_does_not_break_it() -> None:
    """Repeated points make the covariance singular but for the noise."""
    p = points(3).take(np.zeros(80, int))
    readings = gather(p, np.full(80, -1.0), np.full(80, 1e12), np.zeros(80), pins(1e-8, 3, RATES))
    posterior = Posterior(Surrogate(prior(3)[0], 3), readings, p.take(np.arange(40)))
    assert posterior.mean(p.take(np.array([0])))[0] == pytest.approx(-1.0, abs=0.1)
