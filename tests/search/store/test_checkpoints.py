"""Checkpoints in a folder and in an object store: the same figures, and none lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pyarrow.fs import FileSelector

from lic.errors import StorageError
from search.engine.cluster import _visit
from search.records.folder import final_weights, open_search
from search.session.driver import _check_new
from search.settings.complaints import ConfigError
from search.settings.plan import template_of
from search.store.checkpoints import Checkpoints, prepare_storage
from tests.conftest import assert_as_trained_alone, interrupted_at, run_search, search_command
from tests.support import objects
from tests.support.objects import SECRET, ObjectStore, object_store


def test_a_search_that_keeps_its_checkpoints_in_its_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "results" / "mine").mkdir(parents=True)
    (tmp_path / "results" / "mine" / "settings.yaml").write_text("here")
    for place in (
        Checkpoints(str(tmp_path / "results" / "mine")),
        Checkpoints(str(tmp_path / "results"), "mine"),
    ):
        place.keep(tmp_path / "results" / "mine", "settings.yaml")
        assert place.read("settings.yaml") == "here"


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
    assert _visit(place, "--storage", ".probe", [], "0", []).startswith(f"cannot read {place} (")
    place = Checkpoints(store.url("x"))
    assert _visit(place, "--storage", ".probe", [], "0", []).startswith(
        f"does not see {place}; every node needs"
    )


@pytest.mark.usefixtures("store")
def test_a_store_that_refuses_an_account_names_the_variables() -> None:
    with object_store(with_accounts=True) as guarded, pytest.raises(StorageError) as raised:
        prepare_storage(guarded.url("x"))
    assert "access denied; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in str(raised.value)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/x cannot be used: Not a directory; give a writable folder"):
        prepare_storage(str(tmp_path / "file" / "x"))


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
