"""How much of equation (9) is chance for independent channels: `python -m tests.bench.chance`.

Latents of independent Gaussian channels of unit variance have nothing to decorrelate. `sum` is what equation
(9) gives them per position: the diagonal, which is variance, and the off-diagonal part, which is chance
alone. `pooled_%` is the off-diagonal part of one covariance matrix over batch and positions, as a share of
the same sum. `doubles_at` is the correlation between all channels at which the off-diagonal part is twice its
chance level; the sum hardly reacts to weaker ones.
"""

from __future__ import annotations

import argparse
import math

import pandas as pd
import torch
from torch import Tensor

from lic.losses.regularizers import covariance, off_diagonal, pooled

#: Positions of y at the paper's 256 x 256.
POSITIONS = (16, 16)


def row(batch: int, channels: int, generator: torch.Generator) -> dict[str, float]:
    """The parts of the sum for a batch size and a number of channels."""
    features = torch.randn(batch, channels, *POSITIONS, generator=generator)
    total, apart = float(covariance(features)), float(off_diagonal(features))
    count = math.prod(POSITIONS)
    return {
        "batch": batch, "channels": channels, "sum": total / count,
        "diagonal_%": 100 * (1 - apart / total), "chance_%": 100 * apart / total,
        "pooled_%": 100 * float(pooled(features)) / total, "doubles_at": doubling(features, generator),
    }  # fmt: skip


def doubling(features: Tensor, generator: torch.Generator) -> float:
    """The correlation of all channels that doubles the off-diagonal part, by bisection."""
    shared = torch.randn(features[:, :1].shape, generator=generator)
    chance, low, high = float(off_diagonal(features)), 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        mixed = math.sqrt(1 - middle) * features + math.sqrt(middle) * shared
        low, high = (middle, high) if float(off_diagonal(mixed)) < 2 * chance else (low, middle)
    return low


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 8, 16], help="batch sizes N")
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 128], help="numbers of channels")
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    table = pd.DataFrame(
        [row(batch, channels, generator) for channels in args.channels for batch in args.batch]
    )
    print(table.to_string(index=False, float_format="{:.3g}".format))


if __name__ == "__main__":
    main()
