"""Counts the GPUs of this machine like torch, without importing torch, which takes seconds."""

from __future__ import annotations

import ctypes
import os
import re
from importlib.util import find_spec
from pathlib import Path


def count() -> int:
    """The number of GPUs that torch can use."""
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
        return 0
    found = _by_the_driver()
    if found is not None:
        return found
    import torch

    return torch.cuda.device_count()


def _by_the_driver() -> int | None:
    """The number of GPUs by NVIDIA's driver, restricted by CUDA_VISIBLE_DEVICES; None if only torch can tell:
    the variable has other names than numbers, torch is built without CUDA, or the driver does not answer."""
    listed, torch = os.environ.get("CUDA_VISIBLE_DEVICES"), find_spec("torch")
    numbers = re.fullmatch(r"\d+(,\d+)*", listed) if listed is not None else None
    if torch is None or torch.origin is None or (listed is not None and numbers is None):
        return None
    if not (Path(torch.origin).parent / "lib" / "libtorch_cuda.so").exists():
        return None
    number = ctypes.c_uint()
    try:
        driver = ctypes.CDLL("libnvidia-ml.so.1")
        if driver.nvmlInit_v2() or driver.nvmlDeviceGetCount_v2(ctypes.byref(number)):
            return None
    except (OSError, AttributeError):
        return None
    if listed is None:
        return number.value
    order = [int(text) for text in listed.split(",")]
    if len(set(order)) < len(order):
        return 0  # CUDA treats a list with duplicates as empty
    unknown = [place for place, each in enumerate(order) if each >= number.value]
    return unknown[0] if unknown else len(order)  # CUDA reads up to the first invalid number
