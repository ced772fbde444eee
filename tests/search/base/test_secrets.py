"""A search that was given passwords and keys writes them nowhere."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from pathlib import Path

import pytest
from mlflow import MlflowClient

from dashboards.links import serve_mlflow
from dashboards.servers import HOST, Servers, usable_port
from search.tracking.tracker import runs_of
from tests.conftest import search_command
from tests.search.session.test_search import SMALL
from tests.support.database import Database

#: Where Ray keeps its logs.
RAY = Path(tempfile.gettempdir()) / "ray"


def shown_in(content: bytes, hidden: dict[str, str]) -> list[str]:
    return [name for name, secret in hidden.items() if secret.encode() in content]


@pytest.mark.stack
def test_no_secret_is_written_anywhere(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", str(tmp_path / "served"))
    hidden = {
        "RAY_AUTH_TOKEN": secrets.token_hex(32), "MLFLOW_TRACKING_PASSWORD": secrets.token_hex(16),
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16), "AWS_SESSION_TOKEN": secrets.token_hex(16),
        "in the address of MLflow": secrets.token_hex(16), "in that of the database": database.password,
    }  # fmt: skip
    variables = {name: secret for name, secret in hidden.items() if name.isupper()}
    variables |= {
        "RAY_AUTH_MODE": "token",
        "AWS_ACCESS_KEY_ID": "AKIATEST",
        "MLFLOW_TRACKING_USERNAME": "user",
    }
    with Servers() as servers:
        port = serve_mlflow(servers, f"sqlite:///{tmp_path}/server.db", usable_port(0))
        servers.wait_until_ready()
        mlflow = f"http://user:{hidden['in the address of MLflow']}@{HOST}:{port}"
        arguments = ["--tracking-uri", mlflow, "--study", database.url("lictune", with_password=True)]
        command = [*search_command(tmp_path, "mine"), "--model", "hyperprior", *SMALL, "--rates", "1"]
        earlier = set(RAY.glob("session_2*"))
        done = subprocess.run(
            [*command, "--budget", "1", *arguments], capture_output=True, timeout=900, check=False,
            env={**os.environ, **variables},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        client = MlflowClient(f"http://{HOST}:{port}")
        experiment = client.get_experiment_by_name("mine")
        assert experiment is not None
        runs = runs_of(client, experiment.experiment_id)
        (parent,) = [run for run in runs if run.data.tags["lictune.role"] == "search"]
    assert parent.data.params["tracking_uri"] == f"http://user:***@{HOST}:{port}"
    assert parent.data.params["study"] == database.url("lictune")
    assert "http://user:***@" in parent.data.tags["lictune.command"]
    assert shown_in(done.stdout + done.stderr, hidden) == []
    logs = [log for session in set(RAY.glob("session_2*")) - earlier for log in session.rglob("*")]
    written = [path for path in (*tmp_path.rglob("*"), *logs) if path.is_file()]
    assert {"settings.yaml", "environment.json", "server.db", "search.log", "report.html"} <= {
        path.name for path in written
    }
    assert any(path.name == "raylet.out" for path in written)
    assert any((tmp_path / "served").rglob("report.html"))
    found = {path.name: names for path in written if (names := shown_in(path.read_bytes(), hidden))}
    assert found == {}
