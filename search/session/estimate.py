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
from search.session.confirming import at_most
from search.session.pace import Pace
from search.session.terminal import duration
from search.settings.config import Settings
from search.settings.plan import plan_of, template_of
from search.simulation.realistic import Realistic
from search.simulation.simulator import SELECTION, simulate

#: Number of timed steps, after as many warm-up steps.
_STEPS = 4

#: The members of the realistic family to simulate, beside the quiet one.
_MEMBERS = (0, 5)


@dataclass(frozen=True)
class Estimate:
    """The estimate: epochs of trials, those of the shortest and the longest simulated search, and of
    baselines, hours of wall time and GPU hours, and the hours of evaluation of all training runs together."""

    trial_epochs: float
    least_epochs: float
    most_epochs: float
    baseline_epochs: int
    hours: float
    gpu_hours: float
    evaluation_hours: float


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
    """Simulate the search on made-up responses, at the measured pace: two with something to gain, one
    without, since how many trials are stopped depends on it."""
    epochs, waits, tests = [], [], []
    curves = [Realistic(member, plan.epochs, plan.dimensions) for member in _MEMBERS]
    for curve in (*curves, Realistic.quiet(plan.epochs, plan.dimensions)):
        lambdas = tuple(plan.distortion.unit * lmbda for lmbda in plan.lambdas)
        simulated = dataclasses.replace(
            plan, selection=SELECTION, objective=RD_COST, lambdas=lambdas, distortion=MSE
        )
        core = Core(InMemoryStorage(), "estimate", simulated)
        outcome = simulate(curve, simulated, workers, core=core)
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
    training = (float(np.mean(epochs)) + baseline_epochs) * pace.step * template.training.steps_per_epoch
    return Estimate(
        float(np.mean(epochs)),
        min(epochs),
        max(epochs),
        baseline_epochs,
        wall / 3600,
        gpus_per_trial * work / 3600,
        (work - training) / 3600,
    )


def _written_out(plan: Plan, template: TrialConfig, pace: Pace, expected: Estimate) -> str:
    """The hours of all training runs together, as a sum that can be checked by hand."""
    share = 100 * expected.trial_epochs / (plan.epochs * plan.budget)
    baselines = expected.baseline_epochs // plan.epochs
    full = (expected.trial_epochs + expected.baseline_epochs) / plan.epochs
    steps = plan.epochs * template.training.steps_per_epoch
    hours = full * steps * pace.step / 3600
    return (
        f"{plan.budget} trials x {share:.1f} % + {baselines} baselines = {full:.2f} full trainings; "
        f"x {steps:,} steps x {1000 * pace.step:.2f} ms = {hours:.2f} h; "
        f"+ {expected.evaluation_hours:.2f} h of evaluation = {hours + expected.evaluation_hours:.2f} h"
    )


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


def show_estimate(settings: Settings, pace: Pace, workers: int, price: float | None) -> None:
    """Print what a search takes at this pace with so many concurrent trials, and its cost, if the `price` of
    a GPU hour is known."""
    plan, template = plan_of(settings), template_of(settings)
    expected = estimate(plan, template, pace, workers, settings.trial_gpus)
    mean, lowest, highest = (
        100 * epochs / (plan.epochs * plan.budget)
        for epochs in (expected.trial_epochs, expected.least_epochs, expected.most_epochs)
    )
    between = f"; {lowest:.0f} to {highest:.0f} %, by what there is to gain" if highest > lowest + 1 else ""
    print(
        f"{'estimated':<12} {expected.trial_epochs:.0f} epochs of trials ({mean:.0f} % of full training"
        f"{between}), {expected.baseline_epochs} epochs of baselines, by simulation; without start-up time"
    )
    print(f"{'sum':<12} {_written_out(plan, template, pace, expected)}")
    print(f"{'wall time':<12} {duration(3600 * expected.hours)} with {workers} concurrent trials")
    if settings.trial_gpus:
        print(f"{'GPU hours':<12} {_gpu_hours(expected.gpu_hours, price)}")
    if settings.confirm:
        runs = at_most(plan, settings.confirm, settings.seeds)
        most = confirmation_at_most(plan, template, pace, runs, workers, settings.trial_gpus)
        gpu_hours = f", GPU hours {_gpu_hours(most.gpu_hours, price)}" if settings.trial_gpus else ""
        print(f"{'confirming':<12} at most {duration(3600 * most.hours)} more{gpu_hours}")


def _gpu_hours(hours: float, price: float | None) -> str:
    """GPU hours with their cost, if the price is known."""
    return f"{hours:.2f}" if price is None else f"{hours:.2f}; cost {price * hours:.2f} at {price:g} per hour"
