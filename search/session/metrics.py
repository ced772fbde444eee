"""Prometheus metrics of a search, exported by Ray beside its own node metrics."""

from __future__ import annotations

import hashlib
import logging
import unicodedata

from ray.util.metrics import Gauge

from search.records.progress import Progress
from search.records.results import best_per_rate
from search.records.search_records import FAILED, FINISHED, RUNNING, STOPPED

#: Name -> description, and tags besides `search`. Ray adds the prefix `ray_` to the name.
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "lictune_trainings": ("training runs of the search and its confirmation, by state", ("state",)),
    "lictune_trainings_planned": ("planned number of training runs", ()),
    "lictune_epochs": ("epochs trained so far", ()),
    "lictune_patches_per_second": ("training patches per second, over all training runs", ()),
    "lictune_left_seconds": ("estimated seconds remaining", ()),
    "lictune_best_rate_change": ("rate change of the best point so far, percent, by quality", ("quality",)),
    "lictune_training_memory_bytes": ("largest peak of host memory of a running training run", ()),
    "lictune_mlflow_behind_seconds": ("seconds since MLflow lacks records; 0 if up to date", ()),
}


def label_of(search: str) -> str:
    """The label of a search in the metrics. Ray allows only ASCII: other names are reduced to their ASCII
    letters ('e' for 'é') and a hash."""
    if search.isascii():
        return search
    plain = unicodedata.normalize("NFKD", search).encode("ascii", "ignore").decode().strip()
    return f"{plain or 'search'}-{hashlib.sha256(search.encode()).hexdigest()[:6]}"


class Gauges:
    """The gauges of one search; they are exported only while Ray is connected."""

    def __init__(self, search: str, patches_per_epoch: int) -> None:
        #: The value of the tag `search`.
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
        """Set all gauges; `behind` is in seconds. Never raises: the metrics are only for monitoring."""
        try:
            self._show(progress, behind)
        except Exception as error:
            if not self._refused:
                logging.getLogger(__name__).warning("cannot set the metrics: %s", error)
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
