"""Loggers besides MLflow (`--log-to`), written in a thread of their own, so that a slow one delays nothing.

As for MLflow (search.tracking.tracker), what a logger is to have is a function of the records: each is given
the newest records again and again, and writes what it lacks. So whatever a killed process left is put right
when the search is resumed.
"""

from __future__ import annotations

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from lic import atomic_io
from search.records.folder import SearchFolder
from search.records.search_records import MEASURED_AT, RUNNING, SearchRecords, TrialRecord
from search.tracking.tracker import INTERRUPTED, first_line

#: Seconds between attempts after a logger failed, and to wait for the loggers at the end of a search.
_AGAIN, _PATIENCE = 60.0, 60.0

#: The file with the names of the training runs that a logger has in full.
_COMPLETE = "complete.txt"


class RunLog(ABC):
    """A logger: one run per training run, with its params, its metrics per epoch, and its state at the end.

    The three abstract methods may raise any exception. After one, `reset` is called, and later `write` again
    with newer records.
    """

    name: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        """Keep what is written in this folder of the search's."""
        self.folder = folder
        self._complete: set[str] = set()
        with contextlib.suppress(FileNotFoundError):
            self._complete = set((folder / _COMPLETE).read_text().split("\n"))

    def write(self, groups: Sequence[SearchRecords], live: bool) -> None:
        """Write what is missing of the search and of each confirmation seed. Unless the search is `live`, end
        every run; those of unfinished training runs are interrupted, and go on when the search is
        resumed."""
        complete = set(self._complete)
        for records in groups:
            for record in records.everything():
                if record.name in self._complete:
                    continue
                settled = self.write_run(records, record) and record.state != RUNNING
                if settled or not live:
                    self.end_run(record, INTERRUPTED if record.state == RUNNING else record.state)
                if settled:
                    self._complete.add(record.name)
        if self._complete != complete:
            atomic_io.write(self.folder / _COMPLETE, "\n".join(sorted(self._complete)))

    @abstractmethod
    def write_run(self, records: SearchRecords, record: TrialRecord) -> bool:
        """Write what is missing of a training run; returns whether its metrics so far are all written."""

    @abstractmethod
    def end_run(self, record: TrialRecord, state: str) -> None:
        """End the run of a training run that was written, with its state."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all open runs: `write_run` begins each anew."""


def params_of(record: TrialRecord) -> dict[str, str | float]:
    """The params of a training run."""
    return {
        "role": record.role,
        "quality": record.quality,
        "lambda": record.lmbda,
        "strategy": record.strategy or "none",
        "alpha": record.alpha,
        "seed": record.seed,
        **dict(record.tuned),
    }


def measured(record: TrialRecord, epoch: int) -> dict[str, float]:
    """The metrics measured at an epoch."""
    return {name: value for name, value in record.readings[epoch].items() if name != MEASURED_AT}


def open_logs(opened: SearchFolder, say: Callable[[str], None]) -> list[RunLog]:
    """The loggers that the settings of a search name; a logger whose package cannot be imported is
    reported."""
    logs: list[RunLog] = []
    for logger in opened.settings.log_to:
        try:
            logs.append(_open_log(logger, opened))
        except Exception as error:  # an installed package can raise anything when it is imported
            say(f"cannot log to {logger} ({first_line(error)}); the search continues without it")
    return logs


def _open_log(logger: str, opened: SearchFolder) -> RunLog:
    if logger == "tensorboard":
        from search.tracking.tensorboard_log import TensorBoardLog

        return TensorBoardLog(opened.path / logger)
    from search.tracking.wandb_log import WandbLog

    return WandbLog(opened.path / logger, opened.name)


class Logs:
    """Passes records to loggers. Only the newest snapshot waits, which includes all earlier ones. A logger
    that fails is reported once, and tried again from time to time."""

    def __init__(self, logs: Sequence[RunLog], say: Callable[[str], None]) -> None:
        self._logs, self._say = logs, say
        self._offered: tuple[Sequence[SearchRecords], bool] | None = None
        self._news = threading.Condition()
        #: Monotonic time of the next attempt of each logger that has failed.
        self._next: dict[str, float] = {}
        #: The loggers whose last attempt has not succeeded.
        self._behind = {log.name for log in logs}
        self._thread = threading.Thread(target=self._follow, name="logging", daemon=True)
        if logs:
            self._thread.start()

    def offer(self, groups: Sequence[SearchRecords], live: bool = True) -> None:
        """Offer the records so far (see `RunLog.write`). Returns at once."""
        with self._news:
            self._offered = groups, live
            self._news.notify()

    def wait(self) -> None:
        """Wait until the records of an ended search are written, a minute at most."""
        if not self._logs:
            return
        self._thread.join(_PATIENCE)
        for name in sorted(self._behind):
            self._say(f"{name} lacks the last records; resume the search to write them")

    def _follow(self) -> None:
        live = True
        while live:
            with self._news:
                self._news.wait_for(lambda: self._offered is not None)
                assert self._offered is not None
                (groups, live), self._offered = self._offered, None
            for log in self._logs:
                self._behind.add(log.name)
                if not live or time.monotonic() >= self._next.get(log.name, 0.0):
                    self._write(log, groups, live)

    def _write(self, log: RunLog, groups: Sequence[SearchRecords], live: bool) -> None:
        try:
            log.write(groups, live)
            self._behind.discard(log.name)
        except Exception as error:  # whatever a logger raises, the search continues
            if log.name not in self._next:
                self._say(
                    f"cannot write to {log.name} ({first_line(error)}); the search continues, and missing "
                    "records are written when it is possible again"
                )
            self._next[log.name] = time.monotonic() + _AGAIN
            with contextlib.suppress(Exception):
                log.reset()
