"""What this package needs of Optuna beyond its public interface, in one place: a study's storage, and the
numbers that studies and trials have there. Written against Optuna 5.0."""

from __future__ import annotations

from optuna import Study
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial


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
