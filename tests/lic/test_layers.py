"""Who may import whom (design.md), and what a machine with torch and compressai alone can do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "lic").rglob("*.py")
    if path.name != "__init__.py"
)


#: What `make bench-gpu` runs, on a machine with torch and compressai alone.
ON_A_GPU = re.findall(r"GPU_PYTHON\) -m ([\w.]+)", (ROOT / "Makefile").read_text())


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (MODULES, ("ray", "optuna", "mlflow", "search", "dashboards")),
        (ON_A_GPU, ("ray", "optuna", "mlflow")),
    ],
)
def test_imports_without(modules: list[str], absent: tuple[str, ...]) -> None:
    assert len(modules) > 3
    code = (
        "import sys\n"
        f"for name in {absent}:\n"
        "    sys.modules[name] = None\n"  # makes `import name` raise ImportError
        f"import {', '.join(modules)}\n"
        "try:\n    import ray\nexcept ImportError:\n    print('blocked')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "blocked"


def test_the_decision_core_imports_without_ray_or_mlflow() -> None:
    """That no module names them is a contract in pyproject.toml; this is what an import of it brings."""
    rooms = [path for room in ("base", "decide") for path in (ROOT / "search" / room).glob("[a-z]*.py")]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in rooms]
    assert len(modules) > 12
    code = f"import sys, {', '.join(modules)}; print({{'ray', 'mlflow', 'compressai'}} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "set()"), done.stderr
