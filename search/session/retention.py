"""Which checkpoints a search keeps, and the thread that deletes the others."""

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
    """Deletes the checkpoints that nothing needs any more, each training's once it has ended.

    Nothing resumes an ended training, so one checkpoint of it is enough; of a trial that was stopped early,
    which can no longer be kept, none. Trials start from their baseline's checkpoint at epoch `fork`, which
    stays (0: there is no fork). Deleting can take seconds on an object storage, hence a thread of its own."""

    def __init__(self, checkpoints: Checkpoints, fork: int) -> None:
        self._checkpoints, self._fork = checkpoints, fork
        self._seen: set[str] = set()
        #: Ended trainings, with whether each is part of the confirmation; None ends the thread.
        self._ended: queue.SimpleQueue[tuple[TrialRecord, bool] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._follow, name="retention", daemon=True)
        self._thread.start()

    def offer(self, groups: list[SearchRecords]) -> None:
        """The records so far: of the search, then of each confirmation seed. Returns at once."""
        for number, group in enumerate(groups):
            for record in group.everything():
                confirming = number > 0
                training = _folder(record, confirming)
                if record.state != RUNNING and training not in self._seen:
                    self._seen.add(training)
                    self._ended.put((record, confirming))

    def close(self) -> None:
        """Delete what is left to delete, and end the thread."""
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
                continue  # a checkpoint that stays takes space, no more
            except Exception:
                _log.exception("the checkpoints of %s cannot be deleted", record.name)


def _folder(record: TrialRecord, confirming: bool) -> str:
    """The folder of a training's checkpoints."""
    return f"{CONFIRMATION if confirming else TRIALS_FOLDER}/{record.name}"
