"""Where a search stands as gauges, which Ray exports beside its own figures of the nodes, for Prometheus."""

from __future__ import annotations

import hashlib
import logging
import unicodedata

from ray.util.metrics import Gauge

from search.records.progress import Progress
from search.records.results import best_per_rate
from search.records.search_records import FAILED, FINISHED, RUNNING, STOPPED

#: Name -> what it is, and its tags besides `search`. Ray puts `ray_` before the name.
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "lictune_trainings": ("trainings of the search and its confirmation, by state", ("state",)),
    "lictune_trainings_planned": ("trainings that are planned in all", ()),
    "lictune_epochs": ("epochs trained so far", ()),
    "lictune_patches_per_second": ("training patches in a second, all trainings together", ()),
    "lictune_left_seconds": ("time that the search is expected to take still", ()),
    "lictune_best_rate_change": ("rate change of the point kept so far, percent, by rate", ("quality",)),
    "lictune_training_memory_bytes": ("largest peak of host memory of a running training", ()),
    "lictune_mlflow_behind_seconds": ("time since when MLflow lacks records; 0 if it has all", ()),
}


def label_of(search: str) -> str:
    """What the metrics call a search: Ray takes ASCII alone, so where its name has other letters, those that
    have an ASCII form ('e' for 'é') and a mark of the name."""
    if search.isascii():
        return search
    plain = unicodedata.normalize("NFKD", search).encode("ascii", "ignore").decode().strip()
    return f"{plain or 'search'}-{hashlib.sha256(search.encode()).hexdigest()[:6]}"


class Gauges:
    """The gauges of one search. Only what is set while Ray is connected reaches anybody."""

    def __init__(self, search: str, patches_per_epoch: int) -> None:
        #: The tag that tells its gauges from those of other searches.
        self.label = label_of(search)
        self._patches_per_epoch = patches_per_epoch
        self._refused = False
        self._gauges = {
            name: Gauge(name, description=what, tag_keys=("search", *tags)).set_default_tags(
                {"search": self.label}
            )
            for name, (what, tags) in GAUGES.items()
        }

    def show(self, progress: Progress, behind: float) -> None:
        """Set all of them; `behind` is in seconds. Never raises: the figures are for looking on only."""
        try:
            self._show(progress, behind)
        except Exception as error:
            if not self._refused:
                logging.getLogger(__name__).warning("the metrics cannot be set: %s", error)
            self._refused = True

    def _show(self, progress: Progress, behind: float) -> None:
        trainings, search = progress.trainings, progress.search
        for state in (RUNNING, FINISHED, STOPPED, FAILED):
            self._set("trainings", sum(record.state == state for record in trainings), state=state)
        self._set("trainings_planned", progress.planned)
        self._set("epochs", sum(r.trained for group in progress.groups for r in group.trained_here()))
        if progress.pace is not None and progress.left is not None:
            self._set("patches_per_second", progress.pace * self._patches_per_epoch)
            self._set("left_seconds", progress.left)
        for quality, record in best_per_rate(search).items():
            change = search.rate_change(record, search.epochs, search.selection)
            self._set("best_rate_change", change or 0.0, quality=str(quality))
        last = [r.readings[r.last_epoch] for r in trainings if r.state == RUNNING and r.readings]
        peak = max((figures.get("memory/peak_mib", 0.0) for figures in last), default=0.0)
        self._set("training_memory_bytes", peak * 2**20)
        self._set("mlflow_behind_seconds", behind)

    def _set(self, name: str, value: float, **tags: str) -> None:
        self._gauges[f"lictune_{name}"].set(value, tags=tags)
