"""Checkpoints in a folder and in an object store: the same figures, and none lost."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow.fs import FileSelector

from lic import atomic_io
from search.engine.cluster import _visit
from search.records.folder import SearchFolder, fetch_folder, final_weights, open_search
from search.session.driver import _check_new
from search.settings.addresses import storage_address
from search.settings.config import ConfigError, resolve
from search.settings.plan import template_of
from search.store import checkpoints as module
from search.store.checkpoints import Checkpoints, prepare_storage
from search.store.find import FolderError
from search.store.storage import StorageError
from tests.conftest import assert_as_trained_alone, interrupted_at, run_search, search_command
from tests.support import objects
from tests.support.objects import ACCOUNT, SECRET, ObjectStore, object_store

TRIAL = "trials/trial-000"


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    if objects.MISSING:
        pytest.skip(objects.MISSING)
    with object_store() as made, pytest.MonkeyPatch.context() as environment:
        for key, value in ACCOUNT.items():
            environment.setenv(key, value)
        yield made


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


def test_a_search_that_keeps_its_checkpoints_in_its_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "results" / "mine").mkdir(parents=True)
    (tmp_path / "results" / "mine" / "settings.yaml").write_text("here")
    for place in (
        Checkpoints(str(tmp_path / "results" / "mine")),
        Checkpoints(str(tmp_path / "results"), "mine"),
    ):
        place.keep(tmp_path / "results" / "mine", "settings.yaml")
        assert place.read("settings.yaml") == "here"


def test_the_folder_of_a_search_is_fetched_only_if_its_trials_are_on_a_server(
    place: Checkpoints, tmp_path: Path
) -> None:
    results, folder = tmp_path / "results", tmp_path / "first" / "mine"
    with pytest.raises(FolderError, match=r"no search 'mine' in .*results, and none at .*/mine"):
        fetch_folder("mine", results, place.storage)
    folder.mkdir(parents=True)
    (folder / "environment.json").write_text("{}")
    for study, told in (("null", "kept its trials in a SQLite file"), ("sqlite:////x.db", "SQLite file")):
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


@pytest.mark.slow
def test_what_is_wrong_with_an_object_store_is_said(store: ObjectStore) -> None:
    elsewhere = store.url("x").replace(objects.BUCKET, "elsewhere")
    nobody = "s3://lictune/x?endpoint_override=http://127.0.0.1:9"
    for url, told in (
        (elsewhere, "there is no bucket elsewhere; create it first"),
        (nobody, "no answer; check AWS_ENDPOINT_URL"),
        (store.url("x") + "&colour=red", "Unexpected query parameter in S3 URI: 'colour'"),
    ):
        with pytest.raises(StorageError) as raised:
            prepare_storage(url)
        assert str(raised.value).startswith(f"--storage {url} cannot be used: ") and told in str(raised.value)
    # As a node says it, which has an environment of its own.
    place = Checkpoints(nobody)
    assert _visit(place, "--storage", ".probe", [], "0").startswith(f"cannot read {place} (")
    place = Checkpoints(store.url("x"))
    assert _visit(place, "--storage", ".probe", [], "0").startswith(f"does not see {place}; every node needs")


@pytest.mark.usefixtures("store")
def test_a_store_that_refuses_an_account_names_the_variables() -> None:
    with object_store(with_accounts=True) as guarded, pytest.raises(StorageError) as raised:
        prepare_storage(guarded.url("x"))
    assert "access denied; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in str(raised.value)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/x cannot be used: Not a directory; give a writable folder"):
        prepare_storage(str(tmp_path / "file" / "x"))


SECRETS = [
    "s3://AKIAhunter:hunter2@bucket/x", "s3://AKIAhunter@bucket/x",
    "s3://AKIAhunter:hun/ter2@bucket/x", "s3:/AKIAhunter:hunter2@bucket",
    "s3://bucket/x?secret_key=hunter2", "s3://bucket/x?access_key=hunter2", "gs://me:hunter2@bucket",
    "s3://bucket/x?session_token=hunter2", "ftp://me:hunter2@host/x",
    "s3://bucket/x?endpoint_override=http://me:hunter2@host",
]  # fmt: skip


@pytest.mark.parametrize("address", SECRETS)
def test_a_secret_in_the_address_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(ConfigError) as raised:
        resolve({"storage": address}, {}, lambda _: 0)
    told = str(raised.value)
    variables = "GOOGLE_APPLICATION_CREDENTIALS" if address.startswith("gs") else "AWS_SECRET_ACCESS_KEY"
    assert variables in told and "\n" not in told
    assert "hun" not in told and "ter2" not in told


@pytest.mark.parametrize(
    "address", ["ftp://host/x", "s3:/bucket/x", "s3://", "https://bucket.s3.amazonaws.com"]
)
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"--storage takes a folder, s3://bucket/prefix or gs://bucket"):
        storage_address(address)


def test_an_address_has_one_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage_address("here/there/") == storage_address(f"file://{tmp_path}/here/there")
    assert storage_address("s3://bucket/x/?region=eu-west-1") == "s3://bucket/x?region=eu-west-1"
    assert storage_address("gs://anonymous@bucket/x") == "gs://anonymous@bucket/x"
    assert module._open("gs://bucket/x")[1] == "bucket/x"


TINY = [
    *("--model", "hyperprior", "--preset", "tiny", "--width", "8", "--start", "scratch", "--epochs", "2"),
    *("--steps-per-epoch", "25", "--data", "deadleaves", "--test", "deadleaves", "--test-images", "2"),
    *("--val-images", "2", "--workers", "1", "--rates", "1", "--budget", "3", "--no-stopping"),
]


@pytest.mark.stack
def test_a_search_keeps_its_checkpoints_in_an_object_store(store: ObjectStore, tmp_path: Path) -> None:
    url = store.url("searches")
    command = [*search_command(tmp_path / "results", "far"), *TINY, "--storage", url]
    printed = interrupted_at("[  1/", command)
    assert f"checkpoints  {url}" in printed
    place, folder = Checkpoints(url, "far"), tmp_path / "results" / "far"
    assert (folder / "settings.yaml").read_text() == place.read("settings.yaml")

    done = run_search(tmp_path / "results", None, "--resume", "far")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (folder / "trials").exists()
    assert place.kept("report.html") and place.kept("tables/rates.csv") and place.kept("best/q1.pt")
    search = open_search("far", tmp_path / "results")
    with pytest.raises(ConfigError, match="there is a search at s3://lictune/searches/far already"):
        _check_new(search.settings, "far")
    for record in search.records.everything():
        assert_as_trained_alone(record, template_of(search.settings))
    shutil.rmtree(folder / "best")
    for record in search.records.everything():
        assert final_weights(search, record)
    for path in [*folder.rglob("*"), *tmp_path.glob("results/mlflow.db")]:
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    kept = place.filesystem.get_file_info(FileSelector(place.root, recursive=True))
    for info in kept:
        if info.is_file:
            assert SECRET.encode() not in place.filesystem.open_input_stream(info.path).read(), info.path
