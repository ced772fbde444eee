"""Writes records to MLflow in a separate thread, so that a slow server delays no trial."""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from search.records.search_records import SearchRecords
from search.tracking.logs import Logs, RunLog
from search.tracking.tracker import Tracker, first_line

#: Seconds between attempts after MLflow failed.
_AGAIN = 5.0

#: Seconds to wait for MLflow at the end of a search.
_PATIENCE = 60.0


def write_end(
    tracker: Tracker,
    groups: list[SearchRecords],
    strategies: tuple[str, ...],
    figures: Mapping[str, float],
    status: str,
) -> None:
    """Write everything of an ended search: the records, the metrics of the whole search, and its status."""
    tracker.write(groups, strategies, live=False)
    tracker.conclude(figures, groups[0])
    tracker.artifacts()
    tracker.close(status)


class Publisher:
    """Passes records to a tracker, and to loggers besides it. The queue has only the newest snapshot, which
    includes all earlier ones; so nothing is lost, and memory does not grow while MLflow is unreachable."""

    def __init__(
        self,
        tracker: Tracker,
        strategies: tuple[str, ...],
        say: Callable[[str], None],
        logs: Sequence[RunLog] = (),
    ) -> None:
        self._tracker, self._strategies, self._say = tracker, strategies, say
        self._logs = Logs(logs, say)
        self._queue: queue.Queue[Callable[[], None]] = queue.Queue(maxsize=1)
        self._last: Callable[[], None] | None = None
        #: Why MLflow cannot be written to at the moment, or empty.
        self.trouble = ""
        #: Monotonic time since which MLflow lacks offered records, or None.
        self._lacking: float | None = None
        self._thread = threading.Thread(target=self._follow, name="publishing", daemon=True)
        self._thread.start()

    @property
    def behind(self) -> float:
        """Seconds since MLflow lacks offered records; 0 if it has everything."""
        since = self._lacking
        return 0.0 if since is None else time.monotonic() - since

    def offer(self, groups: list[SearchRecords]) -> None:
        """Offer the records so far, of the search and of each confirmation seed. Returns at once."""
        if self._lacking is None:
            self._lacking = time.monotonic()
        self._replace(functools.partial(self._write, groups))
        self._logs.offer(groups)

    def close(self, groups: list[SearchRecords], figures: Mapping[str, float], status: str) -> bool:
        """Write the last records, the metrics of the whole search, and its status; returns whether MLflow
        accepted them in time."""
        self._last = functools.partial(write_end, self._tracker, groups, self._strategies, figures, status)
        self._replace(self._last)
        self._logs.offer(groups, live=False)
        self._thread.join(_PATIENCE)
        self._logs.wait()
        return not self._thread.is_alive()

    def _replace(self, job: Callable[[], None]) -> None:
        self._take()
        self._queue.put_nowait(job)

    def _take(self) -> Callable[[], None] | None:
        """Take the waiting job out of the queue, if any."""
        try:
            job = self._queue.get_nowait()
        except queue.Empty:
            return None
        self._queue.task_done()
        return job

    def _write(self, groups: list[SearchRecords]) -> None:
        self._tracker.write(groups, self._strategies, live=True)
        self._tracker.artifacts()

    def _follow(self) -> None:
        while True:
            job = self._queue.get()
            while not self._done(job):
                time.sleep(_AGAIN)
                job = self._take() or job
            self._queue.task_done()
            if self._queue.empty():
                self._lacking = None
            if job is self._last:
                return

    def _done(self, job: Callable[[], None]) -> bool:
        try:
            job()
        except Exception as error:  # whatever MLflow and its store raise, the search continues
            if not self.trouble:
                self._say(
                    f"cannot write to MLflow ({first_line(error)}); the search continues; missing records "
                    "are written later"
                )
            self.trouble = first_line(error)
            return False
        if self.trouble:
            self._say("MLflow is available again and up to date")
            self.trouble = ""
        return True
