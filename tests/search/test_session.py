"""One process at a time on a search, and what a search that goes on may change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from search.config import ConfigError, resolve, resolve_again
from search.folder import CHECKPOINT, FolderError, find_folder, is_running, last_checkpoint, set_aside
from search.remote import remote_address
from search.session import only_driver


def test_only_one_process_drives_a_search(tmp_path: Path) -> None:
    assert not is_running(tmp_path)
    with only_driver(tmp_path):
        assert is_running(tmp_path)
        with (
            pytest.raises(ConfigError, match="is being searched by another process on this machine"),
            only_driver(tmp_path),
        ):
            pass
    assert not is_running(tmp_path)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    folder = tmp_path / "begun"
    folder.mkdir()
    given = {"model": "hyperprior", "preset": "tiny", "budget": 8, "tracking_uri": "http://me:***@mlflow"}
    (folder / "settings.yaml").write_text(resolve(given, {}, lambda _: 0).report())
    return folder


def test_a_search_goes_on_with_its_own_settings_and_a_larger_budget(begun: Path) -> None:
    address = "http://me:secret@mlflow"
    again = resolve_again({"budget": "16", "tracking_uri": address}, begun, lambda _: 1).settings
    assert (again.budget, again.preset, again.trials_per_gpu, again.name) == (16, "tiny", 0, "begun")


def test_a_folder_that_lost_its_searchs_name_is_told_so(begun: Path) -> None:
    settings = begun / "settings.yaml"
    settings.write_text(settings.read_text().replace("name: null", "name: begun"))
    assert resolve_again({"tracking_uri": "sqlite:///x.db"}, begun, lambda _: 0).settings.name == "begun"
    moved = begun.rename(begun.with_name("moved"))
    with pytest.raises(ConfigError, match="was called begun; give its folder that name again"):
        resolve_again({"tracking_uri": "sqlite:///x.db"}, moved, lambda _: 0)


def test_a_setting_of_another_version_does_not_keep_a_search_from_going_on(begun: Path) -> None:
    with (begun / "settings.yaml").open("a") as settings:
        settings.write("\na_former_setting: 0.5\n")
    again = resolve_again({"tracking_uri": "sqlite:///x.db"}, begun, lambda _: 0).settings
    assert again.budget == 8


def test_only_a_ray_address_sends_the_driver_away() -> None:
    assert remote_address(["--budget", "8", "--address", "ray://head:10001"], {}) == "ray://head:10001"
    assert remote_address(["--address=auto"], {"LICTUNE_ADDRESS": "ray://head:10001"}) is None
    assert remote_address([], {"LICTUNE_ADDRESS": "ray://head:10001"}) == "ray://head:10001"
    assert remote_address(["--model", "cheng"], {}) is None


def test_what_would_make_trials_incomparable_is_refused_by_name(begun: Path) -> None:
    for key, value in (("lr", "1e-3"), ("model", "cheng"), ("seed", "1"), ("data", "elsewhere")):
        with pytest.raises(ConfigError, match=f"^{key} was .* cannot change when it goes on"):
            resolve_again({key: value, "tracking_uri": "sqlite:///here.db"}, begun, lambda _: 0)
    with pytest.raises(ConfigError, match="give --tracking-uri again"):
        resolve_again({}, begun, lambda _: 0)


def test_a_checkpoint_set_aside_is_still_the_last_until_there_is_a_newer(tmp_path: Path) -> None:
    trial = tmp_path / "trials" / "trial-000"
    assert set_aside(trial) is None
    for number in (3, 5):
        (trial / f"checkpoint_{number:06d}").mkdir(parents=True)
        (trial / f"checkpoint_{number:06d}" / CHECKPOINT).write_text(str(number))
    for _ in range(2):  # set aside twice: killed before it trained on
        aside = set_aside(trial)
        assert aside is not None and aside.read_text() == "5"
        assert last_checkpoint(tmp_path, "trial-000") == aside
    (trial / "checkpoint_000000").mkdir()
    (trial / "checkpoint_000000" / CHECKPOINT).write_text("6")
    assert last_checkpoint(tmp_path, "trial-000").read_text() == "6"


def test_the_last_search_is_found(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"there is no search .last. in .*; there is none"):
        find_folder("last", tmp_path)
    for moment, name in enumerate(("older", "newer")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.db").touch()
        os.utime(tmp_path / name / "study.db", (moment, moment))
    assert find_folder("last", tmp_path).name == "newer"
    assert find_folder("older", tmp_path).name == "older"
