"""How often a confirmation that looks after every seed decides wrongly, by the interval that it looks at.

    python -m tests.bench.racing --out docs/bench/racing.csv

Simulates points of a known rate change that are trained on one fresh seed after another, until an interval
of 95 % excludes 0 or the limit of seeds is reached (`search.run --confirm --seeds`):

    bootstrap        seeds and images drawn with repetition, percentiles
    t                search.records.curves.interval_over_seeds, without a correction
    t, corrected     the same with the 5 % shared among the looks (Bonferroni): what the search uses

A rate change is measured as effect + seed + image + both, all normal; `effect` is in standard deviations
between seeds. `excluded` counts intervals that did not hold the true effect when the looking ended.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lic.files import path_argument, whole_argument
from search.records.curves import interval_over_seeds

LIMITS, EFFECTS = (2, 3, 5, 10), (0.0, 1.0, 2.0, 4.0, 8.0)

#: Images, and the standard deviations of what an image and an image of one seed add.
IMAGES, OF_IMAGE, OF_BOTH = 24, 1.0, 1.0

#: Resamples of a bootstrap.
RESAMPLES = 200

Array = NDArray[np.float64]
Ends = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One interval, limit of seeds and effect: the percentages of points that were decided, and of those
    whose last interval did not hold the effect, and the mean number of seeds."""

    interval: str
    limit: int
    effect: float
    decided: float
    excluded: float
    seeds: float


def bootstrap(table: Array, looks: int, draw: np.random.Generator) -> Ends:  # noqa: ARG001
    """Ends of the two-level bootstrap of a table of seeds x images."""
    seeds, images = table.shape
    weights = draw.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    shares = draw.multinomial(images, np.full(images, 1 / images), RESAMPLES) / images
    low, high = np.percentile(((weights @ table) * shares).sum(1), [2.5, 97.5])
    return float(low), float(high)


def plain(table: Array, looks: int, draw: np.random.Generator) -> Ends:  # noqa: ARG001
    return corrected(table, 1, draw)


def corrected(table: Array, looks: int, draw: np.random.Generator) -> Ends:  # noqa: ARG001
    images = table.shape[1]
    sigma = float(np.std(table.mean(0), ddof=1) / np.sqrt(images))
    found = interval_over_seeds(table.mean(1).tolist(), sigma, images, looks)
    return found.low, found.high


INTERVALS: dict[str, Callable[[Array, int, np.random.Generator], Ends]] = {
    "bootstrap": bootstrap, "t": plain, "t, corrected": corrected,
}  # fmt: skip


def race(name: str, limit: int, effect: float, points: int, seed: int = 0) -> Row:
    """Points that are looked at after their second and every later seed."""
    draw = np.random.default_rng([seed, limit, round(100 * effect)])
    decided, excluded, used = 0, 0, 0
    for _ in range(points):
        table = effect + draw.normal(size=(limit, 1)) + OF_IMAGE * draw.normal(size=(1, IMAGES))
        table = table + OF_BOTH * draw.normal(size=(limit, IMAGES))
        for seeds in range(2, limit + 1):
            low, high = INTERVALS[name](table[:seeds], limit - 1, draw)
            if low > 0 or high < 0:
                break
        decided += low > 0 or high < 0
        excluded += not low <= effect <= high
        used += seeds
    return Row(name, limit, effect, 100 * decided / points, 100 * excluded / points, used / points)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.racing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--points", type=whole_argument(1, 1_000_000), default=2000, help="points of every row"
    )
    parser.add_argument("--out", type=path_argument, metavar="FILE", help="CSV file to write")
    args = parser.parse_args()
    rows = [race(name, limit, e, args.points) for name in INTERVALS for limit in LIMITS for e in EFFECTS]
    table = pd.DataFrame([asdict(row) for row in rows])
    print(table.to_string(index=False, float_format=lambda value: f"{value:.1f}"))
    if args.out:
        table.to_csv(args.out, index=False, float_format="%.4g")
    return 0


if __name__ == "__main__":
    sys.exit(main())
