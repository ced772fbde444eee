"""Values of the tuned settings that the surrogate considers: as in the baselines, the best known ones, a
scrambled Sobol set, and small changes of the best known ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import qmc

from search.base.dimensions import Dimension, Tuned

#: Standard deviation of a small change, as a share of the range, and its chance to take another choice.
_NEAR, _OTHER = 0.12, 0.25


def sobol(dimensions: Sequence[Dimension], count: int, draw: np.random.Generator) -> list[Tuned]:
    """The first `count` points of a scrambled Sobol sequence (Owen 1998) over the settings."""
    # Always of a power of two: a longer set begins with a shorter one.
    points = qmc.Sobol(len(dimensions), rng=draw).random_base2(count.bit_length())
    return [_values(dimensions, row) for row in points[:count]]


def nearby(dimensions: Sequence[Dimension], at: Tuned, count: int, draw: np.random.Generator) -> list[Tuned]:
    """Small changes of these values, each of about half of the settings and of one at least."""
    values, found = dict(at), []
    for _ in range(count):
        moved = draw.random(len(dimensions)) < 0.5
        moved[draw.integers(len(dimensions))] = True
        changed = dict(values)
        for dimension, moves in zip(dimensions, moved, strict=True):
            step, chance, share = draw.normal(0, _NEAR), draw.random(), draw.random()
            if not moves:
                continue
            if dimension.choices:
                if chance < _OTHER or moved.sum() == 1:
                    changed[dimension.name] = dimension.at(share)
            else:
                near = dimension.share(values[dimension.name]) + step
                changed[dimension.name] = dimension.at(min(max(near, 0.0), 1.0))
        found.append(tuple(changed.items()))
    return found


def _values(dimensions: Sequence[Dimension], shares: Sequence[float]) -> Tuned:
    return tuple(
        (dimension.name, dimension.at(float(share)))
        for dimension, share in zip(dimensions, shares, strict=True)
    )
