"""Writes training runs as TensorBoard event files: `tensorboard --logdir FOLDER` shows them."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import hparams, text

from search.records.search_records import FINISHED, STOPPED, SearchRecords, TrialRecord
from search.tracking.logs import RunLog, measured, params_of
from search.tracking.tracker import compared_metrics


@dataclass
class _Run:
    """The event file of a training run, and the metrics written to it by epoch."""

    # Not a SummaryWriter: its thread dies of a full disk, and then blocks whoever flushes it.
    file: Any
    written: dict[int, set[str]] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)


class TensorBoardLog(RunLog):
    """One folder per training run. A new process writes a new event file with all points of the run, which
    begins by telling TensorBoard to discard the points of older files. Those are kept: a TensorBoard that is
    reading one would not notice the new file."""

    name = "TensorBoard"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._runs: dict[str, _Run] = {}

    def write_run(self, records: SearchRecords, record: TrialRecord) -> bool:
        run = self._runs.get(record.name) or self._open(records, record)
        for epoch in sorted(record.readings.keys() - run.settled):
            known, held = measured(record, epoch), run.written.setdefault(epoch, set())
            known |= compared_metrics(records, record, epoch)
            values = [
                Summary.Value(tag=name, simple_value=known[name]) for name in sorted(known.keys() - held)
            ]
            if values:
                at = record.measured_at(epoch)
                run.file.write_event(Event(wall_time=at, step=epoch, summary=Summary(value=values)))
            held.update(known)
            if records.comparable(record, epoch):
                run.settled.add(epoch)
                del run.written[epoch]
        run.file.flush()
        return len(run.settled) == len(record.readings)

    def _open(self, records: SearchRecords, record: TrialRecord) -> _Run:
        folder = self.folder / record.name
        folder.mkdir(parents=True, exist_ok=True)
        file: Any = EventsWriter(str(folder / "events"))
        began = record.began or time.time()
        file.write_event(Event(wall_time=began, step=0, session_log=SessionLog(status=SessionLog.START)))
        shown = [f"{records.test_set}/{name}" for name in ("bd_rate_psnr", "bd_rate_msssim")]
        experiment, start, _ = hparams(params_of(record), dict.fromkeys(shown))
        for summary in (experiment, start):
            file.write_event(Event(wall_time=began, summary=summary))
        return self._runs.setdefault(record.name, _Run(file))

    def end_run(self, record: TrialRecord, state: str) -> None:
        run = self._runs.pop(record.name)
        told = f"{state}: {record.reason}" if record.reason else state
        ended, epoch = record.ended or time.time(), record.last_epoch
        run.file.write_event(Event(wall_time=ended, step=epoch, summary=text("state", told)))
        if state in (FINISHED, STOPPED):
            run.file.write_event(Event(wall_time=ended, summary=hparams({}, {})[2]))
        run.file.close()

    def reset(self) -> None:
        for run in self._runs.values():
            with contextlib.suppress(OSError):
                run.file.close()
        self._runs.clear()
