"""Names and files of a results folder that comes from someone else."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.config import is_name
from search.folder import FolderError, SearchFolder, check_inside, fetch_folder

ELSEWHERE = ["..", ".", "../other", "/etc", "a/../../b", "", ".hidden"]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_name_that_leads_elsewhere_is_none(name: str, tmp_path: Path) -> None:
    assert not is_name(name) and is_name("cheng-20260101-120000")
    mine = tmp_path / "results" / "mine"
    mine.mkdir(parents=True)
    (mine / "settings.yaml").write_text(f"name: '{name}'\nstorage: {tmp_path}/storage\n")
    with pytest.raises(
        FolderError, match=rf"the search in {mine} cannot be read \(.*a name is one folder name"
    ):
        SearchFolder.read(mine)
    (mine / "settings.yaml").write_text(f"storage: {tmp_path}/storage\n")
    assert SearchFolder.read(mine).name == "mine"
    assert SearchFolder.read(mine).checkpoints.root == f"{tmp_path}/storage/mine"


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_search_is_fetched_into_the_results_folder_alone(name: str, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "storage"):  # where '..' and '.' lead from the storage
        folder.mkdir(exist_ok=True)
        (folder / "settings.yaml").write_text("study: postgresql://db/optuna\n")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FolderError, match="no name of a search"):
        fetch_folder(name, tmp_path / "results", str(tmp_path / "storage"))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("link", ["figures", "figures/rd.png", "search.log"])
def test_nothing_outside_is_written_through_a_link(link: str, tmp_path: Path) -> None:
    folder, precious = tmp_path / "mine", tmp_path / "precious"
    (folder / "figures").mkdir(parents=True)
    (folder / "tables").symlink_to(folder / "figures")
    written = ("search.log", "figures", "tables")
    check_inside(folder, *written)
    if link == "figures":
        (folder / "figures").rmdir()
    (folder / link).symlink_to(precious)
    with pytest.raises(FolderError, match=f"{link} leads to {precious}, outside"):
        check_inside(folder, *written)
