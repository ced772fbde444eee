"""A search's results folder, read back: its settings, what it recorded, and its checkpoints."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.storages import BaseStorage
from pydantic import ValidationError

from lic.errors import LictuneError
from lic.files import check_regular, one_line, read_regular, shown, user_path
from search import plain_yaml
from search.belief import Belief, Expectation
from search.checkpoints import TRIALS_FOLDER, Checkpoints, StoredFile, refusal
from search.complaints import sentence
from search.config import SETTINGS, ConfigError, Settings, is_name, recorded_settings
from search.core import earlier_trials, studies
from search.plan import plan_of
from search.provenance import ENVIRONMENT
from search.recommend import believe, expected_of
from search.records import RUNNING, RecordReader, SearchRecords, TrialRecord, check
from search.space import Plan, trial_name
from search.storage import StorageError, open_storage, sqlite_address, sqlite_file

#: Optuna's storage in a search's folder, unless its settings name another.
STUDY = "study.db"


class FolderError(LictuneError):
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


def address_of(folder: Path) -> str:
    """The address of the Optuna storage of the search in a folder."""
    return _setting(folder, "study") or sqlite_address(folder / STUDY)


def storage_of(folder: Path, **options: Any) -> BaseStorage:
    """The Optuna storage of the search in a folder (search.storage.open_storage). Raises StorageError."""
    return open_storage(address_of(folder), **options)


def name_of(folder: Path) -> str:
    """The name that the search in a folder was given, which the folder may have lost since."""
    recorded = _setting(folder, "name")
    return recorded if recorded and is_name(recorded) else folder.resolve().name


def check_inside(folder: Path, *names: str) -> None:
    """Make sure that nothing of these names in a search's folder, which may come from someone else, is a link
    by which a file outside would be overwritten. Raises FolderError."""
    root = folder.resolve()
    for path in (found for name in names for found in (folder / name, *(folder / name).glob("*"))):
        if not path.resolve().is_relative_to(root):
            raise FolderError(f"{path} leads to {path.resolve()}, outside the search's folder; remove it")


def checkpoints_of(folder: Path) -> Checkpoints:
    """The checkpoints of the search in a folder: there, unless its settings name a storage."""
    storage = _setting(folder, "storage")
    return Checkpoints(storage, name_of(folder)) if storage else Checkpoints(str(folder.resolve()))


def _setting(folder: Path, key: str) -> str | None:
    """One of the settings that are a text or nothing; None where it cannot be used."""
    try:
        return getattr(Settings.model_validate({key: recorded_settings(folder).get(key)}), key)
    except (ConfigError, ValidationError):
        return None


def is_search(folder: Path) -> bool:
    """Whether the folder is that of a search which has begun."""
    try:
        return (folder / STUDY).is_file() or (folder / SETTINGS).is_file()
    except OSError:  # such as that of a name too long for a file
        return False


def searches_in(results: Path) -> list[Path]:
    """The folders of all searches in a results folder; the one that recorded something last is the last."""
    return sorted(filter(is_search, results.glob("*/")), key=recorded_at)


def recorded_at(folder: Path) -> float:
    """When a search last recorded something, as far as its folder tells, in seconds since 1970."""
    for name in (STUDY, TRIALS_FOLDER, SETTINGS):
        if (folder / name).exists():
            return (folder / name).stat().st_mtime
    return 0.0


def find_folder(name: str, results: Path) -> Path:
    """The folder of the search of this name in the results folder, or `name` itself if it is one; of 'last'
    that which recorded something last. Raises FolderError."""
    try:
        folder, results = Path(user_path(name)), Path(user_path(str(results)))
    except ValueError as error:
        raise FolderError(f"there is no search {shown(name)} in {shown(str(results))}: {error}") from None
    found = searches_in(results)
    places = found[-1:] if name == "last" else [results / folder, folder]
    for folder in places:
        if is_search(folder):
            return folder
    there = one_line(", ".join(sorted(path.name for path in found)) or "none", 300)
    raise FolderError(f"there is no search {shown(name)} in {results}; there is {there}")


def fetch_folder(name: str, results: Path, storage: str) -> Path:
    """Make the results folder of a search that was begun on another machine from what it keeps beside its
    checkpoints; nothing is done if it is here. Raises FolderError, StorageError."""
    if not is_name(name):
        raise FolderError(f"{shown(name)} is no name of a search, so none is fetched")
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
                f"the search at {kept} kept its trials in a SQLite file of its results folder, which is not "
                f"at {folder}; go on where that folder is (with --study on a database server any host could)"
            )
        folder.mkdir(parents=True, exist_ok=True)
        for file in reversed([file for file in found if file]):  # a folder with settings is a search
            file.copy_to(folder / Path(file.path).name)
    except (OSError, yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
        raise FolderError(f"the search at {kept} cannot be fetched: {refusal(storage, error)}") from error
    return folder


def open_search(name: str, results: Path, with_model: bool = True) -> OpenedSearch:
    """The search that `find_folder` finds. Unless `with_model`
    is off, what the model expects of the finished trials is asked as well, which takes seconds. Nothing is
    written. Raises FolderError."""
    folder = find_folder(name, results)
    try:
        settings = Settings.model_validate(recorded_settings(folder))
        environment = _environment(folder)
        plan = plan_of(settings)
        _check_database(folder)
        storage = storage_of(folder)
        study = _study_name(storage, folder)
        pair = studies(storage, study)
        reader = RecordReader(pair, plan, "")
        records, confirmed = reader.read(), reader.read_confirmation()
        for record in (record for group in (records, *confirmed) for record in group.everything()):
            check(record)
        model = believe(pair[0], plan, earlier_trials(storage, study)) if with_model else None
        expected = expected_of(model, pair[0])
    except (ConfigError, StorageError) as error:
        raise FolderError(str(error)) from error
    except ValidationError as error:
        wrong = sentence(error, {}).replace(" ()", "")
        raise FolderError(f"the search in {folder} cannot be read ({wrong})") from error
    except Exception as error:  # a damaged database, or one of another program, can raise anything at all
        raise FolderError(f"the search in {folder} cannot be read ({one_line(error)})") from error
    by_name = {trial_name(number): value for number, value in expected.items()}
    records = replace(records, test_set=_test_set(records), expected=by_name)
    confirmed = [replace(group, test_set=records.test_set) for group in confirmed]
    return OpenedSearch(folder, settings, plan, records, environment, model, confirmed)


def _environment(folder: Path) -> dict[str, str]:
    """Where the search in a folder came from. Raises OSError, ValueError."""
    try:
        found = json.loads(read_regular(folder / ENVIRONMENT, plain_yaml.MOST_BYTES))
    except RecursionError as error:
        raise ValueError(f"{ENVIRONMENT} is nested too deeply") from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError(f"{ENVIRONMENT} does not hold texts by name")
    return found


def _check_database(folder: Path) -> None:
    """Raise ValueError if the SQLite database of a search is none: Optuna would make one of an empty file, or
    where there is nothing. Raises OSError."""
    database = sqlite_file(address_of(folder))
    if database is not None:
        check_regular(database.stat().st_mode, database)
        with database.open("rb") as file:
            if file.read(16) != b"SQLite format 3\0":
                raise ValueError(f"{database.name} is not a database")


def _study_name(storage: BaseStorage, folder: Path) -> str:
    """The name of the search's study, which its folder may have lost since. Raises ValueError."""
    names = [name for name in optuna.get_all_study_names(storage) if "/" not in name]
    for name in (name_of(folder), folder.resolve().name):
        if name in names:
            return name
    if len(names) != 1:
        raise ValueError(f"its storage holds {len(names)} searches, none of them called {name_of(folder)}")
    return names[0]


