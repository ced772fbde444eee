"""What a library's Gaussian process makes of the same search, for tests.bench.samplers: scikit-learn's, with
lambda as an input, and Optuna's expected improvement over it.

Every trial is trained in full, the rates take turns; the model sees log10 alpha, log10 lambda and the
strategies one by one, and values whose harm is compressed as the search's own does. The kernel is what a
user of a library would write, fitted by maximum likelihood; the next point is the one of a grid with the
largest expected improvement at its rate, and the model's lowest mean is kept, or the baseline.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from lic.models.architectures import STRATEGIES
from lic.recipe import LAMBDAS
from search.decide.surrogate import squash
from search.simulation.surfaces import Curve
from tests.bench.sides import ALPHAS, Choice, Found, spread

#: Values of alpha per rate and strategy among which the next is chosen.
_GRID = 48


def library_gp(surface: Curve, epochs: int, seed: int, budget: int = 64) -> Found:
    """The recommended points of a search by scikit-learn's process, and the trials' epochs."""
    points = [(p.alpha, p.strategy or "", p.quality) for p in spread(seed, 12)]
    values = [surface(alpha, s, LAMBDAS[q], epochs, seed) for alpha, s, q in points]
    model = GaussianProcessRegressor(_kernel(), n_restarts_optimizer=1, random_state=0)
    for number in range(len(points), budget):
        quality = list(LAMBDAS)[number % len(LAMBDAS)]
        _fit(model, points, values)
        candidates = [(float(a), s, quality) for s in STRATEGIES for a in np.geomspace(*ALPHAS, _GRID)]
        mean, std = model.predict(_inputs(candidates), return_std=True)
        own = [row for row, point in enumerate(points) if point[2] == quality]
        best = min(0.0, *model.predict(_inputs([points[row] for row in own])))
        z = (best - mean) / np.maximum(std, 1e-9)
        chosen = candidates[int(np.argmax(std * (z * norm.cdf(z) + norm.pdf(z))))]
        points.append(chosen)
        values.append(surface(chosen[0], chosen[1], LAMBDAS[quality], epochs, seed))
    _fit(model, points, values)
    found: Choice = {}
    for quality in LAMBDAS:
        own = [row for row, point in enumerate(points) if point[2] == quality]
        mean = model.predict(_inputs([points[row] for row in own]))
        alpha, strategy, _ = points[own[int(np.argmin(mean))]]
        found[quality] = (alpha, strategy) if mean.min() < 0 else (0.0, "")
    return Found(found, budget * epochs)


def _kernel() -> ConstantKernel:
    lengths = [1.0, 1.0] + [1.0] * len(STRATEGIES)
    signal = ConstantKernel(9.0, (0.1, 1e3)) * Matern(lengths, (0.1, 30.0), nu=2.5)
    return signal + WhiteKernel(0.25, (1e-3, 10.0))


def _inputs(points: list[tuple[float, str, int]]) -> NDArray[np.float64]:
    rows = [
        (math.log10(alpha), math.log10(LAMBDAS[quality]), *(strategy == name for name in STRATEGIES))
        for alpha, strategy, quality in points
    ]
    return np.array(rows, float)


def _fit(model: GaussianProcessRegressor, points: list[tuple[float, str, int]], values: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(_inputs(points), squash(np.array(values)))
