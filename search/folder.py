"""A search's results folder, read back: its settings, what it recorded, and its checkpoints."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from filelock import FileLock, Timeout
from pydantic import ValidationError

from search.belief import Belief, Expectation
from search.config import Settings
from search.core import earlier_trials, studies
from search.plan import plan_of
from search.recommend import believe, expected_of
from search.records import RUNNING, RecordReader, SearchRecords, TrialRecord
from search.space import Plan, trial_name

#: Optuna's storage in a search's folder.
STUDY = "study.db"
CHECKPOINT = "state.pt"
TRIALS_FOLDER = "trials"
RESUMED = "resumed"


class FolderError(ValueError):
    """A folder that is not a search's, or lacks what a search leaves; the message names it."""


@dataclass(frozen=True)
class OpenedSearch:
    """A search as its folder holds it; it may still be running, or have been broken off."""

    folder: Path
    settings: Settings
    plan: Plan
    records: SearchRecords
    environment: dict[str, str]
    model: Belief | None = field(default=None, repr=False)
    #: What was confirmed on fresh seeds (search.confirm), a group for each seed.
    confirmed: list[SearchRecords] = field(default_factory=list, repr=False)

    def response(self, quality: int, strategy: str, count: int = 61) -> dict[float, Expectation]:
        """What the model expects at full length, by alpha over the searched range; empty without a model."""
        if self.model is None:
            return {}
        alphas = np.geomspace(self.plan.alpha_min, self.plan.alpha_max, count).tolist()
        return dict(zip(alphas, self.model.response(quality, strategy, alphas), strict=True))

    @property
    def ended(self) -> int:
        """The number of trials that have ended, one way or another."""
        return sum(trial.state != RUNNING for trial in self.records.trials)

    @property
    def complete(self) -> bool:
        """Whether every trial of the budget has ended."""
        return len(self.records.trials) >= self.plan.budget and not self.records.running()


def storage_of(folder: Path) -> str:
    """The address of the Optuna storage of the search in a folder."""
    return f"sqlite:///{folder.resolve() / STUDY}"


def searches_in(results: Path) -> list[Path]:
    """The folders of all searches in a results folder; the one that recorded something last is the last."""
    found = sorted(results.glob(f"*/{STUDY}"), key=lambda path: path.stat().st_mtime)
    return [path.parent for path in found]


def find_folder(name: str, results: Path) -> Path:
    """The folder of the search of this name in the results folder, or `name` itself if it is one; of 'last'
    that which recorded something last. Raises FolderError."""
    found = searches_in(results)
    places = found[-1:] if name == "last" else [results / name, Path(name)]
    for folder in places:
        if (folder / STUDY).is_file():
            return folder
    there = ", ".join(sorted(path.name for path in found)) or "none"
    raise FolderError(f"there is no search '{name}' in {results}; there is {there}")


def open_search(name: str, results: Path, with_model: bool = True) -> OpenedSearch:
    """The search that `find_folder` finds. Unless `with_model`
    is off, what the model expects of the finished trials is asked as well, which takes seconds. Nothing is
    written. Raises FolderError."""
    folder = find_folder(name, results)
    try:
        settings = Settings.model_validate(yaml.safe_load((folder / "settings.yaml").read_text()))
        environment = json.loads((folder / "environment.json").read_text())
        plan = plan_of(settings)
        storage = storage_of(folder)
        study = _study_name(storage, folder.resolve().name)
        pair = studies(storage, study)
        reader = RecordReader(pair, plan, "")
        records, confirmed = reader.read(), reader.read_confirmation()
        model = believe(pair[0], plan, earlier_trials(storage, study)) if with_model else None
        expected = expected_of(model, pair[0])
    except (OSError, ValueError, ValidationError, yaml.YAMLError, optuna.exceptions.OptunaError) as error:
        first = str(error).splitlines()[0]
        raise FolderError(f"the search in {folder} cannot be read ({first})") from error
    by_name = {trial_name(number): value for number, value in expected.items()}
    records = replace(records, test_set=_test_set(records), expected=by_name)
    confirmed = [replace(group, test_set=records.test_set) for group in confirmed]
    return OpenedSearch(folder, settings, plan, records, environment, model, confirmed)


def driver_lock(folder: Path) -> FileLock:
    """The lock that a search holds while it runs; the system lets go of it when its process ends."""
    return FileLock(folder / ".driver.lock")


def is_running(folder: Path) -> bool:
    """Whether a process on this machine is at work on the search in this folder."""
    try:
        with driver_lock(folder).acquire(timeout=0):
            return False
    except Timeout:
        return True


def _study_name(storage: str, folder: str) -> str:
    """The name that the search was given, which its folder may have lost since. Raises ValueError."""
    names = [name for name in optuna.get_all_study_names(storage) if "/" not in name]
    if folder not in names and len(names) != 1:
        raise ValueError(f"its study.db holds {len(names)} searches, none of them called {folder}")
    return folder if folder in names else names[0]


def _test_set(records: SearchRecords) -> str:
    """The set whose quality was measured besides the one that decides, as the figures name it."""
    last = [record.readings[record.last_epoch] for record in records.everything() if record.readings]
    names = {key.partition("/")[0] for figures in last for key in figures if key.endswith("/ms_ssim")}
    return min(names, default=records.selection)


def set_aside(trial: Path) -> Path | None:
    """Move the newest checkpoint in a trial's folder to where Ray, which counts from 0 again when a search
    goes on, does not write; where it is now, or None if there is none."""
    aside = trial / RESUMED / CHECKPOINT
    for newest in _checkpoints(trial)[-1:]:
        aside.parent.mkdir(exist_ok=True)
        newest.replace(aside)
    for old in trial.glob("checkpoint_*"):
        shutil.rmtree(old)
    return aside if aside.is_file() else None


def _checkpoints(trial: Path) -> list[Path]:
    return sorted(trial.glob(f"checkpoint_*/{CHECKPOINT}"))


def last_checkpoint(folder: Path, name: str) -> Path:
    """The newest checkpoint of a trial. Raises FileNotFoundError if it has none."""
    trial = folder / TRIALS_FOLDER / name
    found = _checkpoints(trial) or [*(trial / RESUMED).glob(CHECKPOINT)]
    if not found:
        raise FileNotFoundError(f"{name} has no checkpoint below {folder / TRIALS_FOLDER}")
    return found[-1]


def final_weights(search: OpenedSearch, record: TrialRecord) -> dict[str, Any]:
    """The weights of a training at its end. Raises CheckpointError, FileNotFoundError."""
    from lic.training import CheckpointError, read_checkpoint

    settings, path = search.settings, last_checkpoint(search.folder, record.name)
    try:
        state = read_checkpoint(path)
    except CheckpointError:
        kept = search.folder / "best" / f"q{record.quality}.pt"  # a copy, once the search has ended
        if not kept.is_file():
            raise
        state, path = read_checkpoint(kept), kept
    point = {"lmbda": record.lmbda, "alpha": record.alpha, "seed": record.seed}
    for key, value in point.items():
        if state["config"].get(key) != value:
            raise CheckpointError(f"{path} was trained with {key} {state['config'].get(key)}, not {value}")
    if state["step"] != settings.epochs * settings.steps_per_epoch:
        raise CheckpointError(f"{path} is of step {state['step']}, not of the end of the training")
    return state["model"]
