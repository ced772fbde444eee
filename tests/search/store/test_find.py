"""Which folders are searches, and which of them a name means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from search.store.find import FolderError, find_folder, is_search, recorded_at, searches_in


def begun(folder: Path, file: str, moment: float) -> Path:
    folder.mkdir(parents=True)
    (folder / file).mkdir() if file == "trials" else (folder / file).touch()
    os.utime(folder / file, (moment, moment))
    return folder


def test_a_folder_is_a_search_by_its_study_or_its_settings(tmp_path: Path) -> None:
    assert is_search(begun(tmp_path / "a", "study.db", 1))
    assert is_search(begun(tmp_path / "b", "settings.yaml", 1))
    assert not is_search(begun(tmp_path / "c", "trials", 1))
    assert not is_search(tmp_path / ("x" * 300)) and not is_search(tmp_path / "none")


def test_the_last_is_the_one_that_recorded_something_last(tmp_path: Path) -> None:
    """Where the trials are in a server, their checkpoints tell, and without them the settings."""
    first = begun(tmp_path / "z", "study.db", 10)
    on_server = begun(tmp_path / "m", "settings.yaml", 5)
    (on_server / "trials").mkdir()
    os.utime(on_server / "trials", (20, 20))
    newest = begun(tmp_path / "a", "settings.yaml", 30)
    begun(tmp_path / "no-search", "other", 99)
    assert searches_in(tmp_path) == [first, on_server, newest]
    assert [recorded_at(folder) for folder in (first, on_server, newest, tmp_path)] == [10, 20, 30, 0]
    assert find_folder("last", tmp_path) == newest
    assert searches_in(tmp_path / "nowhere") == []


def test_a_name_is_looked_for_in_the_results_and_then_as_a_path(tmp_path: Path) -> None:
    results = tmp_path / "results"
    inside, outside = begun(results / "mine", "study.db", 1), begun(tmp_path / "other", "study.db", 1)
    assert find_folder("mine", results) == inside
    assert find_folder(str(outside), results) == outside
    with pytest.raises(FolderError, match=r"(?s)nothing.*mine"):
        find_folder("nothing", results)
    with pytest.raises(FolderError, match="none"):
        find_folder("last", tmp_path / "nowhere")
