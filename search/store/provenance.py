"""The provenance of a search: settings, code, machine and images, as recorded in its folder and in MLflow."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from lic.cli import command
from search.base.secrets import public

if TYPE_CHECKING:
    from lic.data.sets import ImageSet

ENVIRONMENT = "environment.json"

#: Keys for the test images: the name of the set, which prefixes its metrics, and why MS-SSIM is undefined, if
#: it is.
TEST_SET, WITHOUT_MS_SSIM = "test_set", "without_ms_ssim"

_VERSIONS = ("lictune", "torch", "compressai", "ray", "optuna", "mlflow", "numpy")


def provenance(images: tuple[ImageSet, ...]) -> dict[str, str]:
    """Code, command, machine, versions and images (training, validation, test) of a search."""
    root = Path(__file__).resolve().parents[2]
    try:
        git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
        commit = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = "unknown"
    return {
        "git_commit": commit,
        "command": public(command("search.run", *sys.argv[1:])),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        **{f"version_{name}": version(name) for name in _VERSIONS},
        **{
            f"{role}_fingerprint": part.images.fingerprint
            for role, part in zip(("train", "val", "test"), images, strict=True)
        },
        TEST_SET: images[2].name,
        **({WITHOUT_MS_SSIM: reason} if (reason := without_ms_ssim(images[2])) else {}),
    }


def without_ms_ssim(images: ImageSet) -> str:
    """Why MS-SSIM is undefined for the set; empty if it is defined."""
    from lic.evaluation.msssim import unmeasurable

    return unmeasurable((image.name, image.height, image.width) for image in images.images.images)
