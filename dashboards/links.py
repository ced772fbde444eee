"""Starts the servers that show a search and links to them (`python -m dashboards.open`)."""

from __future__ import annotations

import argparse
import http.client
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dashboards import report
from dashboards.servers import HOST, ServerError, Servers, fetch, usable_port
from search.base.secrets import public
from search.records.folder import OpenedSearch, open_search
from search.store.find import FolderError, recorded_at, searches_in
from search.store.storage import open_to_read, sqlite_address_of_mode, sqlite_file
from search.tracking import views
from search.tracking.tracker import first_line, missing_file, tracking_address

if TYPE_CHECKING:
    from mlflow.entities import Experiment


def show(args: argparse.Namespace) -> None:
    """Start the servers, print the links and wait for Ctrl-C or the end of a server. Raises FolderError,
    ServerError."""
    search = open_search(args.search or _newest(args.results), args.results, with_model=False)
    with Servers() as servers:
        links = serve(search, servers, args.port, args.optuna_port)
        print(f"{search.records.name}, {search.ended} of {search.plan.budget} trials", flush=True)
        for name, address in links.items():
            print(f"  {name:<22} {address}", flush=True)
        print("press Ctrl-C to stop the servers", flush=True)
        servers.watch()


def serve(search: OpenedSearch, servers: Servers, port: int, optuna_port: int) -> dict[str, str]:
    """Start the servers that do not run yet and wait for them; returns links by name. Raises ServerError."""
    links = {
        **_mlflow(search, servers, port),
        "Optuna's dashboard": _optuna(search, servers, optuna_port),
        "report": _report(search),
    }
    servers.wait_until_ready()
    return links


def _newest(results: Path) -> str:
    """The name of the most recently written search. Raises FolderError."""
    found = searches_in(results)
    if not found:
        raise FolderError(f"no search in {results}; run one first, or give its folder")
    return found[-1].name


def _mlflow(search: OpenedSearch, servers: Servers, port: int) -> dict[str, str]:
    """Links to the search's views in MLflow: on its tracking server, on a running server of the same store,
    or on a new one. Without the search in MLflow, prints why and returns no links."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    records, results = search.records, search.folder.resolve().parent
    uri = tracking_address(search.settings.tracking_uri, results)
    if database := missing_file(uri):
        return _without_mlflow(f"no MLflow store at {database}")
    try:
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(records.name)
        if experiment is None:
            return _without_mlflow(f"MLflow at {public(uri)} has no experiment {records.name}")
        number = experiment.experiment_id
        views.install_views(client, number, records.test_set, records.selection, records.qualities)
    except MlflowException as error:
        return _without_mlflow(f"cannot query MLflow at {public(uri)} ({first_line(error)})")
    base = uri
    if not uri.startswith(("http://", "https://")):
        base = f"http://{HOST}:{port}"
        if not _serves(base, client.get_experiment(number)):
            base = f"http://{HOST}:{serve_mlflow(servers, uri, port)}"
    links = {"leaderboard": views.link(base, number, views.LEADERBOARD)}
    for quality in records.qualities:
        links[f"learning curves, q{quality}"] = views.link(base, number, views.curves(quality))
    return {**links, "parallel coordinates": views.link(base, number, views.PARALLEL)}


def _without_mlflow(reason: str) -> dict[str, str]:
    print(f"lictune: {reason}; links to MLflow are omitted", file=sys.stderr)
    return {}


def _serves(base: str, experiment: Experiment) -> bool:
    """Whether an MLflow server at `base` serves the store of this experiment, including its views."""
    try:
        address = f"{base}/api/2.0/mlflow/experiments/get?experiment_id={experiment.experiment_id}"
        found = json.loads(fetch(address))["experiment"]
        tags = {tag["key"]: tag["value"] for tag in found["tags"]}
        expected = (experiment.name, experiment.creation_time, experiment.tags)
        return (found["name"], int(found["creation_time"]), tags) == expected
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return False  # no server, or another kind


def serve_mlflow(servers: Servers, uri: str, wanted: int) -> int:
    """Start an MLflow server on a store; returns its port."""
    port = _port("MLflow", wanted)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    environment = {
        "MLFLOW_BACKEND_STORE_URI": uri,  # not an argument: it may hold a password
        # The job workers are for evaluations of language models, and outlive the server.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    servers.start("MLflow", command, f"http://{HOST}:{port}/health", environment)
    return port


def _optuna(search: OpenedSearch, servers: Servers, wanted: int) -> str:
    """Start Optuna's dashboard on the search's storage (SQLite: read-only); returns the link."""
    storage = search.place.address
    number = open_to_read(storage).get_study_id_from_name(search.records.name)
    database = sqlite_file(storage)
    if database is not None:
        storage = sqlite_address_of_mode(database, "ro")
    port = _port("Optuna's dashboard", wanted)
    command = [sys.executable, "-m", "optuna_dashboard._cli", storage, "--host", HOST, "--port", str(port)]
    # The default, gunicorn where installed, leaves a control socket in the home folder.
    command += ["--server", "wsgiref", "--quiet"]
    servers.start("Optuna's dashboard", command, f"http://{HOST}:{port}/api/meta")
    return f"http://{HOST}:{port}/dashboard/studies/{number}"


def _port(server: str, wanted: int) -> int:
    port = usable_port(wanted)
    if port != wanted:
        print(f"lictune: port {wanted} is in use; {server} runs on port {port}", file=sys.stderr)
    return port


def _report(search: OpenedSearch) -> str:
    """The URL of the report; writes it first if it is older than the records."""
    target = search.folder.resolve() / "report.html"
    if not target.is_file() or target.stat().st_mtime < recorded_at(search.folder):
        status = report.main([str(search.folder.resolve())])
        if status != 0:
            raise ServerError("cannot write the report, see above")
    return target.as_uri()
