"""Which Python `make .venv` takes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: A Python of this version, as far as the Makefile asks it; `None`: a shim that runs nothing.
_VERSION = """#!/bin/sh
exec {real} -c "import sys; sys.version_info = ({version}, 1); sys.argv = ['-c']; exec(open(0).read())" <<END
$2
END
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """The only folder on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def add(folder: Path, name: str, version: str | None) -> None:
    text = "#!/bin/sh\nexit 127\n" if version is None else _VERSION
    (folder / name).write_text(text.format(real=sys.executable, version=version))
    (folder / name).chmod(0o755)


def make(tools: Path, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`make` in an empty folder, without what it would install."""
    (tmp_path / "requirements.lock").touch()
    (tmp_path / "pyproject.toml").touch()
    command = [shutil.which("make") or "make", "-f", str(ROOT / "Makefile"), ".venv", *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHON"}
    return subprocess.run(
        command, cwd=tmp_path, env={**environment, "PATH": str(tools)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        ({"python3.12": "3, 12", "python3.11": "3, 11"}, "python3.12"),
        ({"python3.11": "3, 11", "python3": "3, 12"}, "python3.11"),
        ({"python3.12": None, "python3.11": "3, 11"}, "python3.11"),
        ({"python3": "3, 12"}, "python3"),
    ],
)
def test_it_takes_the_newest_that_runs(
    tools: Path, tmp_path: Path, there: dict[str, str | None], taken: str
) -> None:
    for name, version in there.items():
        add(tools, name, version)
    done = make(tools, tmp_path, "--dry-run")
    assert f"\n{taken} -m venv" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("there", [{}, {"python3": "3, 13"}, {"python3.12": None, "python3": "3, 10"}])
def test_it_says_what_to_install(tools: Path, tmp_path: Path, there: dict[str, str | None]) -> None:
    for name, version in there.items():
        add(tools, name, version)
    done = make(tools, tmp_path)
    assert done.returncode
    assert "needs Python 3.11 or 3.12" in done.stderr
    assert "apt-get install python3.12-venv" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_another_can_be_named(tools: Path, tmp_path: Path) -> None:
    done = make(tools, tmp_path, "--dry-run", "PYTHON=/opt/python")
    assert "\n/opt/python -m venv" in done.stdout


def test_a_linked_environment_is_not_cleared(tools: Path, tmp_path: Path) -> None:
    """`venv --clear` would empty the folder that the link leads to."""
    add(tools, "python3.11", "3, 11")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "kept").touch()
    os.utime(tmp_path / "shared", (0, 0))  # older than the lock
    (tmp_path / ".venv").symlink_to("shared")
    done = make(tools, tmp_path)
    assert done.returncode
    assert "not replaced" in done.stderr
    assert (tmp_path / "shared" / "kept").exists()
