"""MLflow as a view of the search: a parent run, a child run per baseline, trial and confirmation.

What MLflow is to hold is a function of the records, so Optuna's storage is the journal of all that it
does not hold yet. A `Tracker` is given the records so far, again and again, and writes what is missing;
a server that was away, or a new process, only makes the next writing longer. Nothing is written twice:
runs are found by their tag, and MLflow takes the same figure of the same step and time only once.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lic.errors import LictuneError
from lic.files import one_line
from search.base.dimensions import shown_value, shown_values
from search.base.secrets import public
from search.base.space import BASELINE
from search.records.folder import SearchFolder
from search.records.results import best_so_far, tuned_columns
from search.records.search_records import (
    FAILED,
    FINISHED,
    MEASURED_AT,
    RUNNING,
    STOPPED,
    SearchRecords,
    TrialRecord,
)
from search.settings.config import SETTINGS, is_name
from search.store.provenance import ENVIRONMENT
from search.store.storage import sqlite_address, sqlite_file
from search.tracking.views import final_figure, install_views

# MLflow reads these when it is imported: fail within seconds if the server is unreachable.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
# Otherwise MLflow prints two lines for every ended run.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

TRIAL_TAG = "lictune.trial"
ROLE_TAG = "lictune.role"
SEARCH_TAG = "lictune.search"
STATE_TAG = "lictune.state"
PARENT_TAG = "mlflow.parentRunId"
PARENT = "search"

INTERRUPTED = "interrupted"

#: MLflow's status of a training run, by state; a run still running when its search ends was interrupted.
STATUS = {RUNNING: "KILLED", FINISHED: "FINISHED", STOPPED: "KILLED", FAILED: "FAILED"}

#: Maximum number of metrics, params and tags in one request to MLflow.
_BATCH = 1000

#: Version of MLflow that wrote a database, compared with the installed one.
_OLDER, _NEWER = "an older", "a newer"

#: MLflow error codes for which a retry is useless.
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST")


def tracking_address(given: str | None, results: Path) -> str:
    """The tracking URI: as given, else from the environment, else a SQLite file in the results folder."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_address(results / "mlflow.db")


def is_file(uri: str) -> bool:
    """Whether the tracking URI is a local SQLite file, which needs no server."""
    return sqlite_file(uri) is not None


def missing_file(uri: str) -> Path | None:
    """The SQLite file of a tracking URI if it does not exist; MLflow would create it on access."""
    file = sqlite_file(uri)
    return file if file is not None and not file.is_file() else None


class TrackingError(LictuneError):
    """MLflow cannot be read or written; the message has the reason and what to do."""


def readable(alpha: float) -> str:
    """A short, fixed string for a number: MLflow's params are immutable."""
    return f"{alpha:.3g}"


@dataclass
class _Run:
    """The MLflow run of a training run: the names of its metrics by epoch, the epochs that are complete, and
    the params that it is to be given with the next metrics."""

    run_id: str
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[int, set[str]] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)
    status: str = "RUNNING"


