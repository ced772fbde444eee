"""What a command imports before it has anything to do: nothing that takes seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: None of these is needed to print help or settings, or to refuse a flag.
HEAVY = {
    "compressai", "matplotlib", "mlflow", "optuna", "pandas", "plotly", "pyarrow", "ray", "scipy",
    "sqlalchemy", "sympy", "torch", "torch_geometric", "torchvision", "triton",
}  # fmt: skip

#: By command what makes its command line complete but for the flag that is misspelt.
COMMANDS = {
    "search.run": [],
    "search.simulate": [],
    "search.export": ["last"],
    "search.track": ["last"],
    "search.reproduce": [],
    "dashboards.report": ["last"],
    "dashboards.open": ["last"],
    "lic.codec encode": ["a.png", "a.lic", "--zoo", "zoo"],
    "lic.codec decode": ["a.lic", "a.png"],
    "lic.training.starter": ["cheng", "--width", "8"],
}


def imported(command: str, *arguments: str) -> tuple[int, str, set[str]]:
    """The exit status of a command in a new process, what it said, and the packages that it imported."""
    line = [sys.executable, "-X", "importtime", "-m", *command.split(), *arguments]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)
    said, found = done.stdout, set()
    for text in done.stderr.splitlines(keepends=True):
        if text.startswith("import time:"):
            found.add(text.rpartition("|")[2].strip().partition(".")[0])
        else:
            said += text
    assert {"argparse", "lic"} <= found
    return done.returncode, said, found


@pytest.mark.parametrize("command", ["lic.codec.__main__", *COMMANDS])
def test_help_imports_nothing_heavy(command: str) -> None:
    status, said, found = imported(command, "--help")
    assert status == 0 and said.startswith("usage: ") and not found & HEAVY


@pytest.mark.parametrize("command", COMMANDS)
def test_a_misspelt_flag_is_refused_before_anything_heavy_is_imported(command: str) -> None:
    status, said, found = imported(command, *COMMANDS[command], "--quallity", "3")
    assert status == 2 and "quallity" in said and not found & HEAVY


@pytest.mark.parametrize("options", [[], ["--preset", "tiny", "--model", "hyperprior", "--budget", "8"]])
def test_settings_are_printed_before_anything_heavy_is_imported(options: list[str]) -> None:
    status, said, found = imported("search.run", "--print-config", "--trials-per-gpu", "0", *options)
    assert status == 0 and "\nbudget: " in said and not found & HEAVY


@pytest.mark.parametrize("wrong", [["--lr", "-1"], ["--model", "nothing"], ["--resume", "nothing"]])
def test_a_wrong_setting_is_refused_before_anything_heavy_is_imported(wrong: list[str]) -> None:
    status, said, found = imported("search.run", *wrong)
    assert status == 2 and wrong[1] in said and not found & HEAVY
