"""Monitors a running search from its records: shows progress, writes to MLflow, updates the report."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from lic.machine import processors
from search.base.space import Plan
from search.records.folder import SearchFolder
from search.records.progress import Progress, progress_of
from search.records.search_records import FINISHED, RUNNING, RecordReader, SearchRecords
from search.session.metrics import Gauges
from search.session.retention import Retention
from search.session.terminal import View
from search.tracking.publishing import Publisher

_log = logging.getLogger(__name__)

#: Seconds between reads of the records, and between measurements of memory.
_LOOK_EVERY, _MEMORY_EVERY = 1.0, 60.0

#: Seconds between updates of the gauges; Ray drops a gauge that was not set for 20 s.
_GAUGES_EVERY = 5.0

#: Reading the records takes at most 1/20 of the time, writing the report 1/200 of the machine's.
_READING, _REPORTING = 20, 200

#: Assumed processor seconds of the first report.
_FIRST_REPORT = 30.0


@dataclass(frozen=True)
class Followed:
    """The monitored search: its folder, its plan, the name of the test set, and the number of concurrent
    training runs."""

    opened: SearchFolder
    plan: Plan
    test_set: str
    workers: int

    def reader(self) -> RecordReader:
        """A reader of its records, with its own connection."""
        return RecordReader(self.opened.studies(), self.plan, self.test_set)


class Monitor:
    """Reads the records in its own thread, over its own connection, whenever the engine reports that
    something `changed`, and passes them to the terminal, MLflow, the gauges, the report and the retention of
    checkpoints. The engine's loop never waits for it. `watch` is called first."""

    def __init__(
        self,
        followed: Followed,
        publisher: Publisher,
        view: View,
        retention: Retention | None = None,
        gauges: Gauges | None = None,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        self._followed, self._publisher, self._view = followed, publisher, view
        self._retention, self._gauges, self._watch = retention, gauges, watch
        self._progress: Progress | None = None
        self._reader = followed.reader()
        #: The number of planned training runs on fresh seeds.
        self.confirming = followed.plan.noise_baselines
        self._memory_seen = 0.0
        #: Start of monitoring, in seconds since 1970.
        self.since = time.time()
        before = self.groups()
        trained = [record for group in before for record in group.everything()]
        self._told = {record.name for record in trained if record.state != RUNNING}
        if self._retention is not None:
            self._retention.offer(before)
        self._report = _Report(followed.opened.path)
        #: Largest memory of this process and all below it so far, MiB.
        self.peak_memory = 0.0
        self._news, self._over = threading.Event(), threading.Event()
        self._watch()
        self._thread = threading.Thread(target=self._follow, name="monitor", daemon=True)
        self._thread.start()

    def changed(self) -> None:
        """Something was proposed, measured or ended. Returns at once."""
        self._news.set()

    def records(self) -> SearchRecords:
        return self._reader.read()

    def groups(self) -> list[SearchRecords]:
        """The records of the search, and of each confirmation seed."""
        return [self.records(), *(self._reader.read_confirmation() if self.confirming else ())]

    def close(self) -> None:
        """Look a last time, and stop."""
        self._over.set()
        self._news.set()
        self._thread.join()
        self._try_to_look()
        self._report.stop()
        self._view.close()

    def _follow(self) -> None:
        while not self._over.is_set():
            idle_until = time.monotonic() + _MEMORY_EVERY
            while not self._news.wait(_GAUGES_EVERY) and time.monotonic() < idle_until:
                self._set_gauges()
            self._news.clear()
            began = time.monotonic()
            self._try_to_look()
            self._over.wait(max(_LOOK_EVERY, _READING * (time.monotonic() - began)))

    def _try_to_look(self) -> None:
        try:
            self._look()
        except Exception:  # the search continues: its results are in Optuna's storage
            _log.exception("the monitor failed")

    def _look(self) -> None:
        self._watch()
        groups = self.groups()
        own = self._followed
        progress = progress_of(groups, own.plan, self.confirming, own.workers, self.since, time.time())
        news = [r for r in progress.trainings if r.state != RUNNING and r.name not in self._told]
        news.sort(key=lambda record: record.ended or 0.0)
        self._view.show(replace(progress, trouble=self._publisher.trouble, news=news))
        self._told |= {record.name for record in news}
        if self._retention is not None:
            self._retention.offer(groups)
        self._publisher.offer(groups)
        self._progress = progress
        self._set_gauges()
        if any(trial.state == FINISHED for trial in groups[0].trials):
            self._report.refresh()
        if time.monotonic() - self._memory_seen > _MEMORY_EVERY:
            self._memory_seen = time.monotonic()
            self.peak_memory = max(self.peak_memory, tree_memory())

    def _set_gauges(self) -> None:
        if self._gauges is not None and self._progress is not None:
            self._gauges.show(self._progress, self._publisher.behind)


class _Report:
    """Rewrites the report from time to time, in a process of the lowest priority."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._opened = self._began = time.monotonic()
        self._spent, self._next = 0.0, _FIRST_REPORT
        self._processors = processors()

    def refresh(self) -> None:
        now = time.monotonic()
        if self._process is not None:
            if self._process.poll() is None:
                return
            self._process, self._next = None, now - self._began
            self._spent += self._next
        machine = (now - self._opened) * self._processors
        if machine >= _REPORTING * (self._spent + self._next):
            self._process, self._began = start_report(self._folder), now
            psutil.Process(self._process.pid).nice(19)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def start_report(folder: Path) -> subprocess.Popen[bytes]:
    """Start a process that writes the report of the search; its output goes to search.log."""
    with (folder / "search.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dashboards.report", str(folder)], stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}, process_group=0,  # no Ctrl-C for it
        )  # fmt: skip


def tree_memory() -> float:
    """Memory of this process and its descendants in MiB: the sum of proportional set sizes, which count
    shared pages once."""
    own, total = psutil.Process(), 0
    for process in (own, *own.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue  # it has ended
    return total / 2**20
