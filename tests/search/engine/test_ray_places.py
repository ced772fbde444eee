"""Ray where the temporary folder has a long path, and where that of Python has blanks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ray._common.utils import get_default_ray_temp_dir
from ray._private.utils import validate_socket_filepath

from search.engine.cluster import _SOCKET, _short_folder

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("length", [4, 20, 36, 60, 120])
def test_rays_sockets_fit_whatever_the_temporary_folder(
    variable: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(variable, "/" + "x" * (length - 1))
    chosen = _short_folder()
    validate_socket_filepath((chosen or get_default_ray_temp_dir()) + _SOCKET)
    assert (chosen is None) is (length <= 30)


_COMMAND = """
from search.engine import cluster
cluster.connect(None, 1)
import ray
print(ray.get(ray.remote(lambda: 7).remote(), timeout=120))
cluster.disconnect()
"""


def test_workers_start_where_the_path_of_python_has_blanks(tmp_path: Path) -> None:
    """Ray's raylet would start them again and again, and a search wait for ever."""
    place = tmp_path / "a b's é"
    place.symlink_to(sys.prefix)
    command = [str(place / "bin" / Path(sys.executable).name), "-c", _COMMAND]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr
