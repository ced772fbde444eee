"""The noise between training seeds, measured by baselines on other seeds (`--noise-seeds`)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.base.space import BASELINE, Plan, confirmation_name
from search.decide.objective import Reading, compared_baselines, rate_change
from search.decide.readings import baseline_at, reading_at
from search.store.optuna_internals import storage_of


@dataclass(frozen=True)
class NoiseReading:
    """The rate change in percent after full training, by the search's objective, of a quality's baseline on
    another seed against the search's own baselines, and its variance over the images (percent squared)."""

    quality: int
    seed: int
    change: float
    variance: float


def noise_readings(trials: optuna.Study, baselines: optuna.Study, plan: Plan) -> list[NoiseReading]:
    """What the baselines on other seeds of a search have measured, by quality and seed; they are in the study
    of its confirmation, which goes on with them."""
    if not plan.noise_seeds:
        return []
    try:
        name = confirmation_name(trials.study_name)
        there = optuna.load_study(storage=storage_of(trials), study_name=name).get_trials(deepcopy=False)
    except KeyError:
        return []
    own = {trial.user_attrs["quality"]: trial for trial in baselines.get_trials(deepcopy=False)}
    seeds = range(plan.seed + 1, plan.seed + 1 + plan.noise_seeds)
    found = []
    for trial in there:
        attributes = trial.user_attrs
        wanted = attributes["role"] == BASELINE and attributes["seed"] in seeds
        if wanted and trial.state == TrialState.COMPLETE:
            reading = _against(own, trial, plan)
            if reading is not None:
                found.append(reading)
    return sorted(found, key=lambda reading: (reading.quality, reading.seed))


def _against(own: dict[int, FrozenTrial], trial: FrozenTrial, plan: Plan) -> NoiseReading | None:
    """The reading of a baseline; None while one that it is compared with is missing."""

    def reading(quality: int) -> tuple[Reading, bool]:
        return baseline_at(own.get(quality), plan.epochs)

    quality, seed = trial.user_attrs["quality"], trial.user_attrs["seed"]
    compared = compared_baselines(
        plan.objective, quality, plan.qualities, reading, plan.selection, plan.distortion
    )
    if compared is None:
        return None
    measured, point = reading_at(trial, plan.epochs), plan.point(quality)
    change = rate_change(plan.objective, point, measured, compared, plan.selection, plan.distortion)
    return NoiseReading(quality, seed, change.value, change.variance or 0.0)


def measured_noise(readings: Iterable[NoiseReading]) -> dict[int, float]:
    """The standard deviation in percent that a seed gives one training, by quality: the root mean square of
    the rate changes, over the square root of 2, since both baselines have a seed."""
    changes: dict[int, list[float]] = {}
    for reading in readings:
        changes.setdefault(reading.quality, []).append(reading.change)
    return {q: math.sqrt(sum(c * c for c in found) / len(found) / 2) for q, found in changes.items()}
