"""Optuna's samplers as a pure function of the storage and the seed."""

from __future__ import annotations

import warnings

import optuna
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler

SAMPLERS = ("tpe", "gp", "random")


def make_sampler(kind: str, seed: int, number: int, startup: int) -> BaseSampler:
    """The sampler that proposes trial `number`, pooled over the rates.

    A new one for every trial, seeded by its number: what it proposes then depends on the recorded
    trials alone, and a restarted search goes on as if it had never stopped. The first `startup`
    trials are drawn at random.
    """
    own_seed = seed * 1_000_003 + number
    if kind == "random":
        return RandomSampler(seed=own_seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if kind == "gp":
            return GPSampler(seed=own_seed, n_startup_trials=startup)
        return TPESampler(seed=own_seed, n_startup_trials=startup, multivariate=True)
