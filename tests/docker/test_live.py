"""What can be had without a container engine, started with the stack's own configuration files."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dashboards.servers import HOST, Servers, fetch, usable_port
from tests.docker.stack import BIN, DOCKER, PROMETHEUS, ROOT, option, queries, services

#: A search with one rate, a baseline and a running trial, followed as long as the standard input is open.
SEARCH = """
import select, sys, ray
from search.base.space import SearchPoint
from search.session.metrics import Gauges
from search.records.progress import Progress
from search.records.search_records import SearchRecords, TrialRecord

figures = {"val/bpp": 0.5, "val/mse": 30.0, "memory/peak_mib": 900.0}
def record(name, role, state):
    return TrialRecord(name, role, SearchPoint(1), 0, state, "", {1: figures}, {})

ray.init(address=sys.argv[1], log_to_driver=False)
baseline, trial = record("baseline-q1", "baseline", "finished"), record("trial-000", "trial", "running")
records = SearchRecords("live", (1,), 1, "val", "kodak", {1: baseline}, [trial])
gauges = Gauges("live", 16)
while not select.select([sys.stdin], [], [], 1)[0]:
    gauges.show(Progress([records], 4, (1,), 10.0, 0.5, 60.0), 0.25)
"""


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder with a short path: Ray's sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="lictune-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def compose_command(service: str, **changed: str) -> list[str]:
    """The command of a service, with the values of some options changed and others added."""
    options = {name.replace("_", "-"): value for name, value in changed.items()}
    kept = [part for part in services()[service]["command"] if part[2:].split("=")[0] not in options]
    return [str(BIN / kept[0]), *kept[1:], *(f"--{name}={value}" for name, value in options.items())]


@pytest.mark.stack
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
def test_every_panel_of_the_board_finds_what_it_draws(scratch: Path) -> None:
    gcs, dashboard, metrics, port = (str(usable_port(0)) for _ in range(4))
    token = scratch / "ray_token"
    token.write_text("0123456789abcdef" * 4)
    cluster = {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_metrics_report_interval_ms": "3000", "REPORTER_UPDATE_INTERVAL_MS": "1000",
    }  # fmt: skip
    config = scratch / "prometheus.yml"
    text = PROMETHEUS.read_text().replace("head:8265", f"{HOST}:{dashboard}").replace("10s", "1s")
    config.write_text(text.replace("/run/secrets/ray_token", str(token)))
    head = compose_command(
        "head", port=gcs, dashboard_host=HOST, dashboard_port=dashboard, metrics_export_port=metrics,
        temp_dir=str(scratch), object_store_memory="100000000",
    )  # fmt: skip
    prometheus = [
        "prometheus", f"--config.file={config}", f"--storage.tsdb.path={scratch / 'metrics'}",
        f"--web.listen-address={HOST}:{port}", "--log.level=warn",
    ]  # fmt: skip
    try:
        with Servers() as servers:
            servers.start("Ray", head, f"http://{HOST}:{metrics}/metrics", cluster)
            servers.start("Prometheus", prometheus, f"http://{HOST}:{port}/-/ready")
            servers.wait_until_ready()
            with subprocess.Popen(
                [sys.executable, "-c", SEARCH, f"{HOST}:{gcs}"], stdin=subprocess.PIPE, cwd=ROOT,
                env={**os.environ, **cluster},
            ) as search:  # fmt: skip
                drawn = _drawn(f"http://{HOST}:{port}", search)
                assert search.stdin is not None
                search.stdin.close()
            assert search.returncode == 0
            with pytest.raises(urllib.error.HTTPError, match="401"):
                fetch(f"http://{HOST}:{dashboard}/api/prometheus/sd")  # without the token
    finally:
        _end_what_is_left(scratch)
    assert drawn["Best rate change so far, by rate"] == {"0"}
    assert drawn["Training patches in a second"] == {"8"}
    assert drawn["Largest host memory of a running training"] == {str(900 * 2**20)}
    assert drawn["MLflow lacks records since"] == {"0.25"}
    assert drawn["Nodes"] == {"1"}


def _drawn(prometheus: str, search: subprocess.Popen[bytes]) -> dict[str, set[str]]:
    """The values that every panel shows, once all but those about GPUs have some."""
    deadline, found = time.monotonic() + 60, {title: set[str]() for _, title, _ in queries()}
    while True:
        for _, title, query in queries():
            found[title] |= _ask(prometheus, query)
        empty = [title for title, values in found.items() if not values and "GPU" not in title]
        if not empty:
            return found
        assert search.poll() is None and time.monotonic() < deadline, f"nothing to draw in {empty}"
        time.sleep(0.5)


def _ask(prometheus: str, query: str) -> set[str]:
    """The values of an instant query. Raises HTTPError if Prometheus cannot make sense of it."""
    answer = json.loads(fetch(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"))
    assert answer["status"] == "success"
    return {sample["value"][1] for sample in answer["data"]["result"]}


def _end_what_is_left(folder: Path) -> None:
    """Ray's agents notice only after a while that their node has ended."""
    for process in psutil.process_iter(["cmdline", "environ"]):
        if str(folder) in f"{process.info['cmdline']} {process.info['environ']}":
            process.kill()
            process.wait(10)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
