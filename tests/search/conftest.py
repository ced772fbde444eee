"""One real search that several test modules look at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SHARED

HAVE_DATA = (SHARED / "kodak").is_dir() and (SHARED / "bsds500").is_dir()


def run_search(results: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "search.run", "--results", str(results), "--name", name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A search of the tiny preset on two workers, shortened; on the photographs if they are there."""
    results = tmp_path_factory.mktemp("results")
    images = ["--test", "deadleaves"]
    if HAVE_DATA:
        images = ["--data", str(SHARED / "bsds500"), "--kodak", str(SHARED / "kodak")]
    done = run_search(
        results, "real", "--model", "hyperprior", "--preset", "tiny", "--budget", "8", "--epochs", "3",
        "--steps-per-epoch", "30", "--val-images", "8", "--workers", "2", *images,
    )  # fmt: skip
    return results, done
