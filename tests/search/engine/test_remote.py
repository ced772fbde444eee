"""A search on a cluster's head node: when it is sent there, what goes with it, and what comes back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from search.engine import cluster
from search.engine.remote import Driver, _for_head, remote_address, run_on_head
from search.settings.complaints import ConfigError

HEAD = "ray://head:10001"


def test_only_a_ray_address_sends_the_driver_away() -> None:
    assert remote_address(["--budget", "8", "--address", "ray://head:10001"], {}) == "ray://head:10001"
    assert remote_address(["--address=auto"], {"LICTUNE_ADDRESS": "ray://head:10001"}) is None
    assert remote_address([], {"LICTUNE_ADDRESS": "ray://head:10001"}) == "ray://head:10001"
    assert remote_address(["--model", "cheng"], {}) is None


@pytest.mark.parametrize("address", ["auto", "head:6379", "http://head", "rays://head", ""])
def test_other_addresses_run_the_driver_here(address: str) -> None:
    assert remote_address(["--address", address], {}) is None
    assert remote_address([], {"LICTUNE_ADDRESS": address}) is None


def test_the_command_line_decides_over_the_environment() -> None:
    assert remote_address(["--address", HEAD], {"LICTUNE_ADDRESS": "ray://other:10001"}) == HEAD


def test_a_file_of_settings_is_on_this_machine_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "connect", lambda *_: pytest.fail("nothing to connect for"))
    with pytest.raises(ConfigError, match=r"is a file on this machine.*give its settings as options"):
        run_on_head(HEAD, ["--address", HEAD, "--config", str(tmp_path / "mine.yaml")])


def test_the_options_go_to_the_head_with_an_address_of_its_own() -> None:
    argv = ["--budget", "8", "--address", HEAD, "--resume=last", "--no-stopping"]
    assert _for_head(argv)[0] == ["--budget", "8", "--resume=last", "--no-stopping", "--address", "auto"]


def test_settings_and_passwords_of_the_environment_go_with_it_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent = {"LICTUNE_BUDGET": "8", "PGPASSWORD": "a", "MLFLOW_TRACKING_URI": "http://mlflow",
            "WANDB_MODE": "offline"}  # fmt: skip
    for name, value in {**sent, "LICTUNE_ADDRESS": HEAD, "AWS_SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(name, value)
    environment = _for_head([])[1]
    assert sent.items() <= environment.items()
    assert environment.keys().isdisjoint({"LICTUNE_ADDRESS", "AWS_SECRET_ACCESS_KEY", "PATH", "HOME"})


def command(folder: Path, *lines: str) -> str:
    """A program in the place of Python, with which the driver runs the search."""
    file = folder / "python"
    file.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    file.chmod(0o755)
    return str(file)


def until_ended(driver: Driver) -> tuple[list[str], int]:
    deadline = time.monotonic() + 30
    while (news := driver.news(0))[1] is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return news[0], news[1]


def test_the_driver_tells_the_lines_and_the_status_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = command(
        tmp_path, 'echo "$@"', 'echo "$LICTUNE_SEED $PYTHONUNBUFFERED"', "echo failed >&2", "exit 3"
    )
    monkeypatch.setattr("sys.executable", program)
    driver = Driver(["--budget", "8"], {"LICTUNE_SEED": "4"})
    lines = ["-m search.run --budget 8\n", "4 1\n", "failed\n"]
    assert until_ended(driver) == (lines, 3)
    assert driver.news(2) == (lines[2:], 3) and driver.news(3) == ([], 3)


def test_an_interrupt_reaches_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = command(
        tmp_path, "trap 'echo interrupted; exit 130' INT", "echo ready", "while :; do sleep 0.01; done"
    )
    monkeypatch.setattr("sys.executable", program)
    driver = Driver([], {})
    deadline = time.monotonic() + 30
    while not driver.news(0)[0]:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert driver.news(0) == (["ready\n"], None)
    driver.interrupt()
    assert until_ended(driver) == (["ready\n", "interrupted\n"], 130)
