"""What this package needs of Optuna beyond its public interface, in one place: a study's storage, the numbers
that studies and trials have there, and the tables of attributes and values. Written against Optuna 5.0."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from optuna import Study
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

#: A call of a storage method that sets an attribute or an intermediate value of a trial: its name and
#: arguments.
Write = tuple[str, tuple[Any, ...]]

_VALUE = "set_trial_intermediate_value"

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
    database = getattr(storage, "_backend", storage)  # Optuna puts a cache before it
    if not isinstance(database, RDBStorage) or database.engine.name not in _UPSERTS:
        for name, arguments in writes:
            getattr(storage, name)(*arguments)
        return
    try:
        with database.engine.begin() as connection:
            for name, arguments in writes:
                connection.execute(_upsert(name, database.engine.name), _row(name, *arguments))
    except SQLAlchemyError as error:
        raise StorageInternalError("cannot write to the database of the study") from error


@functools.cache
def _upsert(name: str, database: str) -> Any:
    """The statement that inserts or replaces a row."""
    from optuna.storages._rdb import models

    tables: dict[str, Any] = {
        "set_trial_user_attr": models.TrialUserAttributeModel.__table__,
        "set_trial_system_attr": models.TrialSystemAttributeModel.__table__,
        _VALUE: models.TrialIntermediateValueModel.__table__,
    }
    table = tables[name]
    keys = ["trial_id", "step" if name == _VALUE else "key"]
    insert = import_module(f"sqlalchemy.dialects.{database}").insert(table)
    others = [c.name for c in table.columns if not c.primary_key and c.name not in keys]
    return insert.on_conflict_do_update(
        index_elements=keys, set_={other: insert.excluded[other] for other in others}
    )


def _row(name: str, trial: int, key: str | int, value: Any) -> dict[str, Any]:
    if name != _VALUE:
        return {"trial_id": trial, "key": key, "value_json": json.dumps(value)}
    from optuna.storages._rdb.models import TrialIntermediateValueModel

    stored, kind = TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
    return {
        "trial_id": trial, "step": key, "intermediate_value": stored, "intermediate_value_type": kind,
    }  # fmt: skip
