"""What every storage of checkpoints has to do, a folder and an object store: none is lost, none is half."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from lic import atomic_io
from search.records.folder import SearchFolder, fetch_folder
from search.store.checkpoints import Checkpoints, prepare_storage
from search.store.find import FolderError
from tests.support.objects import ObjectStore

TRIAL = "trials/trial-000"


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    """The checkpoints of a search called mine."""
    if request.param == "folder":
        return Checkpoints(str(tmp_path / "storage"), "mine")
    return Checkpoints(request.getfixturevalue("store").url(tmp_path.name), "mine")


def save(place: Checkpoints, content: str, training: str, epoch: int) -> None:
    with place.saving(training, epoch) as path:
        atomic_io.write(path, content)


def newest(place: Checkpoints) -> str:
    with place.newest(TRIAL).local() as path:
        return path.read_text()


def epochs(place: Checkpoints) -> list[str]:
    return [Path(file.path).name for file in place.saved(TRIAL)]


def test_of_a_training_the_last_two_checkpoints_are_kept(place: Checkpoints) -> None:
    assert place.saved(TRIAL) == []
    with pytest.raises(FileNotFoundError, match=r"^trial-000 has no checkpoint below .*mine/trials$"):
        place.newest(TRIAL)
    for epoch in (8, 9, 10):
        save(place, f"after {epoch}", TRIAL, epoch)
    assert (epochs(place), newest(place)) == (["epoch-0010.pt", "epoch-0009.pt"], "after 10")
    save(place, "again", TRIAL, 10)  # by a worker that did not know
    assert (epochs(place), newest(place)) == (["epoch-0010.pt", "epoch-0009.pt"], "again")
    place.drop(TRIAL, but=1)
    assert epochs(place) == ["epoch-0010.pt"]
    place.drop(TRIAL)
    assert epochs(place) == []


def test_a_search_with_a_name_of_any_script_has_its_checkpoints(place: Checkpoints, tmp_path: Path) -> None:
    named = Checkpoints(place.storage, "équipe 結果")
    save(named, "after 1", TRIAL, 1)
    assert (epochs(named), newest(named)) == (["epoch-0001.pt"], "after 1")
    (tmp_path / "settings.yaml").write_text("seed: 0")
    named.keep(tmp_path, "settings.yaml")
    kept = named.kept("settings.yaml")
    assert kept is not None and "équipe 結果" in str(kept)
    assert epochs(place) == []


def test_the_checkpoint_of_a_fork_stays_whatever_goes(place: Checkpoints, tmp_path: Path) -> None:
    for epoch in range(1, 6):
        with place.saving(TRIAL, epoch, keep=2) as path:
            atomic_io.write(path, f"after {epoch}")
    assert epochs(place) == ["epoch-0005.pt", "epoch-0004.pt", "epoch-0002.pt"]
    place.drop(TRIAL, but=1, keep=2)
    assert (epochs(place), newest(place)) == (["epoch-0005.pt", "epoch-0002.pt"], "after 5")
    with place.of_epoch(TRIAL, 2).local() as path:
        assert path.read_text() == "after 2"
    with pytest.raises(
        FileNotFoundError, match=r"^trial-000 has no checkpoint of epoch 3 below .*mine/trials$"
    ):
        place.of_epoch(TRIAL, 3)
    other = Checkpoints(str(tmp_path / "other"))
    assert not other.take_over(place, TRIAL, keep=3) and epochs(other) == []  # not one without the other
    assert other.take_over(place, TRIAL, keep=2)
    assert (epochs(other), newest(other)) == (["epoch-0005.pt", "epoch-0002.pt"], "after 5")
    assert not other.take_over(place, "trials/trial-001", keep=2)
    place.drop(TRIAL, but=1)
    assert epochs(place) == ["epoch-0005.pt"]


def test_a_checkpoint_that_is_not_written_whole_is_none(place: Checkpoints) -> None:
    save(place, "after 1", TRIAL, 1)
    with pytest.raises(OSError, match="No space left"), place.saving(TRIAL, 2) as path:  # noqa: SIM117
        with atomic_io.replacing(path) as partial:
            partial.write_text("a pa")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert (epochs(place), newest(place)) == (["epoch-0001.pt"], "after 1")
    assert [info.base_name for info in place._list(place._path(TRIAL))] == ["epoch-0001.pt"]


def test_a_training_is_taken_over_from_another_storage(
    place: Checkpoints, tmp_path: Path, store: ObjectStore
) -> None:
    for number, source in enumerate((tmp_path / "other", store.url(f"other/{tmp_path.name}"))):
        trial, other = f"trials/baseline-q{number}", Checkpoints(str(source))
        assert not place.take_over(other, trial)
        save(other, f"weights {number}", trial, 7)
        assert place.take_over(other, trial)
        with place.newest(trial).local() as path:
            assert path.read_text() == f"weights {number}"
        with other.newest(trial).local() as path:
            assert path.is_file()


def test_a_copy_replaces_the_old_file_whole_or_not_at_all(place: Checkpoints, tmp_path: Path) -> None:
    save(place, "new", TRIAL, 1)
    target = tmp_path / "q1.pt"
    target.write_text("old")
    file = place.newest(TRIAL)
    place.filesystem.delete_file(file.path)
    with pytest.raises(FileNotFoundError):
        file.copy_to(target)
    assert target.read_text() == "old"
    save(place, "new", TRIAL, 1)
    file.copy_to(target)
    assert target.read_text() == "new"
    assert [path.name for path in tmp_path.glob("*.pt*")] == ["q1.pt"]


def test_what_is_kept_beside_the_checkpoints_is_what_the_folder_has(
    place: Checkpoints, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    (folder / "best").mkdir(parents=True)
    for name in ("settings.yaml", "best/q1.pt", "best/q2.pt"):
        (folder / name).write_text(name)
    place.keep(folder, "settings.yaml", "best", "report.html")
    (folder / "best" / "q1.pt").unlink()
    place.keep(folder, "settings.yaml", "best", "report.html")
    assert place.read("settings.yaml") == "settings.yaml"
    assert place.kept("best/q2.pt") and not place.kept("best/q1.pt") and not place.kept("report.html")


def test_the_folder_of_a_search_is_fetched_only_if_its_trials_are_on_a_server(
    place: Checkpoints, tmp_path: Path
) -> None:
    results, folder = tmp_path / "results", tmp_path / "first" / "mine"
    with pytest.raises(FolderError, match=r"no search 'mine' in .*results, and none at .*/mine"):
        fetch_folder("mine", results, place.storage)
    folder.mkdir(parents=True)
    (folder / "environment.json").write_text("{}")
    for study, told in (("null", "has its trials in a SQLite file"), ("sqlite:////x.db", "SQLite file")):
        (folder / "settings.yaml").write_text(f"study: {study}\nname: mine\n")
        place.keep(folder, "settings.yaml", "environment.json")
        with pytest.raises(FolderError, match=told):
            fetch_folder("mine", results, place.storage)
        assert not results.exists()
    (folder / "settings.yaml").write_text(f"study: postgresql://x/y\nname: mine\nstorage: {place.storage}\n")
    place.keep(folder, "settings.yaml", "environment.json")
    found = fetch_folder("mine", results, place.storage)
    assert (found / "settings.yaml").read_text() == (folder / "settings.yaml").read_text()
    assert (found / "environment.json").read_text() == "{}"
    assert SearchFolder.read(found).checkpoints == place


def test_a_storage_that_can_be_used_is_left_as_it_was(place: Checkpoints) -> None:
    prepare_storage(place.storage)
    assert Checkpoints(place.storage)._list(Checkpoints(place.storage).root) == []
