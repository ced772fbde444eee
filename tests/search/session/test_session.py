"""One process at a time on a search, and what a search that goes on may change."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from pathlib import Path

import pytest

from search.engine import cluster
from search.settings.complaints import ConfigError
from search.settings.config import resolve, resolve_again
from search.store.find import FolderError, find_folder
from search.store.lock import is_running, only_driver


def test_only_one_process_drives_a_search(tmp_path: Path) -> None:
    assert not is_running(tmp_path)
    with only_driver(tmp_path):
        assert is_running(tmp_path)
        with (
            pytest.raises(ConfigError, match=rf"by process {os.getpid()} of \w+ on .*, since 20"),
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


def test_a_logger_can_be_added_or_left_out_when_a_search_goes_on(begun: Path) -> None:
    given = {"tracking_uri": "sqlite:///x.db", "log_to": "tensorboard"}
    added = resolve_again(given, begun, lambda _: 0)
    assert added.settings.log_to == ("tensorboard",)
    (begun / "settings.yaml").write_text(added.report())
    assert resolve_again({}, begun, lambda _: 0).settings.log_to == ("tensorboard",)
    assert resolve_again({"log_to": "none"}, begun, lambda _: 0).settings.log_to == ()
    with pytest.raises(ConfigError, match="choose from tensorboard, wandb; did you mean 'tensorboard'"):
        resolve_again({**given, "log_to": "tensorbord"}, begun, lambda _: 0)


def test_a_folder_that_lost_its_searchs_name_is_told_so(begun: Path) -> None:
    settings = begun / "settings.yaml"
    settings.write_text(settings.read_text().replace("name: null", "name: begun"))
    assert resolve_again({"tracking_uri": "sqlite:///x.db"}, begun, lambda _: 0).settings.name == "begun"
    moved = begun.rename(begun.with_name("moved"))
    with pytest.raises(ConfigError, match="is named begun; rename the folder to begun"):
        resolve_again({"tracking_uri": "sqlite:///x.db"}, moved, lambda _: 0)


def test_a_setting_of_another_version_does_not_keep_a_search_from_going_on(begun: Path) -> None:
    with (begun / "settings.yaml").open("a") as settings:
        settings.write("\na_former_setting: 0.5\n")
    again = resolve_again({"tracking_uri": "sqlite:///x.db"}, begun, lambda _: 0).settings
    assert again.budget == 8


def test_what_would_make_trials_incomparable_is_refused_by_name(begun: Path) -> None:
    for key, value in (("lr", "2e-3"), ("model", "cheng"), ("seed", "1"), ("storage", "s3://b")):
        with pytest.raises(ConfigError, match=f"^{key} is .* cannot change on resume"):
            resolve_again({key: value, "tracking_uri": "sqlite:///here.db"}, begun, lambda _: 0)
    with pytest.raises(ConfigError, match="give --tracking-uri again"):
        resolve_again({}, begun, lambda _: 0)


def test_the_last_search_is_found(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"there is no search .last. in .*; existing searches: none"):
        find_folder("last", tmp_path)
    for moment, name in enumerate(("older", "newer")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.db").touch()
        os.utime(tmp_path / name / "study.db", (moment, moment))
    assert find_folder("last", tmp_path).name == "newer"
    assert find_folder("older", tmp_path).name == "older"


@pytest.mark.parametrize("failing", [1, 9])
def test_ray_is_given_more_than_one_try_on_a_busy_machine(
    failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start(**_: object) -> None:
        started.append(subprocess.Popen(["sleep", "60"]))
        if len(started) <= failing:
            raise Exception("The current node timed out during startup.")  # as Ray does

    monkeypatch.setattr("ray.init", start)
    try:
        if failing == 1:
            cluster.connect(None, 1)
        else:
            with pytest.raises(cluster.ClusterError, match=r"in 3 attempts .The current node timed out"):
                cluster.connect(None, 1)
        ended = [process.wait(1) for process in started[:failing]]
        assert len(started) == min(failing + 1, 3)
        assert ended == [-signal.SIGKILL] * len(ended)
        assert all(process.poll() is None for process in started[failing:])
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_full_disk_is_not_taken_for_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def start(**_: object) -> None:
        tries.append(1)
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/ray")

    monkeypatch.setattr("ray.init", start)
    with pytest.raises(OSError, match="No space left"):
        cluster.connect(None, 1)
    assert len(tries) == 1
