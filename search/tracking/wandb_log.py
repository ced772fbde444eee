"""Writes training runs to Weights & Biases: one group per search, one run per training run."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import requests

from search.records.search_records import FINISHED, RUNNING, STOPPED, SearchRecords, TrialRecord
from search.tracking.logs import RunLog, measured, params_of
from search.tracking.tracker import compared_metrics

# Read when wandb is imported: the terminal is the search's.
os.environ.setdefault("WANDB_SILENT", "true")
import wandb

#: The project of all searches, unless WANDB_PROJECT names another.
_PROJECT = "lictune"

#: Seconds to wait for the server when a run is opened and when it is ended, and for its first answer.
_OPENING, _ENDING, _ANSWER = 30.0, 30.0, 10.0


@functools.cache
def mode() -> Literal["online", "offline"] | None:
    """'offline' if a run would be online without an API key or a reachable server; None: as WANDB_MODE
    says."""
    if os.environ.get("WANDB_MODE", "online") != "online":
        return None
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    in_environment = any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"))
    if not in_environment and requests.utils.get_netrc_auth(server) is None:
        return "offline"
    try:
        requests.head(server, timeout=_ANSWER)
    except requests.RequestException:
        return "offline"
    return "online"


@dataclass
class _Run:
    """An open run, its id, and the next step that it lacks."""

    run: wandb.Run
    id: str
    next: int


class WandbLog(RunLog):
    """W&B takes the steps of a run only in order. So the metrics of an epoch are logged at the step of that
    number, and those that compare it with the baselines, which may be known much later, as the steps after
    the last epoch once the training run has ended: the number of steps that a run has says what it lacks.

    An online run that is resumed goes on after the steps that the server has. An offline run cannot be
    resumed: it is written anew under the same id, and then the older one is deleted.
    """

    name = "W&B"

    def __init__(self, folder: Path, search: str) -> None:
        super().__init__(folder)
        self._search = search
        self._runs: dict[str, _Run] = {}

    def write_run(self, records: SearchRecords, record: TrialRecord) -> bool:
        run = self._runs.get(record.name) or self._open(record)
        epochs, settled = sorted(record.readings), True
        for epoch in epochs:
            self._log(run, epoch, epoch, measured(record, epoch))
        for epoch in epochs if record.state != RUNNING else ():
            settled = settled and records.comparable(record, epoch)
            if settled:
                self._log(run, records.epochs + epoch, epoch, compared_metrics(records, record, epoch))
        return settled

    def _log(self, run: _Run, step: int, epoch: int, metrics: dict[str, float]) -> None:
        if step >= run.next and metrics:
            run.run.log({"epoch": epoch, **metrics}, step=step)
            run.next = step + 1

    def _open(self, record: TrialRecord) -> _Run:
        self.folder.mkdir(parents=True, exist_ok=True)
        # A project may have several searches of one name: when the training run began tells them apart.
        told = hashlib.sha256(f"{self._search}/{record.name}/{record.began}".encode()).hexdigest()
        id_ = f"{record.name}-{told[:12]}"
        # The metadata would have the command line, whose addresses may have passwords.
        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_disable_meta=True,
            x_disable_stats=True, init_timeout=_OPENING, finish_timeout=_ENDING, finish_timeout_raises=True,
        )  # fmt: skip
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT), dir=self.folder.parent, id=id_,
            name=record.name, group=self._search, job_type=record.role, config=params_of(record),
            mode=mode(), reinit="create_new", resume="allow", settings=settings,
        )  # fmt: skip
        run.define_metric("*", step_metric="epoch")
        return self._runs.setdefault(record.name, _Run(run, id_, run.step))

    def end_run(self, record: TrialRecord, state: str) -> None:
        run = self._runs[record.name]
        run.run.summary.update({"state": state, "reason": record.reason, "last_epoch": record.last_epoch})
        own = Path(run.run.dir).resolve().parent
        run.run.finish(exit_code=0 if state in (FINISHED, STOPPED) else 1)
        del self._runs[record.name]
        for older in self.folder.glob(f"offline-run-*-{run.id}"):
            if older.resolve() != own:
                shutil.rmtree(older)

    def reset(self) -> None:
        self._runs.clear()
        with contextlib.suppress(Exception):
            wandb.teardown()  # else the service refuses the ids of runs whose opening failed
        mode.cache_clear()
