"""Deletes the checkpoints that a search no longer needs, in a separate thread."""

from __future__ import annotations

import logging
import queue
import threading

from search.base.space import BASELINE, CONFIRMATION
from search.records.search_records import RUNNING, STOPPED, SearchRecords, TrialRecord
from search.store.checkpoints import Checkpoints
from search.store.find import TRIALS_FOLDER

_log = logging.getLogger(__name__)


class Retention:
    """Deletes unneeded checkpoints of ended training runs.

    An ended run is never resumed, so its last checkpoint is enough. A trial that was stopped early cannot be
    selected and keeps none. A baseline also keeps its checkpoint of epoch `fork`, from which trials start (0:
    no fork). Deleting can take seconds in an object store, hence the separate thread."""

    def __init__(self, checkpoints: Checkpoints, fork: int) -> None:
        self._checkpoints, self._fork = checkpoints, fork
        self._seen: set[str] = set()
        #: Ended training runs, and whether each belongs to the confirmation; None ends the thread.
        self._ended: queue.SimpleQueue[tuple[TrialRecord, bool] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._follow, name="retention", daemon=True)
        self._thread.start()

    def offer(self, groups: list[SearchRecords]) -> None:
        """Offer the records so far: of the search, then of each confirmation seed. Returns at once."""
        for number, group in enumerate(groups):
            for record in group.everything():
                confirming = number > 0
                training = _folder(record, confirming)
                if record.state != RUNNING and training not in self._seen:
                    self._seen.add(training)
                    self._ended.put((record, confirming))

    def close(self) -> None:
        """Delete the remaining checkpoints, and end the thread."""
        self._ended.put(None)
        self._thread.join()

    def _follow(self) -> None:
        while (ended := self._ended.get()) is not None:
            record, confirming = ended
            fork = self._fork if record.role == BASELINE and not confirming else 0
            last = 0 if record.state == STOPPED else 1
            try:
                self._checkpoints.drop(_folder(record, confirming), but=last, keep=fork)
            except OSError:
                continue  # an undeleted checkpoint only takes space
            except Exception:
                _log.exception("the checkpoints of %s cannot be deleted", record.name)


def _folder(record: TrialRecord, confirming: bool) -> str:
    """The folder of a training run's checkpoints."""
    return f"{CONFIRMATION if confirming else TRIALS_FOLDER}/{record.name}"
