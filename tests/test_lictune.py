"""The console script: the same commands under one name."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from search.__main__ import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_that_of_its_module(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    module = COMMANDS[command][0].removesuffix(".__main__")
    assert capsys.readouterr().out.startswith(f"usage: python -m {module}")


def test_it_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"  {command} " in told for command in COMMANDS)


def test_another_word_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exprot"]) == 2
    assert "unknown command 'exprot'" in capsys.readouterr().err


def test_a_search_sees_its_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lictune", "run", "--print-config", "--budget", "7"])
    assert main() == 0
    assert sys.argv == ["lictune", "--print-config", "--budget", "7"]


def test_it_is_installed() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"lictune": "search.__main__:run"}
    (found,) = entry_points(group="console_scripts", name="lictune")
    assert found.load() is sys.modules["search.__main__"].run
