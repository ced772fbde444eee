"""What `make gpu-search` packs for a machine without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.bench import gpu_pack

#: What a search, its report and an export import.
_IMPORTS = (
    "import dashboards.report, matplotlib.backends.backend_agg, pyarrow.fs, search.engine.tune; "
    "import mlflow, mlflow.store.tracking.sqlalchemy_store, mlflow.store.model_registry.sqlalchemy_store; "
    "import search.export, search.session.session, search.tracking.tracker, sys; "
    "print(*{module.__file__ for module in list(sys.modules.values()) if getattr(module, '__file__', None)}, "
    "sep='\\n')"
)


def test_the_lock_says_what_is_packed() -> None:
    lock = (gpu_pack.ROOT / "requirements.lock").read_text()
    found = gpu_pack.wanted(lock, ["ray", "optuna", "mlflow", "compressai"])
    assert {"ray", "optuna", "mlflow", "compressai", "sqlalchemy", "grpcio"} <= set(found)
    there = {"torch", "numpy", "triton", "pytest", *(name for name in found if name.startswith("nvidia"))}
    assert not there & set(found)
    for name, entry in found.items():
        assert entry.startswith(f"{name}==") and "--hash=sha256:" in entry and "#" not in entry
    pinned = set(re.findall(r"^([a-z0-9.-]+)==", lock, re.MULTILINE))
    assert set(gpu_pack.LEFT_OUT) <= pinned, "what is left out is no longer in the lock"


def test_what_a_search_imports_is_kept() -> None:
    done = subprocess.run([sys.executable, "-c", _IMPORTS], capture_output=True, text=True, check=True)
    files = [path.partition("/site-packages/")[2] for path in done.stdout.splitlines()]
    files = [path for path in files if path]
    assert {"ray/tune/tuner.py", "mlflow/__init__.py", "optuna/__init__.py"} <= set(files)
    left_out = {name.replace("-", "_") for name in gpu_pack.LEFT_OUT} | {"sklearn", "skops", "git"}
    lost = [path for path in files if gpu_pack.is_left_out(path) and path.split("/")[0] not in left_out]
    assert lost == []
    for path in (
        "ray/jars/ray_dist.jar",
        "ray/rllib/env.py",
        "plotly/labextension/a.js",
        "pandas/tests/a/b.py",
    ):
        assert gpu_pack.is_left_out(path), path


def test_an_archive_depends_on_the_files_alone(tmp_path: Path) -> None:
    archives = []
    for turn in range(2):
        site = tmp_path / str(turn)
        (site / "package").mkdir(parents=True)
        for name in ("b.py", "a.py") if turn else ("a.py", "b.py"):
            (site / "package" / name).write_text(name)
            os.utime(site / "package" / name, (turn, turn))
        (site / "package" / "b.py").chmod(0o700 if turn else 0o755)
        gpu_pack.pack(site, tmp_path / f"{turn}.tar.xz")
        archives.append((tmp_path / f"{turn}.tar.xz").read_bytes())
    assert archives[0] == archives[1]


def test_an_archive_that_is_too_large_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pack(_site: Path, out: Path) -> None:
        with out.open("wb") as file:
            file.truncate((gpu_pack.MOST << 20) + 1)

    for name, replacement in (("install", Path.mkdir), ("prune", lambda _: None), ("pack", pack)):
        monkeypatch.setattr(gpu_pack, name, replacement)
    monkeypatch.setattr(sys, "argv", ["gpu_pack", "--out", str(tmp_path / "a.tar.xz")])
    with pytest.raises(SystemExit, match="more than 55 MiB; leave more out"):
        gpu_pack.main()


def test_the_packages_are_those_of_the_project() -> None:
    """Its dependencies are in the lock under the names that the packing derives from them."""
    dependencies = tomllib.loads((gpu_pack.ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lock = (gpu_pack.ROOT / "requirements.lock").read_text()
    assert all(f"\n{name}==" in lock for name in gpu_pack.names(dependencies))
