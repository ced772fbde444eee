"""The command line of a search: one option per setting, and a few more."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest

from search.engine import cluster
from search.records import folder as folders
from search.session.arguments import add_arguments, parse
from search.settings.complaints import ConfigError
from search.settings.config import SETTINGS, Settings, is_switch, resolve
from search.store.find import FolderError


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a GPU and without settings in its environment."""
    monkeypatch.setattr(cluster, "gpus", lambda _: 0)
    monkeypatch.setattr("os.environ", {"HOME": "/home/me"})


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The folder of a search that was begun with a budget of 8."""
    folder = tmp_path / "results" / "begun"
    folder.mkdir(parents=True)
    given = {"model": "hyperprior", "preset": "tiny", "budget": "8"}
    (folder / SETTINGS).write_text(resolve(given, {}, lambda _: 0).report())
    return folder


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    add_arguments(made)
    return made


def test_every_setting_has_its_option_and_switches_have_two() -> None:
    options = {option for action in parser()._actions for option in action.option_strings}
    for key, field in Settings.model_fields.items():
        option = f"--{key.replace('_', '-')}"
        assert option in options
        assert (f"--no-{option[2:]}" in options) == is_switch(field.annotation), key


def test_only_what_was_given_is_a_value() -> None:
    assert vars(parser().parse_args([])) == {}
    given = parser().parse_args(["--budget", "many", "--no-stopping", "--compile"])
    assert vars(given) == {"budget": "many", "stopping": False, "compile": True}  # checked with all others


def test_the_help_names_the_kind_the_choices_and_the_default() -> None:
    text = re.sub(r"\s+", " ", parser().format_help())
    for part in ("--budget N", "--lr X", "--data PATH", "--cadence {dense,sparse}", "(default: 64)", "1-6"):
        assert part in text, part
    assert "default: 330" not in text  # steps per epoch depend on the preset


def test_options_that_are_no_settings_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("budget: 12\n")
    argv = ["--config", str(file), "--plan", "--price-per-gpu-hour", "2.5", "--seed", "4"]
    resolved, options = parse(argv, None)
    assert (resolved.settings.budget, resolved.settings.seed) == (12, 4)
    assert (resolved.sources["budget"], resolved.sources["seed"]) == (str(file), "command line")
    assert (options.plan, options.price_per_gpu_hour, options.print_config) == ("here", 2.5, False)
    assert options.resume is None


@pytest.mark.parametrize("argv", [["--buget", "3"], ["--buget=3"], ["--no-buget"]])
def test_an_unknown_option_is_refused_as_an_unknown_setting(argv: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"command line: unknown setting '(no_)?buget'"):
        parse(argv, None)


def test_what_has_no_effect_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    parse(["--seeds", "5"], None)
    assert capsys.readouterr().err.startswith("lictune: seeds 5 has no effect without --confirm")


def test_a_search_is_resumed_by_its_name_with_what_was_recorded(begun: Path) -> None:
    for name in ("begun", "last", str(begun)):
        argv = ["--resume", name, "--results", str(begun.parent), "--budget", "16"]
        resolved, options = parse(argv, None)
        assert options.resume == begun
        assert (resolved.settings.model, resolved.settings.budget) == ("hyperprior", 16)
        assert resolved.settings.results == str(begun.parent)


def test_a_search_that_is_resumed_takes_no_file(begun: Path) -> None:
    argv = ["--resume", "begun", "--results", str(begun.parent), "--config", "mine.yaml"]
    with pytest.raises(ConfigError, match="uses the recorded settings of the search; omit --config"):
        parse(argv, None)


def test_a_search_that_is_not_here_is_fetched_from_its_storage(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def fetched(*given: Any) -> Path:
        asked.append(given)
        return begun

    monkeypatch.setattr(folders, "fetch_folder", fetched)
    results = str(begun.parent / "elsewhere")
    with pytest.raises(ConfigError, match=r"storage is .* cannot change on resume"):
        parse(["--resume", "far", "--results", results, "--storage", "s3://bucket"], None)
    assert asked == [("far", Path(results), "s3://bucket")]


@pytest.mark.parametrize("name", ["last", "a/b"])
def test_the_last_search_and_a_path_are_not_looked_for_in_a_storage(name: str, tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="there is no search"):
        parse(["--resume", name, "--results", str(tmp_path), "--storage", "s3://bucket"], None)


def test_without_a_storage_a_search_that_is_not_here_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="there is no search 'mine'"):
        parse(["--resume", "mine", "--results", str(tmp_path)], None)
