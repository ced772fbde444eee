"""What a library's Gaussian process would make of the same search: scikit-learn's kernels in the place of
search.surrogate, everything else (acquisition, stopping, recommendation) alike. For tests.bench.samplers.

The kernel is what a user of a library would write: constant * Matern 5/2 with a length per input over (log10
alpha, log10 lambda, epoch fraction, one input per strategy) + white noise, fitted by maximum likelihood.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from search.decide.surrogate import Array, Data, Points


class LibrarySurrogate:
    """Surrogate's interface (search.decide) over scikit-learn's kernels; `theta` is the kernel's own."""

    trial_effect = 0.0

    def __init__(self, theta: Array, strategies: int) -> None:
        self.theta, self._strategies = np.asarray(theta, float), strategies
        kernel = _kernel(strategies).clone_with_theta(self.theta)
        self._signal, self.noise = kernel.k1, float(np.sqrt(kernel.k2.noise_level))

    def covariance(self, a: Points, b: Points) -> Array:
        return self._signal(_inputs(a, self._strategies), _inputs(b, self._strategies))

    def variance(self, points: Points) -> Array:
        return self._signal.diag(_inputs(points, self._strategies))


def _kernel(strategies: int) -> ConstantKernel:
    lengths = [1.0, 1.0, 1.0] + [1.0] * strategies
    signal = ConstantKernel(9.0, (0.1, 1e3)) * Matern(lengths, (0.1, 30.0), nu=2.5)
    return signal + WhiteKernel(0.25, (1e-3, 10.0))


def _inputs(points: Points, strategies: int) -> Array:
    one_hot = points.strategy[:, None] == np.arange(strategies)
    return np.column_stack([points.alpha, points.rate, points.progress, one_hot])


def _fit(data: Data, strategies: int, start: Array | None = None, steps: int = 0) -> LibrarySurrogate:  # noqa: ARG001
    regressor = GaussianProcessRegressor(
        _kernel(strategies), alpha=data.variance, n_restarts_optimizer=1, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        regressor.fit(_inputs(data.points, strategies), data.value)
    return LibrarySurrogate(regressor.kernel_.theta, strategies)


@contextmanager
def library_surrogate() -> Iterator[None]:
    """Let the search's sampler, stopping and recommendation use scikit-learn's process."""
    with patch("search.decide.belief.Surrogate", LibrarySurrogate), patch("search.decide.belief.fit", _fit):
        yield
