"""MLflow opened on a store with one search in it."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from dashboards.open import main
from search.tracking import Tracker


def test_a_missing_store_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(tmp_path)]) == 2
    assert f"there is no MLflow store at {tmp_path / 'mlflow.db'}" in capsys.readouterr().err


def test_serves_the_store_and_prints_the_link(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = Tracker(uri, "mine", tmp_path / "mine" / "artifacts", {"model": "cheng"}, {})
    tracker.close("FINISHED")
    assert tracker.lost == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "dashboards.open",
        "mine",
        "--results",
        str(tmp_path),
        "--port",
        str(port),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            link = f"mine: http://127.0.0.1:{port}/#/experiments/{tracker.experiment}/runs?searchFilter="
            assert line.startswith(link)
            assert _answers(f"http://127.0.0.1:{port}/health") == "OK"
        finally:
            server.terminate()


def _answers(address: str) -> str:
    for _ in range(120):
        try:
            with urllib.request.urlopen(address, timeout=2) as answer:
                return answer.read().decode()
        except OSError:
            time.sleep(0.5)
    return "no answer"
