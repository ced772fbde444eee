"""A search's results folder, read back: its settings, what it recorded, and its checkpoints."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from pydantic import ValidationError

from search.belief import Belief, Expectation
from search.config import Settings
from search.core import earlier_trials, studies
from search.plan import plan_of
from search.recommend import believe, expected_of
from search.records import RUNNING, SearchRecords, TrialRecord, read_records
from search.space import Plan, trial_name

CHECKPOINT = "state.pt"
TRIALS_FOLDER = "trials"


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


def open_search(name: str, results: Path, with_model: bool = True) -> OpenedSearch:
    """The search of this name in the results folder, or in the folder `name` itself. Unless `with_model`
    is off, what the model expects of the finished trials is asked as well, which takes seconds. Nothing is
    written. Raises FolderError."""
    folder = next((f for f in (results / name, Path(name)) if (f / "study.db").is_file()), None)
    if folder is None:
        there = ", ".join(sorted(path.parent.name for path in results.glob("*/study.db"))) or "none"
        raise FolderError(f"there is no search '{name}' in {results}; there is {there}")
    try:
        settings = Settings.model_validate(yaml.safe_load((folder / "settings.yaml").read_text()))
        environment = json.loads((folder / "environment.json").read_text())
        plan = plan_of(settings)
        storage = f"sqlite:///{(folder / 'study.db').resolve()}"
        study = _study_name(storage, folder.resolve().name)
        pair = studies(storage, study)
        records = read_records(pair, plan, "")
        model = believe(pair[0], plan, earlier_trials(storage, study)) if with_model else None
        expected = expected_of(model, pair[0])
    except (OSError, ValueError, ValidationError, yaml.YAMLError, optuna.exceptions.OptunaError) as error:
        first = str(error).splitlines()[0]
        raise FolderError(f"the search in {folder} cannot be read ({first})") from error
    by_name = {trial_name(number): value for number, value in expected.items()}
    records = replace(records, test_set=_test_set(records), expected=by_name)
    return OpenedSearch(folder, settings, plan, records, environment, model)


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


def last_checkpoint(folder: Path, name: str) -> Path:
    """The newest checkpoint of a trial. Raises FileNotFoundError if it has none."""
    found = sorted((folder / TRIALS_FOLDER / name).glob(f"checkpoint_*/{CHECKPOINT}"))
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
