"""The term of the surrogate for tuned settings of the training, beside that of alpha and strategy.

What they change adds to the effect of alpha: a Gaussian process h(x) at full length and (1 - t) e(x) early,
each given that it is 0 where all settings are as in the baselines, with a length for every setting
(automatic relevance determination), so that one without effect drops out.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

#: The part that all rates share.
_SHARED = 0.5

#: name: prior mean, prior standard deviation. Amplitudes in percent.
_AMPLITUDES: dict[str, tuple[float, float]] = {
    "log_amplitude": (math.log(1.5), 0.6),
    "log_early_amplitude": (math.log(1.0), 0.6),
}

#: The same of the logarithm of each setting's length, in parts of its range. With a length of several ranges
#: a setting has no effect.
_LENGTH = (math.log(0.7), 0.8)


def tuned_priors(settings: int) -> list[tuple[float, float]]:
    """Prior mean and standard deviation of the hyperparameters of so many tuned settings; none of none."""
    return [*_AMPLITUDES.values(), *[_LENGTH] * settings] if settings else []


class TunedTerm:
    """The term under hyperparameters `theta`, one for each of `tuned_priors`. Settings are given as rows of
    coordinates (search.base.dimensions.Dimension.coordinate)."""

    def __init__(self, theta: Tensor) -> None:
        self._amplitude, self._early_amplitude = theta[: len(_AMPLITUDES)].exp()
        self._lengths = theta[len(_AMPLITUDES) :].exp()

    def covariance(self, a: Array, b: Array, left: Tensor, rates: Tensor) -> Tensor:
        """Prior covariance of a (rows) and b (columns), given (1 - t) of both multiplied, and the correlation
        of their rates."""
        origin = np.zeros((1, a.shape[1]))
        given = self._alike(a, b) - self._alike(a, origin) * self._alike(origin, b)
        return self._size(left) * given * (_SHARED + (1 - _SHARED) * rates)

    def variance(self, a: Array, left: Tensor) -> Tensor:
        """The diagonal of `covariance(a, a)`, given (1 - t)^2."""
        return self._size(left) * (1 - self._alike(a, np.zeros((1, a.shape[1])))[:, 0] ** 2)

    def _size(self, left: Tensor) -> Tensor:
        return self._amplitude**2 + self._early_amplitude**2 * left

    def _alike(self, a: Array, b: Array) -> Tensor:
        """The correlation of unconditioned values. Any two choices are 1 apart."""
        distance = torch.from_numpy(np.minimum(np.abs(a[:, None] - b[None]), 1.0)) / self._lengths
        # The root of 0 has no gradient.
        return matern((distance**2).sum(-1).clamp(min=1e-12).sqrt())


def matern(z: Tensor) -> Tensor:
    """The Matern kernel of smoothness 5/2 at these distances in lengths."""
    z = math.sqrt(5) * z
    return (1 + z + z * z / 3) * (-z).exp()
