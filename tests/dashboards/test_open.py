"""The command that opens a search: its servers, its links, and that nothing outlives it."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from dashboards.open import main
from dashboards.servers import HOST, fetch, usable_port
from search.records.folder import OpenedSearch, open_search
from search.tracking.views import LEADERBOARD, VIEW_TAG, install_views
from tests.support.sockets import is_local, waiting

Real = tuple[Path, subprocess.CompletedProcess[str]]


@contextmanager
def opened(results: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """The command, running, and what it printed: links by name, and the rest as `said`."""
    command = [sys.executable, "-m", "dashboards.open", "real", "--results", str(results), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                if line.startswith("press Ctrl-C"):
                    break
                lines.append(line)
            else:
                raise AssertionError("".join(lines))
            pairs = [line.strip().rsplit(maxsplit=1) for line in lines if line.startswith("  ")]
            yield process, {**dict(pairs), "said": "".join(lines)}
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0


def test_a_search_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(tmp_path)]) == 2
    assert f"no search in {tmp_path}" in capsys.readouterr().err
    assert main(["mine", "--results", str(tmp_path)]) == 2
    assert "there is no search 'mine'" in capsys.readouterr().err


@pytest.mark.slow
def test_everything_answers_and_ends_with_the_command(real: Real) -> None:
    report = real[0] / "real" / "report.html"
    report.unlink(missing_ok=True)
    study = (real[0] / "real" / "study.db").read_bytes()
    taken = usable_port(5000)
    with http.server.ThreadingHTTPServer((HOST, taken), http.server.SimpleHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with opened(real[0], "--port", str(taken)) as (process, links):
            base = links["leaderboard"].partition("/#/")[0]
            assert f"port {taken} is in use; MLflow runs on port {base.rpartition(':')[2]}" in links["said"]
            assert fetch(f"{base}/health") == b"OK"
            optuna, _, path = links["Optuna's dashboard"].partition("/dashboard")
            assert b'"name": "real"' in fetch(f"{optuna}/api{path}?after=0")
            assert links["report"] == report.resolve().as_uri() and report.is_file()
            started = psutil.Process(process.pid).children(recursive=True)
            assert len(started) >= 3  # MLflow, its worker, Optuna's dashboard
            open_at = [address for _, address, _ in waiting(psutil.Process(process.pid))]
            assert len(open_at) >= 2 and all(map(is_local, open_at))
            written = report.stat().st_mtime_ns
            with opened(real[0], "--port", base.rpartition(":")[2]) as (_, again):
                assert again["leaderboard"] == links["leaderboard"]
                assert again["Optuna's dashboard"] != links["Optuna's dashboard"]
                assert report.stat().st_mtime_ns == written
            assert fetch(f"{base}/health") == b"OK"
        other.shutdown()
    assert not [process for process in started if process.is_running()]
    for address in (base, optuna):
        with pytest.raises(OSError):
            fetch(address)
    assert (real[0] / "real" / "study.db").read_bytes() == study


@pytest.mark.slow
def test_a_closed_terminal_ends_them_too(real: Real) -> None:
    with opened(real[0], "--port", str(usable_port(0))) as (process, _):
        started = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGHUP)
        process.wait(60)
        assert started and not [child for child in started if child.is_running()]


def test_a_search_without_mlflow_still_opens(real: Real, tmp_path: Path) -> None:
    shutil.copytree(real[0] / "real", tmp_path / "real", ignore=shutil.ignore_patterns("trials", "artifacts"))
    with opened(tmp_path) as (_, links):
        assert f"no MLflow store at {tmp_path.resolve() / 'mlflow.db'}" in links["said"]
        assert {"report", "Optuna's dashboard"} <= set(links) and "leaderboard" not in links
    assert not (tmp_path / "mlflow.db").exists()


def test_views_are_installed_once(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client, views = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db"), []
    experiment = client.create_experiment("mine")
    for test_set in ("kodak", "kodak", "deadleaves"):
        install_views(client, experiment, test_set, "val", (1, 4))
        tags = client.get_experiment(experiment).tags
        views.append({key: value for key, value in tags.items() if key.startswith(VIEW_TAG)})
    assert {key.removeprefix(VIEW_TAG) for key in views[0]} == {
        LEADERBOARD, "parallel-coordinates", "curves-q1", "curves-q4",
    }  # fmt: skip
    assert views[0] == views[1]
    assert all(views[1][key] != views[2][key] for key in views[0])


@pytest.mark.slow
def test_a_tracking_server_is_linked_to(real: Real, capsys: pytest.CaptureFixture[str]) -> None:
    from dashboards.links import _mlflow
    from dashboards.servers import Servers

    search = open_search("real", real[0], with_model=False)
    settings = search.settings.model_copy(update={"tracking_uri": f"http://{HOST}:{usable_port(0)}"})
    away = OpenedSearch(search.folder, settings, search.plan, search.records, search.environment)
    with Servers() as servers:
        assert _mlflow(away, servers, 5000) == {}
        assert f"cannot query MLflow at {settings.tracking_uri}" in capsys.readouterr().err
    with opened(real[0], "--port", str(usable_port(0))) as (_, links), Servers() as servers:
        base = links["leaderboard"].partition("/#/")[0]
        settings = search.settings.model_copy(update={"tracking_uri": base})
        served = OpenedSearch(search.folder, settings, search.plan, search.records, search.environment)
        assert _mlflow(served, servers, 5000)["leaderboard"] == links["leaderboard"]
