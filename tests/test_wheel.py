"""The wheel: all that the commands need is in it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of what git tracks, unpacked as an installer does."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, tracked.stdout.split("\0")):
        if not name.startswith(("tests/", "docs/")):
            target = folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "build", "--wheel", "-q", "-o", folder / "dist", folder / "source"], check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_presets_templates_weights_and_licence_are_in_it(unpacked: Path) -> None:
    for name in (
        "configs/presets/fast.yaml", "dashboards/report.html.jinja", "search/zoo/card.md.jinja",
        "search/py.typed", "lic/models/starters/cheng2020-anchor-32.safetensors",
        "lictune-0.1.0.dist-info/licenses/LICENSE",
    ):  # fmt: skip
        assert (unpacked / name).is_file(), name
    modules = {
        path.relative_to(ROOT)
        for room in ("lic", "search", "dashboards")
        for path in (ROOT / room).rglob("*.py")
    }
    assert {name for name in modules if not (unpacked / name).is_file()} == set()


@pytest.mark.parametrize("command", [["--help"], ["run", "--print-config"], ["simulate", "--budget", "8"]])
def test_its_commands_run_elsewhere(unpacked: Path, tmp_path: Path, command: list[str]) -> None:
    """From a folder that is not the checkout, and without the checkout on the path."""
    code = (
        f"import sys; sys.path.insert(0, {str(unpacked)!r}); import search.__main__ as m; "
        f"assert m.__file__.startswith({str(unpacked)!r}); m.run()"
    )
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(ROOT) not in done.stdout
