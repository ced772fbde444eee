"""Loggers besides MLflow: whatever happens, in the end they hold what the records say, each point once."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from search.records.folder import OpenedSearch, SearchFolder, open_search
from search.records.search_records import FINISHED, RUNNING, SearchRecords, TrialRecord
from search.tracking import logs
from search.tracking.logs import Logs, RunLog, measured, open_logs, params_of
from search.tracking.publishing import Publisher
from search.tracking.tensorboard_log import TensorBoardLog
from search.tracking.tracker import compared_metrics
from tests.support.made_up import made_up_search

Point = tuple[str, int, float]


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> OpenedSearch:
    root = tmp_path_factory.mktemp("results")
    return open_search(str(made_up_search(root / "mine", epochs="4")), root, with_model=False)


def until(records: SearchRecords, epoch: int) -> SearchRecords:
    """The records as they were after this epoch of every training run; one baseline is an epoch behind."""

    def then(record: TrialRecord, last: int) -> TrialRecord:
        readings = {e: metrics for e, metrics in record.readings.items() if e <= last}
        return replace(record, state=RUNNING, ended=None, readings=readings)

    late = max(records.baselines)
    baselines = {q: then(b, epoch - (q == late)) for q, b in records.baselines.items()}
    return replace(records, baselines=baselines, trials=[then(trial, epoch) for trial in records.trials])


def points_of(records: SearchRecords, record: TrialRecord) -> dict[Point, int]:
    """Every point of a training run, which is to be there once."""
    every = [
        (name, epoch, value)
        for epoch in record.readings
        for name, value in {**measured(record, epoch), **compared_metrics(records, record, epoch)}.items()
    ]
    return Counter(every)


def in_tensorboard(folder: Path) -> tuple[dict[Point, int], Any]:
    """The points that TensorBoard shows of a run, and its reader."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(folder), {"scalars": 0}).Reload()
    tags = reader.Tags()["scalars"]
    return Counter((tag, event.step, event.value) for tag in tags for event in reader.Scalars(tag)), reader


def rounded(points: dict[Point, int]) -> dict[Point, int]:
    """As TensorBoard holds them, in single precision."""
    return {
        (name, step, struct.unpack("f", struct.pack("f", value))[0]): count
        for (name, step, value), count in points.items()
    }


@pytest.mark.parametrize("torn", [0, 7])
def test_tensorboard_has_every_point_once_after_a_kill_and_a_resume(
    search: OpenedSearch, tmp_path: Path, torn: int
) -> None:
    records, log = search.records, TensorBoardLog(tmp_path)
    for epoch in (1, 3):
        log.write([until(records, epoch)], live=True)
    files = sorted(tmp_path.glob("*/events*"))
    for file in files:
        content = file.read_bytes()  # a killed process may leave the half of a record
        file.unlink()
        older = file.with_name(file.name.replace(".tfevents.", ".tfevents.0"))
        older.write_bytes(content[: len(content) - torn])
    again = TensorBoardLog(tmp_path)
    again.write([until(records, 2)], live=True)
    again.write([records], live=False)
    for record in records.everything():
        held, reader = in_tensorboard(tmp_path / record.name)
        assert held == rounded(points_of(records, record)), record.name
        assert reader.Tensors("state/text_summary")[-1].tensor_proto.string_val == [b"finished"]

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/events*")}
    TensorBoardLog(tmp_path).write([records], live=False)  # nothing is left to write
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/events*")} == before


def test_an_open_tensorboard_drops_the_points_that_are_written_again(
    search: OpenedSearch, tmp_path: Path
) -> None:
    """It reads the older file on, and then the one with all points."""
    records, record = search.records, search.records.trials[0]
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = TensorBoardLog(tmp_path)
    log.write([until(records, 3)], live=True)
    reader = accumulator.EventAccumulator(str(tmp_path / record.name), {"scalars": 0}).Reload()
    assert len(reader.Scalars("val/bpp")) == 3
    time.sleep(1.1)  # an event file is named by the second
    TensorBoardLog(tmp_path).write([records], live=False)
    reader.Reload()
    assert [event.step for event in reader.Scalars("val/bpp")] == [1, 2, 3, 4]


def test_the_params_are_tensorboards_hyperparameters(search: OpenedSearch, tmp_path: Path) -> None:
    record = search.records.trials[0]
    TensorBoardLog(tmp_path).write([search.records], live=False)
    _, reader = in_tensorboard(tmp_path / record.name)
    plugin = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    content = reader.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = plugin.HParamsPluginData.FromString(content).session_start_info.hparams
    found = {key: getattr(value, str(value.WhichOneof("kind"))) for key, value in hparams.items()}
    assert found == params_of(record) and found["alpha"] == record.alpha > 0


