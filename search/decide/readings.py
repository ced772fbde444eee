"""What a training measured, as attributes of its Optuna trial."""

from __future__ import annotations

from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search.decide.objective import Reading

_READINGS, _IMAGES = "readings:", "images:"


def readings_of(trial: FrozenTrial) -> dict[int, dict[str, float]]:
    """The recorded figures of a trial by epoch."""
    return by_epoch(trial, _READINGS)


def images_of(trial: FrozenTrial) -> dict[int, dict[str, list[float]]]:
    """The recorded per-image columns by epoch, named as the figures are."""
    return by_epoch(trial, _IMAGES)


def reading_at(trial: FrozenTrial, epoch: int) -> Reading:
    """What a training measured after an epoch; empty if that was not recorded."""
    attributes = trial.user_attrs
    return Reading(attributes.get(f"{_READINGS}{epoch}", {}), attributes.get(f"{_IMAGES}{epoch}", {}))


def baseline_at(trial: FrozenTrial | None, epoch: int) -> tuple[Reading, bool]:
    """What a baseline measured after an epoch, and whether it failed, as `compared_baselines` asks for it;
    nothing of one that has not started."""
    if trial is None:
        return Reading({}, {}), False
    return reading_at(trial, epoch), trial.state == TrialState.FAIL


def attributes_of(
    epoch: int, figures: dict[str, float], images: dict[str, list[float]] | None
) -> dict[str, Any]:
    """What a training measured after an epoch, and its per-image columns if there are any, as attributes of
    its Optuna trial."""
    columns = {f"{_IMAGES}{epoch}": images} if images else {}
    return {**columns, f"{_READINGS}{epoch}": figures}


def by_epoch(trial: FrozenTrial, prefix: str) -> dict[int, Any]:
    """The attributes of a trial whose keys are this prefix and an epoch, by epoch."""
    found = {
        int(key.removeprefix(prefix)): value
        for key, value in trial.user_attrs.items()
        if key.startswith(prefix)
    }
    return dict(sorted(found.items()))


def has_reading(trial: FrozenTrial, epoch: int) -> bool:
    """Whether an epoch was recorded."""
    return f"{_READINGS}{epoch}" in trial.user_attrs
