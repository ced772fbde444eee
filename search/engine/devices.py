"""The GPUs of this machine, counted as torch counts them, without the seconds that importing torch takes."""

from __future__ import annotations

import ctypes
import os
import re
from importlib.util import find_spec
from pathlib import Path


def count() -> int:
    """How many GPUs torch can use here."""
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
        return 0
    found = _by_the_driver()
    if found is not None:
        return found
    import torch

    return torch.cuda.device_count()


def _by_the_driver() -> int | None:
    """The GPUs that NVIDIA's driver has, of those whose numbers CUDA_VISIBLE_DEVICES lists; None where only
    torch can tell: other names are listed, torch is built without CUDA, or the driver does not answer."""
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
        return 0  # CUDA takes a list that repeats itself for none
    unknown = [place for place, each in enumerate(order) if each >= number.value]
    return unknown[0] if unknown else len(order)  # it reads up to the first that is not there