def test_prometheus_takes_its_configuration() -> None:
    config = PROMETHEUS.read_text().replace("/run/secrets/ray_token", "/dev/null")
    done = subprocess.run(
        ["promtool", "check", "config", "/dev/stdin"], input=config, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.stack
def test_mlflow_answers_to_its_name_and_to_no_other(tmp_path: Path) -> None:
    port, store = str(usable_port(0)), f"sqlite:///{tmp_path}"
    for name in ("mlflow_password", "mlflow_key", "postgres_password"):
        (tmp_path / name).write_text(f"the-{name}")
    users = (DOCKER / "mlflow-users.ini").read_text()
    (tmp_path / "users.ini").write_text(users.replace(_postgres(users), f"{store}/users.db"))
    environment = {
        key: value.replace("/run/secrets", str(tmp_path))
        for key, value in services()["mlflow"]["environment"].items()
    } | {"MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "users.ini")}
    command = compose_command(
        "mlflow", host=HOST, port=port, backend_store_uri=f"{store}/mlflow.db",
        artifacts_destination=str(tmp_path / "artifacts"),
    )  # fmt: skip
    with Servers() as servers:
        entrypoint = ["sh", str(DOCKER / "entrypoint.sh"), *command]
        servers.start("MLflow", entrypoint, f"http://{HOST}:{port}/health", environment)
        servers.wait_until_ready()
        for host in (f"{HOST}:{port}", f"localhost:{port}", "mlflow:5000"):
            assert _status(port, host, "admin:the-mlflow_password") == 200
            assert _status(port, host, "admin:guessed") == 401
        for host in ("evil.example", "mlflow.evil.example:5000", "192.168.1.2:5000"):
            assert _status(port, host, "admin:the-mlflow_password") == 403
    assert "mlflow:5000" in option("mlflow", "--allowed-hosts")


@pytest.mark.stack
def test_optunas_dashboard_opens_before_there_is_a_study(tmp_path: Path) -> None:
    port, study = str(usable_port(0)), f"sqlite:///{tmp_path}/study.db"
    *shell, command = services()["optuna-dashboard"]["command"]
    command = command.replace("$$", "$").replace("0.0.0.0", HOST).replace("8081", port)
    environment = {"STUDY": study, "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    with Servers() as servers:
        entrypoint = ["sh", str(DOCKER / "entrypoint.sh"), *shell, command]
        servers.start("Optuna's dashboard", entrypoint, f"http://{HOST}:{port}/dashboard/", environment)
        servers.wait_until_ready()
        assert json.loads(fetch(f"http://{HOST}:{port}/api/studies"))["study_summaries"] == []


def _postgres(text: str) -> str:
    return next(word for word in text.split() if word.startswith("postgresql"))


def _status(port: str, host: str, login: str) -> int:
    request = urllib.request.Request(
        f"http://{HOST}:{port}/api/2.0/mlflow/experiments/search?max_results=1",
        headers={"Host": host, "Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"},
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
