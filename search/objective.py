"""The objective of a trial: its rate change against the baseline of the same rate and epoch."""

from __future__ import annotations

from collections.abc import Mapping


def rate_change(
    trial: Mapping[str, float], baseline: Mapping[str, float], image_set: str, lmbda: float
) -> float:
    """100 (J - J0) / R0 in percent, J = R + lambda_d D; negative saves bits.

    Both readings are of the same epoch and seed and hold '<image_set>/bpp' and '<image_set>/mse'.
    Along a codec's own RD curve dR/dD = -lambda_d, so to first order this is the change of bit
    rate at equal quality.
    """
    rate, cost = (f"{image_set}/bpp", f"{image_set}/mse")
    difference = (trial[rate] - baseline[rate]) + lmbda * (trial[cost] - baseline[cost])
    return 100 * difference / baseline[rate]
