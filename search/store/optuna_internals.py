"""What this package needs of Optuna beyond its public interface, in one place: a study's storage, the numbers
that studies and trials have there, and the tables of trials. Written against Optuna 5.0."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

from optuna import Study
from optuna.distributions import distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Table, func, select
from sqlalchemy.exc import SQLAlchemyError

#: A call of a storage method that sets something of a trial: its name and arguments.
Write = tuple[str, tuple[Any, ...]]

#: Databases whose upsert SQLAlchemy has.
_UPSERTS = ("sqlite", "postgresql")


def storage_of(study: Study) -> BaseStorage:
    """The storage that a study was opened with: opening another would be another connection."""
    return study._storage


def id_of_study(study: Study) -> int:
    """The number that a study has in its storage."""
    return study._study_id


def id_of_trial(trial: FrozenTrial) -> int:
    """The number that a trial has in its storage, which is not that in its study."""
    return trial._trial_id


def set_trial_id(trial: FrozenTrial, number: int) -> None:
    """Give a trial its number in the storage."""
    trial._trial_id = number


def write_together(storage: BaseStorage, writes: Sequence[Write]) -> None:
    """Make these calls of a storage as one transaction, if it is an SQLite or PostgreSQL database. The trials
    must be there and unfinished: looking each up and committing each call, as Optuna does, takes several
    times as long. Raises StorageInternalError."""
    database = _database(storage)
    if database is None:
        for name, arguments in writes:
            getattr(storage, name)(*arguments)
        return
    with _transaction(database) as connection:
        for name, arguments in writes:
            _STATEMENTS[name](connection, *arguments)


def add_trial(storage: BaseStorage, study: int, trial: FrozenTrial) -> int:
    """Add a trial to the study that has this number in the storage. Returns the trial's number there.
    Raises StorageInternalError."""
    database = _database(storage)
    if database is None or trial.values or trial.intermediate_values:
        return storage.create_new_trial(study, trial)
    from optuna.storages._rdb import models

    trials, studies, params = (
        _table(kind) for kind in (models.TrialModel, models.StudyModel, models.TrialParamModel)
    )
    with _transaction(database) as connection:
        # As Optuna does: whoever adds a trial holds the study, or two could have the same number.
        connection.execute(select(studies.c.study_id).where(studies.c.study_id == study).with_for_update())
        number = connection.execute(select(func.count()).where(trials.c.study_id == study)).scalar()
        made = connection.execute(
            trials.insert(),
            {
                "study_id": study, "number": number, "state": trial.state,
                "datetime_start": _utc(trial.datetime_start),
                "datetime_complete": _utc(trial.datetime_complete),
            },
        ).inserted_primary_key  # fmt: skip
        assert made is not None
        for name, value in trial.params.items():
            kind = trial.distributions[name]
            row = {
                "trial_id": made[0], "param_name": name, "param_value": kind.to_internal_repr(value),
                "distribution_json": distribution_to_json(kind),
            }  # fmt: skip
            connection.execute(params.insert(), row)
        for key, value in trial.user_attrs.items():
            _set_attribute("TrialUserAttributeModel", connection, made[0], key, value)
        for key, value in trial.system_attrs.items():
            _set_attribute("TrialSystemAttributeModel", connection, made[0], key, value)
    return int(made[0])


def _database(storage: BaseStorage) -> RDBStorage | None:
    """The database of a storage, if it is one that is written to directly here."""
    database = getattr(storage, "_backend", storage)  # Optuna puts a cache before it
    return database if isinstance(database, RDBStorage) and database.engine.name in _UPSERTS else None


@contextlib.contextmanager
def _transaction(database: RDBStorage) -> Iterator[Connection]:
    try:
        with database.engine.begin() as connection:
            yield connection
    except SQLAlchemyError as error:
        raise StorageInternalError("cannot write to the database of the study") from error


def _table(model: Any) -> Table:
    table: Table = model.__table__
    return table


def _utc(moment: datetime.datetime | None) -> datetime.datetime | None:
    """How Optuna's tables have a moment: in UTC, without saying so."""
    return moment and moment.astimezone(datetime.UTC).replace(tzinfo=None)


@functools.cache
def _upsert(model: str, database: str, *keys: str) -> Any:
    """The statement that inserts a row, or replaces the one with the same keys."""
    from optuna.storages._rdb import models

    table = _table(getattr(models, model))
    insert = import_module(f"sqlalchemy.dialects.{database}").insert(table)
    others = [c.name for c in table.columns if not c.primary_key and c.name not in keys]
    return insert.on_conflict_do_update(
        index_elements=keys, set_={other: insert.excluded[other] for other in others}
    )


def _set_attribute(model: str, connection: Connection, trial: int, key: str, value: Any) -> None:
    statement = _upsert(model, connection.dialect.name, "trial_id", "key")
    connection.execute(statement, {"trial_id": trial, "key": key, "value_json": json.dumps(value)})


def _set_intermediate(connection: Connection, trial: int, step: int, value: float) -> None:
    from optuna.storages._rdb.models import TrialIntermediateValueModel as Model

    stored, kind = Model.intermediate_value_to_stored_repr(value)
    row = {"trial_id": trial, "step": step, "intermediate_value": stored, "intermediate_value_type": kind}
    connection.execute(_upsert(Model.__name__, connection.dialect.name, "trial_id", "step"), row)


def _set_state(
    connection: Connection, trial: int, state: TrialState, values: Sequence[float] | None = None
) -> None:
    from optuna.storages._rdb.models import TrialModel, TrialValueModel

    for objective, value in enumerate(values or ()):
        stored, kind = TrialValueModel.value_to_stored_repr(value)
        row = {"trial_id": trial, "objective": objective, "value": stored, "value_type": kind}
        statement = _upsert(TrialValueModel.__name__, connection.dialect.name, "trial_id", "objective")
        connection.execute(statement, row)
    trials = _table(TrialModel)
    found: dict[str, Any] = {"state": state}
    if state.is_finished():
        found["datetime_complete"] = _utc(datetime.datetime.now())
    connection.execute(trials.update().where(trials.c.trial_id == trial).values(found))


#: What each call that `write_together` can be given does in a database.
_STATEMENTS: dict[str, Callable[..., None]] = {
    "set_trial_user_attr": functools.partial(_set_attribute, "TrialUserAttributeModel"),
    "set_trial_system_attr": functools.partial(_set_attribute, "TrialSystemAttributeModel"),
    "set_trial_intermediate_value": _set_intermediate,
    "set_trial_state_values": _set_state,
}