class Tracker:
    """The MLflow runs of one search. Methods may raise any exception of MLflow and its store; calling them
    again with the records continues where they stopped."""

    def __init__(self, uri: str, search: str, opened: SearchFolder) -> None:
        """Find or create the experiment of a search and its parent run, with the settings in its folder as
        params and the provenance as tags. With a local SQLite store, artifacts are stored in that folder.
        Raises FolderError, and TrackingError if MLflow cannot be reached."""
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        for chatty in ("mlflow", "alembic"):
            # Errors are raised as exceptions anyway; an unreachable store would fill the log.
            logging.getLogger(chatty).setLevel(logging.CRITICAL)

        self.search, self._folder = search, opened.path
        params = {key: str(value) for key, value in opened.recorded.items()}
        tags = {f"lictune.{key}": value for key, value in opened.environment.items()}
        #: Training runs that MLflow rejects: name -> reason.
        self.refused: dict[str, str] = {}
        self._runs: dict[str, _Run] = {}
        self._complete: set[str] = set()
        self._progress = 0
        self._in_doubt = self._viewed = False
        self._sent: dict[Path, int] = {}
        try:
            if (file := missing_file(uri)) is not None:
                _make_store(file)
            self._client = MlflowClient(uri)
            self.experiment = self._open_experiment(self._folder / "artifacts" if is_file(uri) else None)
            self._known = self._sweep()
            self.parent = self._known.get("") or self._start(search, PARENT, {}, None)
            self._client.update_run(self.parent, status="RUNNING")
            held = self._client.get_run(self.parent).data.params
            # Params are immutable: a search resumed with a larger budget keeps its original param.
            fresh = {key: value for key, value in params.items() if key not in held}
            self._log(self.parent, [], fresh, tags)
        except (MlflowException, OSError) as error:
            raise TrackingError(
                f"cannot write to MLflow ({first_line(error)}); {_remedy(error, uri)}"
            ) from error

    def _open_experiment(self, artifacts: Path | None) -> str:
        found = self._client.get_experiment_by_name(self.search)
        if found is not None:
            return found.experiment_id
        location = artifacts.resolve().as_uri() if artifacts else None
        return self._client.create_experiment(self.search, artifact_location=location)

    def _sweep(self) -> dict[str, str]:
        """Existing runs by the name of their training run, the parent run as ''. Deletes incomplete and
        duplicate runs that another process left."""
        found: dict[str, str] = {}
        for run in sorted(runs_of(self._client, self.experiment), key=lambda run: run.info.start_time):
            role, name = run.data.tags.get(ROLE_TAG), run.data.tags.get(TRIAL_TAG, "")
            if role is None or (not name and role != PARENT):
                continue  # not a run of this search
            if name in found:
                self._client.delete_run(run.info.run_id)
            else:
                found[name] = run.info.run_id
        return found

    def sweep_others(self, broken_off: Callable[[str], bool]) -> list[str]:
        """End the runs of other searches that were killed and left them RUNNING; `broken_off` decides by the
        name of a search. Returns the names."""
        query = f"tags.`{ROLE_TAG}` = '{PARENT}' and attributes.status = 'RUNNING'"
        everywhere = [e.experiment_id for e in self._client.search_experiments(max_results=1000)]
        ended = []
        for parent in self._client.search_runs(everywhere, query, max_results=1000):
            name = parent.data.tags.get(SEARCH_TAG, "")
            # A server may have runs of others, and the name is used as a folder name.
            if parent.info.run_id == self.parent or not is_name(name) or not broken_off(name):
                continue
            for run in runs_of(self._client, parent.info.experiment_id, "attributes.status = 'RUNNING'"):
                self._client.set_tag(run.info.run_id, STATE_TAG, INTERRUPTED)
                self._client.set_terminated(run.info.run_id, "KILLED")
            ended.append(name)
        return ended

    def write(self, groups: Iterable[SearchRecords], strategies: tuple[str, ...], live: bool) -> None:
        """Write the records that MLflow lacks: of the search first, then of each confirmation seed. Unless
        the search is `live`, unfinished training runs are marked as interrupted."""
        from mlflow.exceptions import MlflowException

        for number, records in enumerate(groups):
            if not self._viewed:
                sets = (records.test_set, records.selection)
                tuned = tuple(records.defaults)
                install_views(self._client, self.experiment, *sets, records.qualities, tuned)
                self._viewed = True
            for record in records.everything():
                if record.name in self._complete:
                    continue
                try:
                    self._write_training(records, record, live)
                except MlflowException as error:
                    if error.error_code not in _REFUSALS:
                        raise
                    self.refused[record.name] = first_line(error)
                    self._complete.add(record.name)
            if number == 0:
                self._write_progress(records, strategies)

    def _write_training(self, records: SearchRecords, record: TrialRecord, live: bool) -> None:
        run = self._runs.get(record.name) or self._open_run(records, record)
        metrics, sent = [], []
        for epoch, readings in record.readings.items():
            if epoch in run.settled:
                continue
            held = run.metrics.setdefault(epoch, set())
            known = {**readings, **compared_metrics(records, record, epoch)}
            fresh = {key: known[key] for key in known.keys() - held - {MEASURED_AT}}
            metrics += _metrics(fresh, record.measured_at(epoch), epoch)
            sent.append((epoch, fresh.keys(), records.comparable(record, epoch)))
        over = record.state != RUNNING or not live
        status = STATUS[record.state] if over else "RUNNING"
        tags: dict[str, str] = {}
        if status != run.status:  # not over: it was interrupted and is resumed
            tags = _end_tags(record) if over else {STATE_TAG: RUNNING}
        self._log(run.run_id, metrics, run.params, tags)
        run.params = {}
        for epoch, names, settled in sent:
            run.metrics[epoch] |= names
            if settled:
                run.settled.add(epoch)
                del run.metrics[epoch]
        if status != run.status:
            if over:
                ended = None if record.ended is None else round(1000 * record.ended)
                self._client.set_terminated(run.run_id, status, ended)
            else:
                self._client.update_run(run.run_id, status=status)
            run.status = status
        if record.state != RUNNING and len(run.settled) == len(record.readings):
            self._complete.add(record.name)

    def _open_run(self, records: SearchRecords, record: TrialRecord) -> _Run:
        title = BASELINE if record.point.is_baseline else _title(record)
        params = {
            "role": record.role,
            "quality": str(record.quality),
            "lambda": readable(record.lmbda),
            # Not `baseline`: MLflow refuses another value where a run of an earlier version has this one.
            "strategy": record.strategy or "none",
            "alpha": readable(record.alpha),
            "log10_alpha": f"{math.log10(record.alpha):.3f}" if record.alpha else "none",
            "seed": str(record.seed),
            **{name: shown_value(value) for name, value in tuned_columns(records, record).items()},
        }
        if self._in_doubt:
            self._known |= self._sweep()
        run_id, status = self._known.get(record.name), "RUNNING"
        if run_id is not None:
            status = self._client.get_run(run_id).info.status
        else:
            own = {TRIAL_TAG: record.name, PARENT_TAG: self.parent}
            self._in_doubt = True  # the server may create the run although its answer is lost
            began = round(1000 * record.began)
            run_id = self._start(f"q{record.quality} {title}", record.role, own, began)
            self._known[record.name] = run_id
        self._in_doubt = False
        return self._runs.setdefault(record.name, _Run(run_id, params, status=status))

    def _write_progress(self, records: SearchRecords, strategies: tuple[str, ...]) -> None:
        """Log the search's best result after each finished trial to the parent run."""
        finished = sorted(records.finished(), key=lambda trial: (trial.ended or 0.0, trial.name))
        metrics = []
        for count in range(self._progress + 1, len(finished) + 1):
            last = finished[count - 1]
            figures = best_so_far(records, finished[:count], strategies)
            metrics += _metrics(figures, last.ended or 0.0, count)
        self._log(self.parent, metrics)
        self._progress = len(finished)

    def conclude(self, figures: Mapping[str, float], records: SearchRecords) -> None:
        """Log the metrics of the whole search to the parent run."""
        ended = max((r.ended or 0.0 for r in records.everything()), default=0.0)
        self._log(self.parent, _metrics(figures, ended, 0))

    def artifacts(self) -> None:
        """Upload settings, report, figures and tables to the parent run when they have changed."""
        patterns = (SETTINGS, ENVIRONMENT, "report.html", "figures/*.png", "tables/*.csv")
        for path in (path for pattern in patterns for path in sorted(self._folder.glob(pattern))):
            changed = path.stat().st_mtime_ns
            if self._sent.get(path) != changed:
                below = path.parent.relative_to(self._folder).as_posix()
                self._client.log_artifact(self.parent, str(path), None if below == "." else below)
                self._sent[path] = changed

    def close(self, status: str) -> None:
        """End the parent run."""
        self._log(self.parent, [], tags={STATE_TAG: status.lower()})
        self._client.set_terminated(self.parent, status)

    def _start(self, name: str, role: str, tags: dict[str, str], began: int | None) -> str:
        tags = {ROLE_TAG: role, SEARCH_TAG: self.search, **tags}
        run: str = self._client.create_run(self.experiment, began, tags, name).info.run_id
        return run

    def _log(
        self,
        run: str,
        metrics: list[Any],
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Give a run all this in one request, or in several if there are too many metrics; params and tags
        are in the last."""
        from mlflow.entities import Param, RunTag

        given = [Param(key, value[:500]) for key, value in (params or {}).items()]
        told = [RunTag(key, value[:5000]) for key, value in (tags or {}).items()]
        room = _BATCH - len(given) - len(told)
        while len(metrics) > room:
            self._client.log_batch(run, metrics=metrics[:_BATCH])
            metrics = metrics[_BATCH:]
        if metrics or given or told:
            self._client.log_batch(run, metrics=metrics, params=given, tags=told)


def _make_store(file: Path) -> None:
    """Create MLflow's SQLite store atomically: creating its tables takes seconds, and MLflow cannot open a
    store in which this was interrupted. Raises MLflow's exceptions, OSError."""
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=file.parent) as folder:
        made = Path(folder) / file.name
        MlflowClient(sqlite_address(made)).search_experiments(max_results=1)
        try:
            os.link(made, file)
        except FileExistsError:  # another search has created it
            pass
        except OSError:  # a file system without links
            made.replace(file)


