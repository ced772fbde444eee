"""Names and files of a results folder that comes from someone else."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import optuna
import pytest
from pydantic import ValidationError

from search.records.folder import SearchFolder, fetch_folder
from search.settings.config import Settings, is_name
from search.store.find import FolderError, check_inside, find_folder
from search.store.storage import open_storage

ELSEWHERE = ["..", ".", "../other", "/etc", "a/../../b", "", ".hidden"]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_name_that_leads_elsewhere_is_none(name: str, tmp_path: Path) -> None:
    assert not is_name(name) and is_name("cheng-20260101-120000")
    mine = tmp_path / "results" / "mine"
    mine.mkdir(parents=True)
    (mine / "settings.yaml").write_text(f"name: '{name}'\nstorage: {tmp_path}/storage\n")
    with pytest.raises(
        FolderError, match=rf"the search in {mine} cannot be read \(.*use letters, digits, spaces"
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
    with pytest.raises(FolderError, match="is not a valid name of a search"):
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
    with pytest.raises(FolderError, match=f"{link} links to {precious}, outside"):
        check_inside(folder, *written)


@pytest.mark.parametrize("name", ["équipe", "結果", "हिन्दी", "größe-2", "a b+c=d@e._-", "é" * 80])
def test_a_name_may_have_letters_of_any_script(name: str, tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", name)
    for given in (name, apart):
        assert Settings(name=given).name == name
    folder = tmp_path / name
    folder.mkdir()
    (folder / "settings.yaml").write_text(f"name: '{name}'\n")
    assert SearchFolder.read(folder).name == name
    assert find_folder(apart, tmp_path) == folder
    storage = open_storage(f"sqlite:///{tmp_path}/study.db")
    optuna.create_study(storage=storage, study_name=name)
    assert optuna.get_all_study_names(storage) == [name]


@pytest.mark.parametrize(
    "name", ["a/b", "a\\b", "-a", " a", "a ", "\u0301a", "a\u200b", "📷", "last", "結" * 67]
)
def test_what_no_folder_should_be_called_is_refused(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(ValidationError):
        Settings(name=name)
