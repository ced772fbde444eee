"""Ray where the temporary folder has a long path."""

from __future__ import annotations

import pytest
from ray._common.utils import get_default_ray_temp_dir
from ray._private.utils import validate_socket_filepath

from search.cluster import _SOCKET, _short_folder


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
