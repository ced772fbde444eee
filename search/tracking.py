"""MLflow as a view of the search: a parent run, a child run per baseline and trial.

Written by the driver alone, in batches, from a thread of its own: a slow server delays no trial.
What could not be written is counted and said; Optuna's storage still holds it.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from search.space import BASELINE, Candidate

# MLflow asks for these when it is imported: fail in seconds when the server is away.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

TRIAL_TAG = "lictune.trial"
ROLE_TAG = "lictune.role"
SEARCH_TAG = "lictune.search"
PARENT_TAG = "mlflow.parentRunId"
PARENT = "search"

_QUEUED = 10_000


def tracking_address(given: str | None, results: Path) -> str:
    """Where MLflow is: as given, or as the environment says, or an SQLite file in the results folder."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{results.resolve()}/mlflow.db"


class TrackingError(RuntimeError):
    """MLflow cannot be written to; the message names the address."""


def readable(alpha: float) -> str:
    """A number as a person writes it, and one string for ever: MLflow's params are immutable."""
    return f"{alpha:.3g}"


class Tracker:
    """The runs of one search. Every method returns at once; `close` waits for the writing."""

    def __init__(
        self,
        uri: str,
        search: str,
        artifacts: Path | None,
        params: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> None:
        """Create the experiment and the parent run. `artifacts` is a folder for an embedded store,
        None for a server. Raises TrackingError if MLflow cannot be reached."""
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        for chatty in ("mlflow", "alembic"):
            logging.getLogger(chatty).setLevel(logging.ERROR)

        self.search = search
        try:
            self._client = MlflowClient(uri)
            self.experiment = self._open_experiment(artifacts)
            self.parent = self._start_run(search, PARENT, {}, dict(tags))
            self._log_params(self.parent, params)
        except (MlflowException, OSError) as error:
            first = str(error).splitlines()[0][:200]
            raise TrackingError(f"MLflow cannot be written to ({first}); check --tracking-uri") from error
        self._runs: dict[str, str] = {}
        self.lost = 0
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(_QUEUED)
        self._thread = threading.Thread(target=self._write, name="tracking", daemon=True)
        self._thread.start()

    def _open_experiment(self, artifacts: Path | None) -> str:
        found = self._client.get_experiment_by_name(self.search)
        if found is not None:
            return found.experiment_id
        location = artifacts.resolve().as_uri() if artifacts else None
        return self._client.create_experiment(self.search, artifact_location=location)

    def started(self, candidate: Candidate, lmbda: float) -> None:
        """A trial or baseline begins: its run, with its point as params."""
        label = (
            BASELINE if candidate.role == BASELINE else f"{candidate.strategy} {readable(candidate.alpha)}"
        )
        params = {
            "role": candidate.role,
            "quality": str(candidate.quality),
            "lambda": readable(lmbda),
            "strategy": candidate.strategy or "none",
            "alpha": readable(candidate.alpha),
            "log10_alpha": f"{math.log10(candidate.alpha):.3f}" if candidate.alpha else "none",
            "seed": str(candidate.seed),
        }

        def write() -> None:
            run = self._start_run(
                f"q{candidate.quality} {label}", candidate.role, {TRIAL_TAG: candidate.name}, {}
            )
            self._runs[candidate.name] = run
            self._log_params(run, params)

        self._put(write)

    def measured(self, name: str, epoch: int, figures: Mapping[str, float]) -> None:
        """Figures of one epoch of a trial, in one call."""
        self._log_figures(lambda: self._runs[name], epoch, figures)

    def search_measured(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of the search as a whole, on the parent run."""
        self._log_figures(lambda: self.parent, step, figures)

    def _log_figures(self, run: Callable[[], str], step: int, figures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in figures.items()]
        self._put(lambda: self._client.log_batch(run(), metrics=metrics))

    def ended(self, name: str, status: str, tags: Mapping[str, str]) -> None:
        """A trial is over: FINISHED, KILLED (stopped early) or FAILED, and why."""

        def write() -> None:
            for key, value in tags.items():
                self._client.set_tag(self._runs[name], key, value)
            self._client.set_terminated(self._runs[name], status)

        self._put(write)

    def artifact(self, path: Path) -> None:
        """A file on the parent run."""
        self._put(lambda: self._client.log_artifact(self.parent, str(path)))

    def close(self, status: str) -> None:
        """Write what is left and end the parent run."""
        self._put(lambda: self._client.set_terminated(self.parent, status))
        self._put(None)
        self._thread.join()

    def _start_run(self, name: str, role: str, tags: dict[str, str], more: dict[str, str]) -> str:
        tags = {ROLE_TAG: role, SEARCH_TAG: self.search, "mlflow.runName": name, **tags, **more}
        if role != PARENT:
            tags[PARENT_TAG] = self.parent
        return self._client.create_run(self.experiment, tags=tags, run_name=name).info.run_id

    def _log_params(self, run: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        self._client.log_batch(run, params=[Param(key, value[:500]) for key, value in params.items()])

    def _put(self, write: Callable[[], Any] | None) -> None:
        if write is None:
            self._queue.put(None)
            return
        try:
            self._queue.put_nowait(write)
        except queue.Full:
            self.lost += 1

    def _write(self) -> None:
        while (write := self._queue.get()) is not None:
            try:
                write()
            except Exception as error:  # whatever MLflow raises, the search goes on
                self.lost += 1
                logging.getLogger(__name__).warning("MLflow did not take a record: %s", error)
