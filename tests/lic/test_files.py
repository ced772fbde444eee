"""What a user wrote as a path, in every command."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from lic import zoo
from lic.files import path_argument, user_path
from search.store.find import FolderError, find_folder

ROOT = Path(__file__).resolve().parents[2]


def test_the_home_folder_is_put_in_and_nothing_else_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~") == str(tmp_path) and user_path("~/a b/") == f"{tmp_path}/a b"
    for text in ("", ".", "a~", "./~/x", "a/../b", "/x/~"):
        assert user_path(text) == text
    assert path_argument("~/x") == tmp_path / "x"
    with pytest.raises(ValueError, match="the home folder in '~nobody-at-all/x' is unknown"):
        user_path("~nobody-at-all/x")
    with pytest.raises(argparse.ArgumentTypeError, match="unknown"):
        path_argument("~nobody-at-all/x")


def test_searches_and_zoos_are_found_in_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "results" / "mine").mkdir(parents=True)
    (tmp_path / "results" / "mine" / "settings.yaml").touch()
    for name, results in (("~/results/mine", "elsewhere"), ("mine", "~/results"), ("last", "~/results")):
        assert find_folder(name, Path(results)) == tmp_path / "results" / "mine"
    with pytest.raises(FolderError, match="unknown"):
        find_folder("~nobody-at-all/x", Path("results"))
    with pytest.raises(zoo.ZooError, match=f"^{tmp_path}/zoo is not a zoo"):
        zoo.load("~/zoo", 3)


def test_no_command_makes_a_path_of_an_argument_by_itself() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for part in ("lic", "search", "dashboards")
        for path in (ROOT / part).rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"type=Path\b|\bexpanduser\(", line)
    ]
    assert [line.partition(":")[0] for line in found] == ["lic/files.py"]
