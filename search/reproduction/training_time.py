"""The increase of training time by the decorrelation loss: the paper's Table III."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lic.evaluation.bdrate import Interval
from search.base.space import BASELINE

_RESAMPLES = 1000


@dataclass(frozen=True)
class TrainingTime:
    """The training time of a strategy, or of the baselines.

    `seconds` is the median over training runs of their fastest epoch. `increase` is its increase over the
    baselines in percent, with a 95 % interval by bootstrap over training runs; None for the baselines, and if
    the strategy or the baselines have fewer than two training runs.
    """

    strategy: str
    trainings: int
    seconds: float
    increase: Interval | None

    @property
    def distinguishable(self) -> bool:
        """Whether the interval of the increase excludes 0."""
        return self.increase is not None and (self.increase.low > 0 or self.increase.high < 0)


def training_times(fastest: Mapping[str, Sequence[float]]) -> list[TrainingTime]:
    """Table III of Pakdaman and Gabbouj (2024), from the seconds of the fastest epoch (or of one of its
    steps) of each training run, by strategy and for BASELINE.

    The fastest epoch is the one least affected by other load on the machine; medians over all epochs would
    compare busy hours with idle ones. The training runs must have the same length, since the fastest of many
    epochs is faster than the fastest of few, and run on the same kind of device.
    """
    draw, plain = np.random.default_rng(0), np.array(fastest.get(BASELINE, ()))
    found = []
    for strategy, of_trainings in fastest.items():
        values, increase = np.array(of_trainings), None
        if min(len(values), len(plain)) > 1:
            ratios = [
                np.median(draw.choice(values, len(values))) / np.median(draw.choice(plain, len(plain)))
                for _ in range(_RESAMPLES)
            ]
            low, high = 100 * (np.percentile(ratios, [2.5, 97.5]) - 1)
            value = 100 * (np.median(values) / np.median(plain) - 1)
            increase = Interval(float(value), float(low), float(high))
        own = strategy == BASELINE
        found.append(TrainingTime(strategy, len(values), float(np.median(values)), None if own else increase))
    return found
