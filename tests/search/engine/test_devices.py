"""The number of GPUs is torch's, whatever CUDA_VISIBLE_DEVICES says."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest
import torch

from search.engine import devices


class Driver:
    """Stands in for NVIDIA's library on a machine with four GPUs."""

    def __init__(self, _name: str) -> None:
        pass

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetCount_v2(self, number: Any) -> int:  # noqa: N802
        number._obj.value = 4
        return 0


@pytest.mark.parametrize(
    ("listed", "expected"),
    [(None, 4), ("0", 1), ("2,0", 2), ("0,1,2,3", 4), ("0,7,1", 1), ("7", 0), ("1,1", 0), ("0,1,2,3,4", 4)],
)
def test_gpus_are_counted_as_torch_counts_them(
    monkeypatch: pytest.MonkeyPatch, listed: str | None, expected: int
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if listed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    monkeypatch.setattr(ctypes, "CDLL", Driver)
    monkeypatch.setattr(Path, "exists", lambda _path: True)  # a torch that is built with CUDA
    monkeypatch.setattr(torch.cuda, "_raw_device_count_nvml", lambda: 4)
    assert devices._by_the_driver() == expected == torch.cuda._device_count_nvml()


@pytest.mark.parametrize("listed", ["", "-1", "GPU-8932f937", "MIG-0", "all", "0, 1", "1gpu"])
def test_other_names_of_gpus_are_left_to_torch(monkeypatch: pytest.MonkeyPatch, listed: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    monkeypatch.setattr(ctypes, "CDLL", Driver)
    assert devices._by_the_driver() is None


def test_torch_is_asked_where_the_driver_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> None:
        raise OSError

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert devices._by_the_driver() is None
    monkeypatch.setattr(Path, "glob", lambda _path, _pattern: iter(["/dev/nvidia0"]))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices.count() == 3
