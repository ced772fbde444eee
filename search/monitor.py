"""Follows a running search: writes MLflow, shows progress and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

from lic.recipe import LAMBDAS
from lic.trial import Readings
from search.core import Core
from search.records import FAILED, FINISHED, STOPPED, RecordReader, SearchRecords, TrialRecord
from search.space import BASELINE, TRIAL, Candidate
from search.tracking import Tracker

_MLFLOW_STATUS = {FINISHED: "FINISHED", STOPPED: "KILLED", FAILED: "FAILED"}

#: Share of its epochs that a trial is expected to run while none has ended yet (design.md: 45 %).
_EXPECTED_SHARE = 0.45

#: Seconds between two looks at the memory in use; a look costs some tenths of a second.
_MEMORY_EVERY = 60


class Monitor:
    """The engine's listener. All that it shows is read from the records."""

    def __init__(self, core: Core, test_set: str, tracker: Tracker, say: Callable[[str], None]) -> None:
        self.core, self.tracker, self.say = core, tracker, say
        self._reader = RecordReader((core.trials, core.baselines), core.plan, test_set)
        self._started = time.monotonic()
        self._waiting: dict[tuple[str, int], set[str]] = {}
        self._ended: set[str] = set()
        self._epochs_seen = 0
        self._memory_seen = 0.0
        #: Largest memory of this process and all below it so far, MiB.
        self.peak_memory = 0.0

    def records(self) -> SearchRecords:
        return self._reader.read()

    def started(self, candidate: Candidate) -> None:
        self.tracker.started(candidate, LAMBDAS[candidate.quality])

    def reused(self, quality: int) -> None:
        """Log a baseline that was taken over from an earlier search."""
        record = self.records().baselines[quality]
        self.tracker.started(
            Candidate(record.name, BASELINE, quality, 0.0, "", record.seed), LAMBDAS[quality]
        )
        for epoch, figures in record.readings.items():
            self.tracker.measured(record.name, epoch, figures)
        self._ended.add(record.name)
        tags = {"lictune.state": record.state, "lictune.taken_from": record.source}
        self.tracker.ended(record.name, "FINISHED", tags)

    def measured(self, name: str, readings: Readings) -> None:
        self._epochs_seen += 1
        if time.monotonic() - self._memory_seen > _MEMORY_EVERY:
            self._memory_seen = time.monotonic()
            self.peak_memory = max(self.peak_memory, tree_memory())
        self.tracker.measured(name, readings.epoch, readings.figures)
        self._waiting[name, readings.epoch] = set()
        self._follow_up(self.records())

    def ended(self, name: str) -> None:
        records = self.records()
        self._follow_up(records)
        record = {r.name: r for r in records.everything()}[name]
        self._ended.add(name)
        tags = {"lictune.state": record.state}
        if record.state == STOPPED:
            tags["lictune.stopped_at_epoch"] = str(record.last_epoch)
        if record.reason:
            tags["lictune.reason"] = record.reason
        self.tracker.ended(name, _MLFLOW_STATUS.get(record.state, "FINISHED"), tags)
        self._log_best(records)
        self.say(self._line(records, record))

    def _follow_up(self, records: SearchRecords) -> None:
        """Log what compares readings with the baselines, as soon as both are there."""
        by_name = {record.name: record for record in records.everything()}
        for (name, epoch), logged in list(self._waiting.items()):
            record = by_name[name]
            derived = records.derived(record, epoch)
            fresh = {key: value for key, value in derived.items() if key not in logged}
            if fresh:
                self.tracker.measured(name, epoch, fresh)
                logged.update(fresh)
            if records.comparable(record, epoch):
                del self._waiting[name, epoch]

    def close(self) -> None:
        """End the runs of trainings that were cut off, when the search is interrupted."""
        for record in self.records().everything():
            if record.name not in self._ended:
                self.tracker.ended(record.name, "KILLED", {"lictune.state": "interrupted"})

    def _log_best(self, records: SearchRecords) -> None:
        figures = {}
        for quality in records.qualities:
            if (best := records.best(records.finished(quality))) is not None:
                change = records.rate_change(best, records.epochs, records.selection)
                figures[f"best/rate_change_q{quality}"] = float(change or 0.0)
        if figures:
            self.tracker.search_measured(len(self._ended), figures)

    def _line(self, records: SearchRecords, record: TrialRecord) -> str:
        total = self.core.plan.budget + len(self.core.plan.qualities)
        what = BASELINE if record.role == BASELINE else f"{record.strategy:<3} alpha {record.alpha:.2e}"
        change = records.rate_change(record, record.last_epoch, records.selection)
        if record.role == BASELINE:
            figures = record.readings.get(record.last_epoch, {})
            result = (
                f"{figures.get(f'{records.test_set}/bpp', float('nan')):.3f} bpp, "
                f"{figures.get(f'{records.test_set}/psnr', float('nan')):.2f} dB"
            )
        else:
            result = f"{change:+.2f} %" if change is not None else "-"
        state = (
            record.state
            if record.state == FINISHED
            else (f"{record.state} after {record.last_epoch} of {records.epochs}")
        )
        if record.reason:
            state += f": {record.reason}"
        return (
            f"[{len(self._ended):>3}/{total}] {record.name:<12} q{record.quality} {what:<20} "
            f"{result:<22} {state:<22} {duration(self.seconds_left(records))} left"
        )

    def seconds_left(self, records: SearchRecords) -> float:
        """Expected wall time of the epochs still to be trained, at the pace so far."""
        plan, epochs = self.core.plan, records.epochs
        over = [r for r in records.trials if r.name in self._ended]
        mean = sum(r.last_epoch for r in over) / len(over) if len(over) >= 8 else _EXPECTED_SHARE * epochs
        left: float = epochs * (
            len(plan.qualities) - len([n for n in self._ended if not n.startswith(TRIAL)])
        )
        left += mean * (plan.budget - len(over))
        running = [r for r in records.everything() if r.name not in self._ended]
        left -= sum(min(r.last_epoch, mean) for r in running)
        pace = (time.monotonic() - self._started) / max(1, self._epochs_seen)
        return max(0.0, left) * pace


class ConfirmationMonitor:
    """The engine's listener while points are confirmed: writes MLflow and counts."""

    def __init__(self, total: int, tracker: Tracker, say: Callable[[str], None]) -> None:
        self.total, self.tracker, self.say = total, tracker, say
        self._done, self._started = 0, time.monotonic()

    def started(self, candidate: Candidate) -> None:
        self.tracker.started(candidate, LAMBDAS[candidate.quality])

    def measured(self, name: str, readings: Readings) -> None:
        self.tracker.measured(name, readings.epoch, readings.figures)

    def ended(self, name: str) -> None:
        self._done += 1
        left = (time.monotonic() - self._started) / self._done * (self.total - self._done)
        self.tracker.ended(name, "FINISHED", {})
        self.say(f"[{self._done:>3}/{self.total}] confirming {name:<20} {duration(left)} left")


def tree_memory() -> float:
    """Memory of this process and all below it, MiB: the sum of their proportional set sizes, in
    which a page that several share counts once."""
    own, total = psutil.Process(), 0
    for process in (own, *own.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue  # ended meanwhile
    return total / 2**20


def duration(seconds: float) -> str:
    """Seconds as a person says them: '45 s', '12 min', '3 h 20 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
