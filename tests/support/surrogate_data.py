"""Made-up readings for the surrogate, and its posteriors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from lic.recipe import LAMBDAS
from search.decide.surrogate import PRIORS, Array, Data, Points, Posterior, fit, gather, pins, prior

STRATEGIES = ("y", "z", "y+z")
RATES = tuple(LAMBDAS.values())
LOWEST, HIGHEST = min(RATES), max(RATES)

#: log10 alpha far below any harm, and in the harm of the highest rate.
HARMLESS, HARMFUL = -8.5, -4.5

Row = tuple[float, ...]


def points(n: int, seed: int = 0) -> Points:
    """Points of two trials in a row, anywhere."""
    draw = np.random.default_rng(seed)
    columns = (
        draw.uniform(-8, -5, n),
        draw.integers(0, 3, n),
        np.log10(draw.choice(RATES, n)),
        draw.choice([1 / 9, 1 / 3, 1.0], n),
        np.arange(n) // 2,
    )
    return Points.of(list(zip(*columns, strict=True)))


def truth(p: Points) -> Array:
    """A useful window that moves down with the rate, differs between the strategies, and ends in harm."""
    u = p.alpha + (p.log_lmbda + 2) + np.array([0.0, -1.5, 0.0])[p.strategy] + 6.8
    level = np.array([2.0, 3.0, 2.5])[p.strategy]
    return -level * np.exp(-(u**2)) + 3 * 10 ** np.minimum(u - 0.8, 1.8)


def rows_of(p: Points, value: Array, count: float = 1.0, variance: float = 0.0) -> list[Row]:
    """The points as `gather` takes them."""
    n = len(p)
    columns = (p.alpha, p.strategy, p.log_lmbda, p.progress, p.trial, value, [count] * n, [variance] * n)
    return list(zip(*columns, strict=True))


def gathered(rows: Sequence[Row]) -> Data:
    return gather(rows, pins(1e-8, len(STRATEGIES), RATES))


def data(n: int, seed: int = 0, noise: float = 0.3) -> Data:
    p = points(n, seed)
    return gathered(rows_of(p, truth(p) + noise * np.random.default_rng(seed + 1).normal(size=n)))


def final(alphas: Sequence[float] | Array, strategy: int, lmbda: float) -> Points:
    """These log10 alphas at full length, without what a training's seed adds."""
    return Points.of([(alpha, strategy, math.log10(lmbda), 1.0, -1) for alpha in alphas])


def replace_trials(p: Points) -> Points:
    """The same, each of a training of its own."""
    return dataclasses.replace(p, trial=np.arange(len(p)))


def posterior_of(readings: Data, theta: Array | None = None, pending: Points | None = None) -> Posterior:
    theta = fit(readings, STRATEGIES) if theta is None else theta
    posterior = Posterior(theta, readings)
    return posterior if pending is None else posterior.awaiting(pending)


def usual(**changes: float) -> Array:
    """The prior means, but for some."""
    theta = prior(STRATEGIES)[0]
    for name, value in changes.items():
        theta[list(PRIORS).index(name)] = value
    return theta
