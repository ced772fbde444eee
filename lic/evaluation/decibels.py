"""Conversion of MS-SSIM to dB, used by image metrics and rate-distortion curves."""

from __future__ import annotations

from typing import overload

import numpy as np
from numpy.typing import NDArray


@overload
def ms_ssim_to_db(ms_ssim: float) -> float: ...
@overload
def ms_ssim_to_db(ms_ssim: NDArray[np.float64]) -> NDArray[np.float64]: ...
def ms_ssim_to_db(ms_ssim: float | NDArray[np.float64]) -> float | NDArray[np.float64]:
    """-10 log10(1 - MS-SSIM), as CompressAI reports it. Identical images (1, or more by rounding) give
    infinity; NaN (not measured) stays NaN."""
    with np.errstate(divide="ignore"):
        found = -10 * np.log10(np.maximum(1 - np.asarray(ms_ssim), 0))
    # A Python float: torch.load with weights_only rejects NumPy scalars in checkpoints.
    return found if isinstance(ms_ssim, np.ndarray) else float(found)
