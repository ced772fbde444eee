"""MS-SSIM in dB, where the measures of images and the rate-distortion curves both take it from."""

from __future__ import annotations

from typing import overload

import numpy as np
from numpy.typing import NDArray


@overload
def ms_ssim_to_db(ms_ssim: float) -> float: ...
@overload
def ms_ssim_to_db(ms_ssim: NDArray[np.float64]) -> NDArray[np.float64]: ...
def ms_ssim_to_db(ms_ssim: float | NDArray[np.float64]) -> float | NDArray[np.float64]:
    """-10 log10(1 - MS-SSIM), as CompressAI reports it: identical images (1, or more by rounding) give
    infinity, and NaN, of what could not be measured, stays NaN."""
    with np.errstate(divide="ignore"):
        found = -10 * np.log10(np.maximum(1 - np.asarray(ms_ssim), 0))
    # A plain float: no checkpoint read with weights_only may hold NumPy's.
    return found if isinstance(ms_ssim, np.ndarray) else float(found)
