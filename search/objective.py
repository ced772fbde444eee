"""The objective of a trial: its rate change against the baseline of the same rate and epoch."""

from __future__ import annotations

from collections.abc import Mapping


def rd_cost(figures: Mapping[str, float], image_set: str, lmbda: float) -> float:
    """J = R + lambda_d D, in bits per pixel, of a reading that holds '<image_set>/bpp' and
    '<image_set>/mse' (mean squared error on the 0..255 scale)."""
    return figures[f"{image_set}/bpp"] + lmbda * figures[f"{image_set}/mse"]


def rate_change(
    trial: Mapping[str, float], baseline: Mapping[str, float], image_set: str, lmbda: float
) -> float:
    """100 (J - J0) / R0 in percent, J = R + lambda_d D; negative saves bits.

    Both readings are of the same epoch and seed, as `rd_cost` needs them.
    Along a codec's own RD curve dR/dD = -lambda_d, so to first order this is the change of bit
    rate at equal quality.
    """
    difference = rd_cost(trial, image_set, lmbda) - rd_cost(baseline, image_set, lmbda)
    return 100 * difference / baseline[f"{image_set}/bpp"]
