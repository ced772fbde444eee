"""Reads the results folder of a search: settings, records and checkpoints."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna import Study
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from pydantic import ValidationError

from lic.errors import StorageError
from lic.files import one_line, read_regular, shown
from search.base.dimensions import Dimension, Tuned, Value
from search.base.space import Plan, SearchPoint, trial_name
from search.decide.belief import Prediction, SurrogateModel
from search.decide.core import earlier_trials, open_studies
from search.decide.noise import measured_noise, noise_readings
from search.decide.recommend import believe, expected_of
from search.records.confirmed import ConfirmedResults, confirmed_results, repetitions_of
from search.records.importance import importances
from search.records.search_records import RUNNING, RecordReader, SearchRecords, TrialRecord, check, record_of
from search.settings import plain_yaml
from search.settings.complaints import ConfigError, sentence
from search.settings.config import SETTINGS, Settings, is_name, recorded_settings
from search.settings.plan import plan_of
from search.store.checkpoints import Checkpoints, StoredFile, refusal
from search.store.find import STUDY, TRIALS_FOLDER, FolderError, find_folder, is_search
from search.store.provenance import ENVIRONMENT, TEST_SET, WITHOUT_MS_SSIM
from search.store.storage import open_storage, open_to_read, sqlite_address, sqlite_file


@dataclass(frozen=True)
class SearchFolder:
    """The folder of a search with its settings, which locate its trials and checkpoints."""

    path: Path
    settings: Settings

    @staticmethod
    def read(path: Path) -> SearchFolder:
        """Read the settings in a folder. Raises FolderError if they cannot be read: they may name a database
        server and a storage, without which the trials cannot be found."""
        with _reading(path):
            return SearchFolder(path, Settings.model_validate(recorded_settings(path)))

    @property
    def name(self) -> str:
        """The name of the search; the folder may have been renamed since."""
        return self.settings.name or self.path.resolve().name

    @property
    def address(self) -> str:
        """The address of the search's Optuna storage."""
        return self.settings.study or sqlite_address(self.path / STUDY)

    @property
    def checkpoints(self) -> Checkpoints:
        """The search's checkpoints: in the folder, unless its settings name a storage."""
        storage = self.settings.storage
        return Checkpoints(storage, self.name) if storage else Checkpoints(str(self.path.resolve()))

    @functools.cached_property
    def recorded(self) -> dict[str, Any]:
        """The settings as its file holds them, which may be of another version. Raises FolderError."""
        with _reading(self.path):
            return plain_yaml.read(self.path / SETTINGS)

    @functools.cached_property
    def environment(self) -> dict[str, str]:
        """The provenance of the search (search.store.provenance). Raises FolderError."""
        with _reading(self.path):
            try:
                found = json.loads(read_regular(self.path / ENVIRONMENT, plain_yaml.MOST_BYTES))
            except RecursionError as error:
                raise ValueError(f"{ENVIRONMENT} is nested too deeply") from error
            if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
                raise ValueError(f"{ENVIRONMENT} is not a mapping of names to strings")
            return found

    def storage(self, **options: Any) -> BaseStorage:
        """Open the search's Optuna storage for writing, as its driver (search.store.storage.open_storage).
        Raises StorageError."""
        return open_storage(self.address, **options)

    def studies(self) -> tuple[Study, Study]:
        """Open the studies of the search's trials and of its baselines for reading. Raises FolderError."""
        with _reading(self.path):
            storage = open_to_read(self.address)
            names = [name for name in optuna.get_all_study_names(storage) if "/" not in name]
            known = [name for name in (self.name, self.path.resolve().name) if name in names]
            if not known and len(names) != 1:
                raise ValueError(f"its storage has {len(names)} searches, none of them named {self.name}")
            try:
                return open_studies(storage, (known or names)[0])
            except KeyError as error:
                raise ValueError("it was interrupted before it recorded anything") from error

    def trials(self) -> list[FrozenTrial]:
        """The search's trials so far, validated (see `check`). Raises FolderError."""
        return self._recorded(self.studies()[0])

    def baselines(self) -> list[FrozenTrial]:
        """The search's baselines so far, validated. Raises FolderError."""
        return self._recorded(self.studies()[1])

    def _recorded(self, study: Study) -> list[FrozenTrial]:
        with _reading(self.path):
            found = study.get_trials(deepcopy=False)
            for trial in found:
                check(record_of(trial), self.settings.lambda_table)
            return found


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Turn any exception into a FolderError: a damaged or foreign file can raise anything."""
    try:
        yield
    except FolderError:
        raise
    except (ConfigError, StorageError) as error:
        raise FolderError(str(error)) from error
    except ValidationError as error:
        wrong = sentence(error, {}).replace(" ()", "")
        raise FolderError(f"the search in {folder} cannot be read ({wrong})") from error
    except Exception as error:
        raise FolderError(f"the search in {folder} cannot be read ({one_line(error)})") from error


@dataclass(frozen=True)
class OpenedSearch:
    """A search read from its folder; it may be finished, running or interrupted."""

    folder: Path
    settings: Settings
    plan: Plan
    records: SearchRecords
    environment: dict[str, str]
    model: SurrogateModel | None = field(default=None, repr=False)
    #: Confirmation runs on fresh seeds (search.records.confirm), one group per seed, and what they say.
    confirmed: list[SearchRecords] = field(default_factory=list, repr=False)
    fresh: ConfirmedResults = field(default_factory=ConfirmedResults, repr=False)
    #: The importance of each searched setting, if settings of the training are tuned.
    importances: dict[str, float] = field(default_factory=dict, repr=False)

    @property
    def place(self) -> SearchFolder:
        """The folder, which locates trials and checkpoints."""
        return SearchFolder(self.folder, self.settings)

    @property
    def test(self) -> str:
        """The setting `test`, as it was: a search that could not download Kodak used generated images."""
        leaves = self.settings.test == "auto" and self.records.test_set.startswith("deadleaves")
        return "deadleaves" if leaves else self.settings.test

    def response(
        self, quality: int, strategy: str, count: int = 61, tuned: Tuned = ()
    ) -> dict[float, Prediction]:
        """The surrogate model's prediction for full training, by alpha over the search range, with these
        tuned settings; empty without a model."""
        if self.model is None:
            return {}
        alphas = np.geomspace(self.plan.alpha_min, self.plan.alpha_max, count).tolist()
        return dict(zip(alphas, self.model.response(quality, strategy, alphas, tuned), strict=True))

    def tuned_response(
        self, point: SearchPoint, dimension: Dimension, count: int = 41
    ) -> dict[Value, Prediction]:
        """The same by the values of a tuned setting, the rest as at a point."""
        if self.model is None:
            return {}
        shares = np.linspace(0, 1, len(dimension.choices) or count, endpoint=not dimension.choices)
        values = [dimension.at(float(share) + 1e-9) for share in shares]
        points = [replace(point, tuned=_with(point.tuned, dimension.name, value)) for value in values]
        return dict(zip(values, self.model.predict(points), strict=True))

    @property
    def ended(self) -> int:
        """The number of trials that are not running any more."""
        return sum(trial.state != RUNNING for trial in self.records.trials)

    @property
    def complete(self) -> bool:
        """Whether all trials of the budget have ended."""
        return len(self.records.trials) >= self.plan.budget and not self.records.running()


def _with(tuned: Tuned, name: str, value: Value) -> Tuned:
    return tuple(sorted({**dict(tuned), name: value}.items()))


def fetch_folder(name: str, results: Path, storage: str) -> Path:
    """Create the results folder of a search started on another machine from the files beside its checkpoints,
    unless the folder exists. Raises FolderError, StorageError."""
    if not is_name(name):
        raise FolderError(f"{shown(name)} is not a valid name of a search")
    folder, kept = results / name, Checkpoints(storage, name)
    if is_search(folder):
        return folder
    try:
        found = [kept.kept(file) for file in (SETTINGS, ENVIRONMENT)]
        if found[0] is None:
            raise FolderError(f"there is no search '{name}' in {results}, and none at {kept}")
        study = plain_yaml.parse(kept.read(SETTINGS)).get("study")
        if study is None or sqlite_file(study) is not None:
            raise FolderError(
                f"the search at {kept} has its trials in a SQLite file in its results folder, which is not "
                f"at {folder}; resume on the host of that folder (use --study to resume on any host)"
            )
        folder.mkdir(parents=True, exist_ok=True)
        for file in reversed([file for file in found if file]):  # a folder with settings is a search
            file.copy_to(folder / Path(file.path).name)
    except (OSError, yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
        raise FolderError(f"cannot download the search at {kept}: {refusal(storage, error)}") from error
    return folder


def open_search(name: str, results: Path, with_model: bool = True) -> OpenedSearch:
    """Open the search found by `find_folder`, read-only. With `with_model`, also fit the surrogate model and
    predict the finished trials, which takes seconds. Raises FolderError."""
    opened = SearchFolder.read(find_folder(name, results))
    environment, pair = opened.environment, opened.studies()
    with _reading(opened.path):
        plan = plan_of(opened.settings)
        reader = RecordReader(pair, plan, "")
        records, again = reader.read(), reader.read_confirmation()
        for record in (record for group in (records, *again) for record in group.everything()):
            check(record, opened.settings.lambda_table)
        noise = noise_readings(*pair, plan)
        model = believe(pair[0], plan, earlier_trials(pair[0]), noise) if with_model else None
        expected = expected_of(model, pair[0])
        weights = importances(pair[0], plan) if with_model and plan.dimensions else {}
    test_set, without_ms_ssim = _test_set(opened, records), environment.get(WITHOUT_MS_SSIM, "")
    records, *again = (
        replace(group, test_set=test_set, without_ms_ssim=without_ms_ssim) for group in (records, *again)
    )
    by_name = {trial_name(number): value for number, value in expected.items()}
    fitted = model.seed_noise() if model is not None else {}
    measured = measured_noise(noise)
    records = replace(records, expected=by_name, measured_noise=measured, fitted_noise=fitted)
    fresh = confirmed_results(repetitions_of(again, plan, opened.settings.seeds), records)
    records = replace(records, outcomes=fresh.outcomes)
    return OpenedSearch(
        opened.path, opened.settings, plan, records, environment, model, again, fresh, weights
    )


def _test_set(opened: SearchFolder, records: SearchRecords) -> str:
    """The recorded name of the test set or, in old folders without it, the measured set other than the
    selection set. Raises FolderError if the training runs were measured on another set."""
    readings = [reading for record in records.everything() for reading in record.readings.items()]
    measured = {
        key.removesuffix("/bpp") for _, figures in readings for key in figures if key.endswith("/bpp")
    }
    recorded = opened.environment.get(TEST_SET)
    if recorded is None:
        return min(measured - {records.selection}, default=records.selection)
    if any(f"{recorded}/bpp" not in figures for epoch, figures in readings if epoch == records.epochs):
        raise FolderError(
            f"the search in {opened.path} cannot be read: its {ENVIRONMENT} names the test set "
            f"{shown(recorded)}, but it was evaluated on {one_line(', '.join(sorted(measured)))}"
        )
    return recorded


def last_checkpoint(search: OpenedSearch, name: str) -> StoredFile:
    """The newest checkpoint of a trial. Raises FileNotFoundError if it has none, OSError and StorageError if
    the storage cannot be read."""
    return search.place.checkpoints.newest(f"{TRIALS_FOLDER}/{name}")


def _newest_state(search: OpenedSearch, name: str) -> tuple[dict[str, Any], str]:
    """The state in the newest checkpoint of a trial, and its location. Raises CheckpointError,
    FileNotFoundError."""
    from lic.training.trainer import CheckpointError, read_checkpoint

    try:
        file = last_checkpoint(search, name)
        with file.local() as path:
            try:
                return read_checkpoint(path), str(file)
            except CheckpointError as error:
                raise CheckpointError(str(error).replace(str(path), str(file))) from error
    except FileNotFoundError:
        raise
    except (OSError, StorageError) as error:
        raise CheckpointError(f"the checkpoints of {name} cannot be read ({error})") from error


def final_weights(search: OpenedSearch, record: TrialRecord) -> dict[str, Any]:
    """The final weights of a training run. Raises CheckpointError, FileNotFoundError."""
    from lic.training.trainer import CheckpointError, read_checkpoint

    settings, kept = search.settings, search.folder / "best" / f"q{record.quality}.pt"
    try:
        state, path = _newest_state(search, record.name)
    except (CheckpointError, FileNotFoundError):
        if not kept.is_file():  # the copy that exists once the search has ended
            raise
        state, path = read_checkpoint(kept), str(kept)
    point = {"lmbda": record.lmbda, "alpha": record.alpha, "seed": record.seed, **dict(record.tuned)}
    if not isinstance(state["config"], dict) or not isinstance(state["model"], dict):
        raise CheckpointError(f"{path} is not a training checkpoint of this program")
    for key, value in point.items():
        if state["config"].get(key) != value:
            raise CheckpointError(f"{path} was trained with {key} {state['config'].get(key)}, not {value}")
    if state["step"] != settings.epochs * settings.steps_per_epoch:
        raise CheckpointError(f"{path} is from step {state['step']}, not from the end of the training run")
    return state["model"]
