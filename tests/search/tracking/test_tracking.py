"""MLflow as a view: whatever happens to it, in the end it holds what the records say."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from sqlalchemy import Engine, event
from sqlalchemy.pool import Pool

from search import track
from search.records.folder import OpenedSearch, SearchFolder, open_search
from search.records.search_records import RUNNING, SearchRecords
from search.tracking import publishing
from search.tracking.publishing import Publisher
from search.tracking.tracker import (
    PARENT,
    ROLE_TAG,
    SEARCH_TAG,
    Tracker,
    TrackingError,
    first_line,
    held_runs,
    runs_of,
)
from search.tracking.views import install_views

Real = tuple[Path, subprocess.CompletedProcess[str]]

PASSWORD = "s3cret"


@pytest.fixture(scope="module")
def search(real: Real) -> OpenedSearch:
    return open_search("real", real[0], with_model=False)


@pytest.fixture
def folder(search: OpenedSearch, tmp_path: Path) -> Path:
    """The search's folder without what only the training needs."""
    target = tmp_path / "real"
    shutil.copytree(search.folder, target, ignore=shutil.ignore_patterns("trials", "artifacts", "best"))
    return target


def held(uri: str, name: str = "real") -> dict[str, Any]:
    """Everything that MLflow holds of a search, but for ids."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    found: dict[str, Any] = {}
    runs = runs_of(client, experiment.experiment_id)
    for run in runs:
        tags = {k: v for k, v in run.data.tags.items() if k.startswith("lictune.")}
        figures = {
            (key, point.step, point.timestamp, point.value)
            for key in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, key)
        }
        name = tags.get("lictune.trial", "")
        assert name not in found, "a run is there twice"
        found[name] = (run.info.run_name, run.info.status, tags, run.data.params, figures)
    return found


def steps_of(records: SearchRecords) -> Iterator[SearchRecords]:
    """The records as they were after every epoch: baselines first, then the trials, all together."""
    whole = {record.name: record for record in records.everything()}
    for epoch in range(1, records.epochs + 1):
        then = {
            name: record
            if record.last_epoch <= epoch and record.ended is not None
            else dataclasses.replace(
                record,
                state=RUNNING,
                ended=None,
                readings={e: f for e, f in record.readings.items() if e <= epoch},
            )
            for name, record in whole.items()
        }
        yield dataclasses.replace(
            records,
            baselines={quality: then[b.name] for quality, b in records.baselines.items()},
            trials=[then[trial.name] for trial in records.trials],
        )


def publish(
    uri: str, search: OpenedSearch, folder: Path, between: Callable[[int, Publisher], None]
) -> tuple[dict[str, Any], list[str], float]:
    """What MLflow holds after the search was published step by step, what was said, and the longest time
    that an offer took, in seconds."""
    said: list[str] = []
    publisher = Publisher(
        Tracker(uri, "real", SearchFolder.read(folder)), search.plan.strategies, said.append
    )
    longest = 0.0
    for number, records in enumerate(steps_of(search.records)):
        began = time.perf_counter()
        publisher.offer([records])
        longest = max(longest, time.perf_counter() - began)
        between(number, publisher)
    assert publisher.close([search.records], {"best": 1.0}, "FINISHED")
    return held(uri), said, longest


def settle(_number: int, publisher: Publisher) -> None:
    publisher._queue.join()


def until_trouble(publisher: Publisher) -> str:
    deadline = time.monotonic() + 120
    while not publisher.trouble and time.monotonic() < deadline:
        time.sleep(0.05)
    return publisher.trouble


def test_step_by_step_or_at_once_is_the_same(search: OpenedSearch, folder: Path, tmp_path: Path) -> None:
    slowly, said, _ = publish(f"sqlite:///{tmp_path}/slowly.db", search, folder, settle)
    at_once, _, _ = publish(f"sqlite:///{tmp_path}/at_once.db", search, folder, lambda *_: None)
    assert slowly == at_once and said == []
    assert sum(len(run[4]) for run in slowly.values()) > 300


def test_rebuilt_from_nothing_it_equals_what_the_search_wrote(
    real: Real, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path}/again.db"
    arguments = [str(folder), "--tracking-uri", uri]
    assert track.main(arguments) == 1
    assert "MLflow has 0 of 14 training runs of real" in capsys.readouterr().out
    for _ in range(2):  # the second changes nothing
        assert track.main([*arguments, "--rebuild"]) == 0
        assert held(uri) == held(f"sqlite:///{real[0]}/mlflow.db")
    assert "MLflow has 14 of 14 training runs of real" in capsys.readouterr().out


def test_runs_that_a_killed_process_left_are_put_right(
    search: OpenedSearch, folder: Path, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/left.db"
    halves = list(steps_of(search.records))
    tracker = Tracker(uri, "real", SearchFolder.read(folder))
    tracker.write([halves[0]], search.plan.strategies, live=True)
    client = MlflowClient(uri)
    twice = next(run for run in runs_of(client, tracker.experiment) if run.data.tags.get("lictune.trial"))
    client.create_run(tracker.experiment, tags=twice.data.tags)

    # A run of someone else's, whose search would be looked for in another folder, is left alone.
    theirs = {ROLE_TAG: PARENT, SEARCH_TAG: "../real"}
    client.create_run(client.create_experiment("theirs"), tags=theirs)

    # Another search of this store sees that no process is at work on it, and ends its runs.
    other = Tracker(uri, "other", SearchFolder.read(folder))
    assert other.sweep_others(lambda name: name == "real") == ["real"]
    assert {run.info.status for run in runs_of(client, tracker.experiment)} <= {"KILLED", "FINISHED"}
    assert other.sweep_others(bool) == []

    again = Tracker(uri, "real", SearchFolder.read(folder))
    again.write([search.records], search.plan.strategies, live=False)
    again.close("FINISHED")
    fresh = f"sqlite:///{tmp_path}/fresh.db"
    whole = Tracker(fresh, "real", SearchFolder.read(folder))
    whole.write([search.records], search.plan.strategies, live=False)
    whole.close("FINISHED")
    assert held(uri) == held(fresh)


def test_a_full_disk_is_named_and_the_search_goes_on(
    search: OpenedSearch, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_AGAIN", 0.2)
    limit = {"pages": 1_000_000}

    def limited(connection: Any, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {limit['pages']}")

    event.listen(Pool, "checkout", limited)
    try:

        def fill(number: int, publisher: Publisher) -> None:
            if number == 0:
                settle(number, publisher)
                limit["pages"] = 1  # SQLite takes it for the pages there are: not one more
            elif number == 1:
                assert "full" in until_trouble(publisher)
                limit["pages"] = 1_000_000

        found, said, longest = publish(f"sqlite:///{tmp_path}/full.db", search, folder, fill)
    finally:
        event.remove(Pool, "checkout", limited)
    assert longest < 0.05
    assert "cannot write to MLflow" in said[0] and "full" in said[0]
    assert said[-1] == "MLflow is available again and up to date"
    assert found == publish(f"sqlite:///{tmp_path}/whole.db", search, folder, settle)[0]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[bytes], str]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = f"sqlite:///{tmp_path}/server.db"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--artifacts-destination", str(tmp_path / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    started: list[subprocess.Popen[bytes]] = []

    def start() -> tuple[subprocess.Popen[bytes], str]:
        log = (tmp_path / "server.log").open("a")
        started.append(
            subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        )
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    return started[-1], f"http://user:{PASSWORD}@127.0.0.1:{port}"
            except OSError:
                time.sleep(0.5)
        raise AssertionError((tmp_path / "server.log").read_text())

    yield start
    for process in started:
        stop(process)


def stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.slow
def test_a_server_killed_and_started_again_holds_everything(
    search: OpenedSearch, folder: Path, tmp_path: Path,
    server: Callable[[], tuple[subprocess.Popen[bytes], str]], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(publishing, "_AGAIN", 0.5)
    process, address = server()

    def kill(number: int, publisher: Publisher) -> None:
        if number == 0:
            settle(number, publisher)
            stop(process)
        if number == 1:
            assert until_trouble(publisher)
            server()

    found, said, longest = publish(address, search, folder, kill)
    assert longest < 0.05
    assert "the search continues" in said[0] and "available again" in said[-1]
    assert "http://user:***@127.0.0.1" in said[0]
    assert capsys.readouterr().out == ""  # the terminal is the search's own
    assert found == publish(f"sqlite:///{tmp_path}/undisturbed.db", search, folder, settle)[0]


def test_a_server_that_stays_away_costs_a_minute_and_is_said(
    search: OpenedSearch, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_PATIENCE", 1.0)
    tracker = Tracker(f"sqlite:///{tmp_path}/gone.db", "real", SearchFolder.read(folder))
    monkeypatch.setattr(tracker, "write", lambda *_, **__: (_ for _ in ()).throw(OSError("away")))
    publisher = Publisher(tracker, search.plan.strategies, lambda _: None)
    publisher.offer([search.records])
    assert not publisher.close([search.records], {}, "FINISHED")
    assert publisher.trouble == "away"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow with nothing in it, which takes MLflow seconds to make."""
    made = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(f"sqlite:///{made}").search_experiments()
    return made


