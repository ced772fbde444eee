"""Searches on a simulated clock: `python -m search.simulate`."""

from __future__ import annotations

import argparse
import heapq
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optuna.storages import InMemoryStorage

from lic.models.architectures import STRATEGIES
from search.base.formats import MISSING, percent, signed, weight
from search.base.space import ALPHA_MAX, ALPHA_MIN, BASELINE, Candidate, Plan, alpha_range, fork_epoch, rungs
from search.base.text_table import TextTable, text_console
from search.decide.core import Core
from search.decide.recommend import Recommendation, recommend
from search.simulation.surfaces import (
    Curve,
    Family,
    SurfaceError,
    load_curve,
    recorded,
    recorded_curves,
    seed_noise,
)

SELECTION = "simulated"


@dataclass(frozen=True)
class Outcome:
    """What a simulated search found and took. `epochs_spent` counts trials only, and what they trained
    themselves; `time` is in epochs of
    one worker; `suggest_seconds` are real, one per suggestion."""

    recommended: list[Recommendation]
    trials: int
    stopped: int
    failed: int
    epochs_spent: int
    time: float
    decision_seconds: float
    suggest_seconds: list[float]


def simulate(
    curve: Curve,
    plan: Plan,
    workers: int,
    failures: float = 0.0,
    core: Core | None = None,
) -> Outcome:
    """Run a search to its end. An epoch takes one unit of time, give or take a tenth; `failures` is
    the chance that a trial breaks off in an epoch. `core` goes on with an existing search. Trials
    that fork read the same curve, from the epoch after the fork on."""
    core = core or Core(InMemoryStorage(), "simulated", plan)
    draw = np.random.default_rng([plan.seed, 1])
    running: list[tuple[float, int, Candidate, int]] = []
    suggest_seconds: list[float] = []
    clock, deciding, order = 0.0, 0.0, 0
    exhausted = False
    while True:
        while len(running) < workers and not exhausted:
            began = time.perf_counter()
            candidate = core.suggest()
            suggest_seconds.append(time.perf_counter() - began)
            if candidate is None:
                exhausted = not core.waits()
                break
            first = 1 if candidate.role == BASELINE else plan.fork + 1
            heapq.heappush(running, (clock + _duration(draw), order, candidate, first))
            order += 1
        if not running:
            break
        clock, _, candidate, epoch = heapq.heappop(running)
        if candidate.role != BASELINE and draw.random() < failures:
            core.fail(candidate.name, "simulated failure")
            exhausted = False
            continue
        figures = _figures(curve, candidate, epoch)
        began = time.perf_counter()
        core.observe(candidate.name, epoch, figures)
        goes_on = core.decide(candidate.name, epoch)
        deciding += time.perf_counter() - began
        if goes_on:
            heapq.heappush(running, (clock + _duration(draw), order, candidate, epoch + 1))
            order += 1
    core.close()
    trials = core.trials.get_trials(deepcopy=False)
    states = [trial.state.name for trial in trials]
    return Outcome(
        recommend(core.trials, plan),
        len(trials),
        states.count("PRUNED"),
        states.count("FAIL"),
        sum(max(trial.intermediate_values, default=plan.fork) - plan.fork for trial in trials),
        clock,
        deciding + sum(suggest_seconds),
        suggest_seconds,
    )


def _duration(draw: np.random.Generator) -> float:
    return float(draw.uniform(0.9, 1.1))


def _figures(curve: Curve, candidate: Candidate, epoch: int) -> dict[str, float]:
    """Readings whose rate change is the curve's: a baseline of 1 bit per pixel, equal distortion."""
    change = 0.0
    if candidate.role != BASELINE:
        point = (candidate.alpha, candidate.strategy_name, candidate.lmbda, epoch, candidate.seed)
        tuned = {"tuned": dict(candidate.tuned)} if candidate.tuned else {}
        try:
            change = float(curve(*point, **tuned))
        except SurfaceError:
            raise
        except Exception as error:  # whatever a user's function raises
            raise SurfaceError(f"the surface failed at {point}: {type(error).__name__}: {error}") from error
        if not math.isfinite(change):
            raise SurfaceError(f"the surface gave {change} at {point}; it must give a finite percentage")
    return {f"{SELECTION}/bpp": 1 + change / 100, f"{SELECTION}/mse": 0.0}


