"""ASHA's stopping rule, kept per rate: Li et al. (2020), 'A system for massively parallel
hyperparameter tuning', in its stopping variant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def rungs(epochs: int, grace: int, eta: int) -> tuple[int, ...]:
    """The epochs grace, grace*eta, grace*eta^2, ... before the last, at which a trial may stop."""
    levels, level = [], grace
    while level < epochs:
        levels.append(level)
        level *= eta
    return tuple(levels)


def should_stop(value: float, others: Sequence[float], eta: int) -> bool:
    """Whether a trial with this rate change at a rung is not among the best 1/eta of those that
    reached the same rung of the same rate before it. The first to arrive goes on."""
    return len(others) > 0 and value > float(np.percentile(others, 100 / eta))