NEWER = r"a newer version of MLflow than the installed \S+\); install the version of MLflow that wrote it"
OLDER = (
    r"an older version of MLflow than the installed \S+\); back it up, then run: mlflow db upgrade sqlite:"
)


@pytest.mark.parametrize(("revision", "said"), [("ffffffffffff", NEWER), ("451aebb31d03", OLDER)])
def test_a_database_of_another_mlflow_is_said_to_be_one(
    empty: Path, tmp_path: Path, revision: str, said: str
) -> None:
    (tmp_path / "settings.yaml").write_text("budget: 1\n")
    (tmp_path / "environment.json").write_text("{}")
    shutil.copy(empty, tmp_path / "other.db")
    with sqlite3.connect(tmp_path / "other.db") as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    uri = f"sqlite:///{tmp_path}/other.db"
    for use in (lambda: Tracker(uri, "real", SearchFolder.read(tmp_path)), lambda: held_runs(uri, "real")):
        with pytest.raises(TrackingError, match=said):
            use()


def test_a_store_whose_making_was_broken_off_is_made_anew(tmp_path: Path) -> None:
    folder, uri = tmp_path / "search", f"sqlite:///{tmp_path}/new.db"
    folder.mkdir()
    (folder / "settings.yaml").write_text("model: cheng\n")
    (folder / "environment.json").write_text("{}")

    def interrupted(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "ADD COLUMN storage_location" in statement:  # the middle of MLflow's migrations
            raise KeyboardInterrupt

    event.listen(Engine, "after_cursor_execute", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            Tracker(uri, "search", SearchFolder.read(folder))
    finally:
        event.remove(Engine, "after_cursor_execute", interrupted)
    assert Tracker(uri, "search", SearchFolder.read(folder)).parent
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.db", "search"]


@pytest.mark.parametrize("count", [0, 3, 998, 999, 3000])
def test_a_run_is_written_in_as_few_requests_as_mlflow_takes(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int, int]] = []

    class Client:
        def log_batch(self, _run: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
            sent.append((len(metrics), len(params), len(tags)))

    tracker = Tracker.__new__(Tracker)
    monkeypatch.setattr(tracker, "_client", Client(), raising=False)
    tracker._log("run", [Metric("loss", 0.0, 0, step) for step in range(count)], {"seed": "0"}, {"x": "y"})
    assert tuple(map(sum, zip(*sent, strict=True))) == (count, 1, 1)
    assert max(map(sum, sent)) <= 1000 and len(sent) == -(-(count + 2) // 1000)


def test_a_long_reason_is_cut_between_words() -> None:
    told = first_line(RuntimeError("the server says that " + "word " * 100))
    assert len(told) <= 200 and told.endswith("word ...")


@pytest.mark.parametrize("name", ["équipe", "結果"])
def test_mlflow_keeps_names_of_any_script(name: str, empty: Path, tmp_path: Path) -> None:
    shutil.copy(empty, tmp_path / "mlflow.db")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment(name)
    install_views(client, experiment, name, "val", (3,))
    for value in (2.0, 1.0):
        run = client.create_run(experiment).info.run_id
        client.log_batch(run, metrics=[Metric(f"{name}/bd_rate_psnr", value, 0, 1)])
    query, order = f"metrics.`{name}/bd_rate_psnr` < 2", [f"metrics.`{name}/bd_rate_psnr` ASC"]
    found = client.search_runs([experiment], order_by=order)
    assert [run.data.metrics[f"{name}/bd_rate_psnr"] for run in found] == [1.0, 2.0]
    assert len(client.search_runs([experiment], query)) == 1
    assert client.get_experiment_by_name(name) is not None