def test_an_interrupted_search_says_so_and_goes_on(search: OpenedSearch, tmp_path: Path) -> None:
    TensorBoardLog(tmp_path).write([until(search.records, 2)], live=False)
    _, reader = in_tensorboard(tmp_path / "trial-000")
    assert reader.Tensors("state/text_summary")[-1].tensor_proto.string_val == [b"interrupted"]
    TensorBoardLog(tmp_path).write([search.records], live=False)
    held, _ = in_tensorboard(tmp_path / "trial-000")
    assert held == rounded(points_of(search.records, search.records.trials[0]))


def test_the_real_search_is_in_tensorboard(real: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    found = open_search("real", real[0], with_model=False)
    assert f"{'tensorboard':<12} {found.folder / 'tensorboard'}" in real[1].stdout
    for record in found.records.everything():
        held, _ = in_tensorboard(found.folder / "tensorboard" / record.name)
        assert held == rounded(points_of(found.records, record))


def killed_after(action: Callable[[], None]) -> None:
    """Do something in a process that is then killed."""
    if (process := os.fork()) == 0:
        try:
            action()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of an offline run: a LevelDB log of protocol buffers."""
    message = pytest.importorskip("wandb.proto.wandb_internal_pb2").Record
    data, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield message.FromString(part)
            part = b""


def test_wandb_has_every_point_once_after_a_kill_and_a_resume(
    search: OpenedSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    from search.tracking import wandb_log

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(sys, "argv", ["search.run", "--study", "postgresql://me:s3cret@host/db"])
    wandb_log.mode.cache_clear()
    target, records = tmp_path / "wandb", search.records

    def session(*parts: SearchRecords) -> None:
        log = wandb_log.WandbLog(target, "mine")
        for part in parts:
            log.write([part], live=part is not records)

    killed_after(lambda: session(until(records, 1), until(records, 3)))
    assert len(list(target.glob("offline-run-*"))) == len(records.everything())
    session(until(records, 2), records)
    wandb.teardown()
    assert not [file for file in target.rglob("*") if file.is_file() and b"s3cret" in file.read_bytes()]
    assert len(list(target.glob("offline-run-*"))) == len(records.everything())
    for record in records.everything():
        (file,) = target.glob(f"offline-run-*-{record.name}-*/*.wandb")
        found, run = Counter[Point](), None
        summary: dict[str, Any] = {}
        config: dict[str, Any] = {}
        for message in wandb_records(file):
            kind = message.WhichOneof("record_type")
            if kind == "run" and run is None:
                run = message.run
                config = {item.key: json.loads(item.value_json) for item in run.config.update}
            if kind == "summary":
                summary |= {i.key: json.loads(i.value_json) for i in message.summary.update if i.key}
            if kind == "history":
                row = {i.nested_key[0]: json.loads(i.value_json) for i in message.history.item}
                epoch = row.pop("epoch")
                found.update((name, epoch, value) for name, value in row.items() if name[0] != "_")
        assert found == points_of(records, record)
        assert params_of(record).items() <= config.items()
        assert run is not None and (run.run_group, run.job_type) == ("mine", record.role)
        assert summary["state"] == FINISHED and summary["last_epoch"] == 4


class OnlineRun:
    """A run of W&B that has some steps already, as on a server."""

    def __init__(self, held: int) -> None:
        self.step, self.dir, self.summary = held, "files", dict[str, Any]()
        self.logged: list[int] = []

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "epoch")

    def log(self, row: dict[str, float], step: int) -> None:
        assert step > max(self.logged, default=0) and row["epoch"] == (step if step <= 4 else step - 4)
        self.logged.append(step)

    def finish(self, exit_code: int) -> None:
        self.summary["exit"] = exit_code


def test_a_resumed_online_run_goes_on_after_the_steps_that_the_server_has(
    search: OpenedSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    from search.tracking import wandb_log

    opened: dict[str, tuple[OnlineRun, str]] = {}

    def init(**given: Any) -> OnlineRun:
        run = OnlineRun(held=3 if given["name"] == "trial-000" else 0)
        opened[given["name"]] = run, given["id"]
        assert given["resume"] == "allow" and given["mode"] == "offline"
        return run

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr("wandb.init", init)
    wandb_log.mode.cache_clear()
    log = wandb_log.WandbLog(tmp_path / "wandb", "mine")
    log.write([until(search.records, 2)], live=True)
    running = {name: list(run.logged) for name, (run, _) in opened.items()}
    assert (running["trial-000"], running["trial-001"]) == ([], [1, 2])
    log.write([search.records], live=False)
    assert opened["trial-000"][0].logged == [3, 4, 5, 6, 7, 8]
    assert opened["trial-001"][0].logged == [*range(1, 9)]
    ids = {name: id_ for name, (_, id_) in opened.items()}
    wandb_log.WandbLog(tmp_path / "elsewhere", "mine").write([search.records], live=False)
    assert {name: id_ for name, (_, id_) in opened.items()} == ids and len(set(ids.values())) == 6


def test_wandb_is_offline_without_a_key_or_a_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    from search.tracking import wandb_log

    def mode() -> str | None:
        wandb_log.mode.cache_clear()
        return wandb_log.mode()

    asked: list[str] = []
    monkeypatch.setattr("requests.head", lambda url, **_: asked.append(url))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.example")
    assert mode() == "offline" and asked == []
    (tmp_path / "netrc").write_text("machine wandb.example login user password key\n")
    assert mode() == "online" and asked == ["http://wandb.example"]
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert mode() == "online"

    def away(url: str, timeout: float) -> None:
        raise requests.ConnectionError(f"{url} did not answer in {timeout} s")

    monkeypatch.setattr("requests.head", away)
    assert mode() == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")  # as the user says
    assert mode() is None
    wandb_log.mode.cache_clear()


class Failing(RunLog):
    """A logger that fails for so many times, and notes what it is asked."""

    name = "Failing"

    def __init__(self, folder: Path, times: int) -> None:
        super().__init__(folder)
        self.left, self.resets, self.ended = times, 0, list[tuple[str, str]]()

    def write_run(self, *_: Any) -> bool:
        if self.left:
            self.left -= 1
            raise OSError(28, "No space left on device")
        return True

    def end_run(self, record: TrialRecord, state: str) -> None:
        self.ended.append((record.name, state))

    def reset(self) -> None:
        self.resets += 1
        raise RuntimeError("nor can this")


def until_true(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not fact() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert fact()


def test_a_logger_that_fails_is_named_once_and_tried_again(
    search: OpenedSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_AGAIN", 0.0)
    said: list[str] = []
    log, other = Failing(tmp_path, 2), Failing(tmp_path / "other", 0)
    (tmp_path / "other").mkdir()
    passing = Logs([log, other], said.append)
    for left in (1, 0):
        passing.offer([until(search.records, 1)])
        until_true(lambda left=left: log.left == left)  # type: ignore[misc]
    passing.offer([search.records], live=False)
    passing.wait()
    assert len(said) == 1 and said[0].startswith("cannot write to Failing (")
    assert "No space left on device" in said[0] and "the search continues" in said[0]
    assert log.resets == 2
    everything = sorted((record.name, FINISHED) for record in search.records.everything())
    assert sorted(log.ended) == sorted(other.ended) == everything


def test_a_logger_that_fails_is_left_alone_for_a_minute_but_not_at_the_end(
    search: OpenedSearch, tmp_path: Path
) -> None:
    log = Failing(tmp_path, 1)
    passing = Logs([log], lambda _: None)
    passing.offer([search.records])
    until_true(lambda: log.resets == 1)
    passing.offer([search.records])
    until_true(lambda: passing._offered is None)
    assert log.ended == []
    passing.offer([search.records], live=False)
    passing.wait()
    assert len(log.ended) == 6


def test_what_a_logger_lacks_at_the_end_is_said(search: OpenedSearch, tmp_path: Path) -> None:
    said: list[str] = []
    passing = Logs([Failing(tmp_path, 9)], said.append)
    passing.offer([search.records], live=False)
    passing.wait()
    assert said[1:] == ["Failing lacks the last records; resume the search to write them"]


def test_the_publisher_passes_the_records_on_and_waits_for_both(search: OpenedSearch, tmp_path: Path) -> None:
    log, tracker = Failing(tmp_path, 0), SimpleNamespace()
    for name in ("write", "artifacts", "conclude", "close"):
        setattr(tracker, name, lambda *_, **__: None)
    publisher = Publisher(tracker, ("y",), lambda _: None, [log])  # type: ignore[arg-type]
    publisher.offer([search.records])
    assert publisher.close([search.records], {}, "FINISHED")
    assert len(log.ended) == 6
    assert Publisher(tracker, ("y",), lambda _: None).close([search.records], {}, "FINISHED")  # type: ignore[arg-type]


def test_a_package_that_cannot_be_imported_costs_no_search(
    search: OpenedSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = search.settings.model_copy(update={"log_to": ("tensorboard", "wandb")})
    monkeypatch.setitem(sys.modules, "search.tracking.wandb_log", None)
    said: list[str] = []
    found = open_logs(SearchFolder(search.folder, settings), said.append)
    assert [log.name for log in found] == ["TensorBoard"]
    assert len(said) == 1 and said[0].startswith("cannot log to wandb (")