def _test_set(records: SearchRecords) -> str:
    """The set whose quality was measured besides the one that decides, as the figures name it."""
    last = [record.readings[record.last_epoch] for record in records.everything() if record.readings]
    names = {key.partition("/")[0] for figures in last for key in figures if key.endswith("/ms_ssim")}
    return min(names, default=records.selection)


def last_checkpoint(folder: Path, name: str) -> StoredFile:
    """The newest checkpoint of a trial. Raises FileNotFoundError if it has none, OSError and StorageError if
    the storage cannot be read."""
    return checkpoints_of(folder).newest(f"{TRIALS_FOLDER}/{name}")


def _newest_state(folder: Path, name: str) -> tuple[dict[str, Any], str]:
    """The state in the newest checkpoint of a trial, and where that is. Raises CheckpointError,
    FileNotFoundError."""
    from lic.training import CheckpointError, read_checkpoint

    try:
        file = last_checkpoint(folder, name)
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
    """The weights of a training at its end. Raises CheckpointError, FileNotFoundError."""
    from lic.training import CheckpointError, read_checkpoint

    settings, kept = search.settings, search.folder / "best" / f"q{record.quality}.pt"
    try:
        state, path = _newest_state(search.folder, record.name)
    except (CheckpointError, FileNotFoundError):
        if not kept.is_file():  # a copy, once the search has ended
            raise
        state, path = read_checkpoint(kept), str(kept)
    point = {"lmbda": record.lmbda, "alpha": record.alpha, "seed": record.seed}
    if not isinstance(state["config"], dict) or not isinstance(state["model"], dict):
        raise CheckpointError(f"{path} is not a training checkpoint of this program")
    for key, value in point.items():
        if state["config"].get(key) != value:
            raise CheckpointError(f"{path} was trained with {key} {state['config'].get(key)}, not {value}")
    if state["step"] != settings.epochs * settings.steps_per_epoch:
        raise CheckpointError(f"{path} is of step {state['step']}, not of the end of the training")
    return state["model"]