def held_runs(uri: str, search: str) -> dict[str, Any]:
    """The MLflow runs of a search's training runs by name; empty if MLflow lacks the search. Raises
    TrackingError if MLflow cannot be reached."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    if missing_file(uri):
        return {}
    try:
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(search)
        runs = runs_of(client, found.experiment_id, f"tags.`{TRIAL_TAG}` != ''") if found else []
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"cannot read from MLflow ({first_line(error)}); {_remedy(error, uri)}"
        ) from error
    return {run.data.tags[TRIAL_TAG]: run for run in runs}


def _metrics(figures: Mapping[str, float], at: float, step: int) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(name, value, round(1000 * at), step) for name, value in sorted(figures.items())]


def compared_metrics(records: SearchRecords, record: TrialRecord, epoch: int) -> dict[str, float]:
    """The metrics that compare an epoch with the baselines (SearchRecords.derived); the rate change after
    full training also as a separate metric, so that it is not ranked with earlier values."""
    metrics = records.derived(record, epoch)
    change = metrics.get(f"{records.selection}/rate_change") if epoch == records.epochs else None
    return metrics if change is None else {**metrics, final_figure(records.selection): change}


def _title(record: TrialRecord) -> str:
    """The point of a trial, as the name of its run shows it."""
    term = f"{record.strategy} {readable(record.alpha)}" if record.alpha else ""
    return ", ".join(filter(None, (term, shown_values(record.tuned))))


def _end_tags(record: TrialRecord) -> dict[str, str]:
    tags = {STATE_TAG: INTERRUPTED if record.state == RUNNING else record.state}
    tags["lictune.epochs"] = str(record.last_epoch)
    if record.reason:
        tags["lictune.reason"] = record.reason
    if record.source:
        tags["lictune.taken_from"] = record.source
    return tags


def runs_of(client: Any, experiment: str, query: str = "") -> list[Any]:
    """All runs of an experiment that are not deleted, with their tags and params."""
    found, token = [], None
    while token != "":
        page = client.search_runs([experiment], query, max_results=1000, page_token=token)
        found += page
        token = page.token or ""
    return found


def first_line(error: BaseException) -> str:
    """An error on one short line, without the password that MLflow's errors show."""
    if age := _age(error):
        return f"its database belongs to {age} version of MLflow than the installed {version('mlflow')}"
    lines = public(str(error)).strip().splitlines()
    # SQLAlchemy may put the context of an error before the error.
    causes = [line for line in lines if not line.startswith("(raised as a result")]
    return one_line(([*causes, *lines, type(error).__name__])[0])


def _remedy(error: BaseException, uri: str) -> str:
    """What to do about an error of MLflow at this tracking URI."""
    if _age(error) == _OLDER:
        return f"back it up, then run: mlflow db upgrade {shlex.quote(public(uri))}"
    if _age(error) == _NEWER:
        return "install the version of MLflow that wrote it, or give another --tracking-uri"
    return "check --tracking-uri"


def _age(error: BaseException) -> str:
    """Whether the database belongs to an older or newer version of MLflow (MLflow's own message does not tell
    which); else empty."""
    found = re.search(r"database schema \(found version (\w+), but expected", str(error))
    if found is None:
        return ""
    from alembic.script import ScriptDirectory
    from mlflow.store import db_migrations

    known = ScriptDirectory(str(Path(db_migrations.__file__).parent)).walk_revisions()
    return _OLDER if found[1] in {script.revision for script in known} else _NEWER