def simulated_plan(args: argparse.Namespace) -> Plan:
    """The plan of a simulated search: of all qualities and strategies, and of arguments that are no settings,
    so that errors name options (`search.settings.plan.plan_of` makes a real one's). Raises SurfaceError."""
    given = {key for key in ("alpha_min", "alpha_max") if getattr(args, key) is not None}
    low, high = alpha_range(args.alpha_min or ALPHA_MIN, args.alpha_max or ALPHA_MAX, given)
    if low >= high:
        raise SurfaceError(f"--alpha-min {low:g} must be below --alpha-max {high:g}")
    try:
        fork = fork_epoch(args.fork_at, args.epochs)
    except ValueError as error:
        raise SurfaceError(f"--{error}".replace("_", "-", 1)) from None
    return Plan(
        qualities=tuple(range(1, len(args.lambdas) + 1)),
        strategies=STRATEGIES,
        alpha_min=low,
        alpha_max=high,
        epochs=args.epochs,
        rungs=rungs(args.epochs, args.grace, args.eta, fork) if args.stopping else (),
        eta=args.eta,
        budget=args.budget,
        seed=args.seed,
        sampler=args.sampler,
        selection=SELECTION,
        fork=fork,
        lambdas=args.lambdas,
    )


def run(args: argparse.Namespace) -> None:
    """Simulate what the command line asks for, show the outcome and write it; or export recorded curves.
    Raises SurfaceError, OSError."""
    if args.export:
        _export(args.export, args.table)
        return
    plan = simulated_plan(args)
    outcome = simulate(_curve(args), plan, args.workers, args.failures)
    _show(outcome, plan)
    if args.json:
        args.json.write_text(json.dumps(_document(outcome), indent=2) + "\n")


def _export(folders: list[Path], target: Path | None) -> None:
    """Write what the trials of real searches measured as a table of learning curves."""
    if target is None:
        raise SurfaceError("--export needs --table FILE to write to")
    table = recorded_curves(folders)
    table.to_csv(target, index=False, float_format="%.5g")
    noise = seed_noise(table)
    between = "" if noise is None else f"; {noise:.2f} % between seeds"
    print(f"wrote {len(table)} readings of {len(folders)} searches to {target}{between}")


def _curve(args: argparse.Namespace) -> Curve:
    if args.surface:
        sys.path.insert(0, "")
        return load_curve(args.surface)
    if args.table:
        return recorded(args.table, args.epochs, args.noise, args.lambdas)
    return Family(args.member, args.epochs)


def _document(outcome: Outcome) -> dict[str, Any]:
    return {
        "recommended": [{**item.as_row(), "lmbda": item.lmbda} for item in outcome.recommended],
        "trials": outcome.trials,
        "stopped": outcome.stopped,
        "failed": outcome.failed,
        "epochs_spent": outcome.epochs_spent,
        "simulated_time": outcome.time,
        "decision_seconds": outcome.decision_seconds,
        "median_suggestion_seconds": float(np.median(outcome.suggest_seconds)),
    }


def _show(outcome: Outcome, plan: Plan) -> None:
    console = text_console()
    head = ("quality", "lambda", "alpha", "strategy", "expected rate change", "best reading")
    rows = [
        (
            str(item.quality), f"{item.lmbda:g}", weight(item.alpha), item.strategy_name,
            f"{signed(item.expected)} ± {item.sigma:.2f} %" if item.trial is not None else MISSING,
            percent(item.best_observed),
        )
        for item in outcome.recommended
    ]  # fmt: skip
    console.print(TextTable("Recommended per rate", head, rows))
    full = plan.epochs * outcome.trials
    console.print(
        f"{outcome.trials} trials, {outcome.stopped} stopped early, {outcome.failed} failed; "
        f"{outcome.epochs_spent} epochs "
        f"({100 * outcome.epochs_spent / max(1, full):.0f} % of full training) in {outcome.time:.0f} units "
        f"of time; {outcome.decision_seconds:.1f} s of deciding, "
        f"{1000 * float(np.median(outcome.suggest_seconds)):.1f} ms a suggestion (median)"
    )
