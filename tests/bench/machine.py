"""What a benchmark ran on, for the lines below its table."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from lic.models.acceleration import device_name


def described(*packages: str) -> str:
    """Machine, versions (Python, torch and `packages`), command and date, in three lines."""
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *packages))
    module = Path(sys.argv[0]).resolve().stem
    processor, cores = device_name("cpu"), len(os.sched_getaffinity(0))
    return (
        f"{processor}, {cores} cores{device}; Python {platform.python_version()}, "
        f"{versions}\n"
        f"python -m tests.bench.{module} {shlex.join(sys.argv[1:])}\n"
        f"{datetime.date.today():%Y-%m-%d}"
    )
