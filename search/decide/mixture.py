"""The surrogate with its doubt about where z acts: posteriors under several places, weighed by their
probabilities (a quadrature over the one hyperparameter whose posterior has several modes)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.decide.surrogate import PRIORS, Array, Data, Points, Posterior, prior

#: Decades between the places, how many on either side at most, and the surprise (nats beyond the least) from
#: which one is left out.
_STEP, _MOST, _UNLIKELY = 1.0, 6, 4.0


def places(data: Data, strategies: Sequence[str], theta: Array) -> Mixture:
    """The posteriors under hyperparameters that differ from `theta` in how much further right the strategies
    without the first one's latent act, weighed by their probabilities.

    Readings of z where it is inert fit any such place, so the most probable one says nothing of the others: a
    search that believed it never looked where z saves bits."""
    mean, sigma = prior(strategies, data.settings)
    free = (np.arange(len(theta)) >= len(PRIORS)) & (sigma > _STEP)
    here = Posterior(theta, data)
    found = [here]
    for step in range(-_MOST, _MOST + 1):
        moved = theta + step * _STEP * free
        if step and free.any() and (np.abs(moved - mean) <= 2 * sigma)[free].all():
            found.append(Posterior(moved, data, here.data))
    surprise = [part.surprise() + 0.5 * (((part.theta - mean) / sigma) ** 2).sum() for part in found]
    likely = [(s, part) for s, part in zip(surprise, found, strict=True) if s < min(surprise) + _UNLIKELY]
    weights = np.exp([min(surprise) - s for s, _ in likely])
    return Mixture([part for _, part in likely], weights / weights.sum())


class Mixture:
    """Posteriors under several hyperparameters, weighed by their probabilities: a mean and a covariance of
    the whole, as of a Gaussian process."""

    def __init__(self, parts: Sequence[Posterior], weights: Array) -> None:
        self.parts, self.weights = parts, weights

    def awaiting(self, pending: Points) -> Mixture:
        """What will be known once trials at `pending` have ended; their expected values are the means."""
        return Mixture([part.awaiting(pending) for part in self.parts], self.weights)

    def mean(self, points: Points) -> Array:
        """Expected squashed values at the points."""
        return self.weights @ np.array([part.mean(points) for part in self.parts])

    def joint(self, points: Points) -> tuple[Array, Array]:
        """Expected squashed values at the points and their posterior covariance."""
        mean, apart = self._means(points)
        within = sum(w * part.covariance(points) for w, part in zip(self.weights, self.parts, strict=True))
        return mean, np.asarray(within + apart.T @ apart)

    def each(self, points: Points) -> tuple[Array, Array]:
        """Expected squashed values at the points and their posterior standard deviations."""
        mean, apart = self._means(points)
        within = self.weights @ np.array([part.std(points) ** 2 for part in self.parts])
        return mean, np.sqrt(within + (apart**2).sum(0))

    def noise(self, points: Points) -> Array:
        """Standard deviation of a new training's reading at the points (percent, of no harm)."""
        return self.parts[0].noise(points)

    def _means(self, points: Points) -> tuple[Array, Array]:
        """The mean, and how far each part's is from it, times the root of the part's weight."""
        means = np.array([part.mean(points) for part in self.parts])
        mean = self.weights @ means
        return mean, np.sqrt(self.weights)[:, None] * (means - mean)
