"""Estimates the time and cost of a search (`python -m search.run --plan`)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from optuna.storages import InMemoryStorage

from lic.recipe import MSE
from lic.training.trial import Trial, TrialConfig
from search.base.space import RD_COST, Plan, SearchPoint
from search.decide.core import Core
from search.engine.sharing import short_training
from search.simulation.simulator import SELECTION, simulate
from search.simulation.surfaces import Family

#: Number of timed steps, after as many warm-up steps.
_STEPS = 4

#: Number of simulated searches to average.
_MEMBERS = 3


@dataclass(frozen=True)
class Pace:
    """Measured seconds of a single training run: per step, and per evaluation of each image set."""

    step: float
    val: float
    test: float


@dataclass(frozen=True)
class Estimate:
    """The estimate: epochs of trials and of baselines, hours of wall time and GPU hours."""

    trial_epochs: float
    baseline_epochs: int
    hours: float
    gpu_hours: float


@dataclass(frozen=True)
class Most:
    """Hours of wall time and GPU hours of a confirmation at most."""

    hours: float
    gpu_hours: float


def measure(template: TrialConfig) -> Pace:
    """Time a few steps of training and evaluation of the middle quality on this machine."""
    trial = Trial(short_training(template, SearchPoint(3, "y", 1e-7), epochs=3, steps=_STEPS))
    readings = [trial.run_epoch().figures for _ in range(3)]
    step = min(figures["time/train_seconds"] for figures in readings[1:]) / _STEPS
    return Pace(step, readings[1]["time/eval_seconds"], readings[2]["time/eval_seconds"])


def estimate(plan: Plan, template: TrialConfig, pace: Pace, workers: int, gpus_per_trial: float) -> Estimate:
    """Simulate the search on synthetic response surfaces, at the measured pace."""
    epochs, waits, tests = [], [], []
    for member in range(_MEMBERS):
        lambdas = tuple(plan.distortion.unit * lmbda for lmbda in plan.lambdas)
        # Tuned settings change which trials are good, not how many are stopped.
        simulated = dataclasses.replace(
            plan,
            selection=SELECTION,
            objective=RD_COST,
            lambdas=lambdas,
            distortion=MSE,
            dimensions=(),
            strategies=plan.strategies or ("y",),
        )
        core = Core(InMemoryStorage(), "estimate", simulated)
        outcome = simulate(Family(member, plan.epochs), simulated, workers, core=core)
        spans = [
            (plan.fork, max(t.intermediate_values, default=plan.fork))
            for t in core.trials.get_trials(deepcopy=False)
        ]
        spans += [(0, plan.epochs)] * (len(plan.qualities) + plan.noise_baselines)
        epochs.append(outcome.epochs_spent)
        waits.append(outcome.time)
        tests.append(sum(begin < epoch <= end for begin, end in spans for epoch in template.test_epochs))
    baseline_epochs = plan.epochs * (len(plan.qualities) + plan.noise_baselines)
    epoch = _epoch_seconds(plan, template, pace)
    testing = float(np.mean(tests)) * pace.test
    work = (float(np.mean(epochs)) + baseline_epochs) * epoch + testing
    wait = float(np.mean(waits)) + plan.epochs * plan.noise_baselines / workers
    wall = wait * epoch + testing / workers
    return Estimate(float(np.mean(epochs)), baseline_epochs, wall / 3600, gpus_per_trial * work / 3600)


def _epoch_seconds(plan: Plan, template: TrialConfig, pace: Pace) -> float:
    """Seconds of an epoch with its part of the evaluations of the validation images."""
    evaluation = pace.val * len(template.val_epochs) / plan.epochs
    return pace.step * template.training.steps_per_epoch + evaluation


def confirmation_at_most(
    plan: Plan, template: TrialConfig, pace: Pace, runs: int, workers: int, gpus_per_trial: float
) -> Most:
    """What a confirmation of so many full training runs takes at the measured pace; in a chain, where each
    may wait for another, one after the other."""
    at_once = 1 if plan.chain else workers
    run = plan.epochs * _epoch_seconds(plan, template, pace) + pace.test * len(template.test_epochs)
    return Most(math.ceil(runs / at_once) * run / 3600, gpus_per_trial * runs * run / 3600)
