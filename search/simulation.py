"""The search on a simulated clock: the same decisions, without training.

    python -m search.simulate --surface mine.module:curve --budget 64 --workers 8 --json out.json

answers what a budget on so many workers would find and cost, and is how samplers are compared. The
response is a function of yours, `curve(alpha, strategy, lmbda, epoch, seed)` -> rate change in percent
(negative saves bits); a table of recorded learning curves (--table); or, by default, a member of a
parametric family (--member).
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optuna.storages import InMemoryStorage
from rich import box
from rich.console import Console
from rich.table import Table

from lic.architectures import STRATEGIES
from lic.files import number_argument, path_argument, whole_argument
from lic.recipe import LAMBDAS
from search.core import Core
from search.recommend import Recommendation, recommend
from search.sampler import SAMPLERS
from search.space import BASELINE, Candidate, Plan, fork_epoch
from search.stopping import rungs
from search.surfaces import (
    Curve,
    Family,
    SurfaceError,
    load_curve,
    recorded,
    recorded_curves,
    seed_noise,
)

SELECTION = "simulated"

USER_ERROR, INTERRUPTED = 2, 130


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
        lmbda = LAMBDAS[candidate.quality]
        point = (candidate.alpha, candidate.strategy, lmbda, epoch, candidate.seed)
        try:
            change = float(curve(*point))
        except SurfaceError:
            raise
        except Exception as error:  # whatever a user's function raises
            raise SurfaceError(f"the surface failed at {point}: {type(error).__name__}: {error}") from error
        if not math.isfinite(change):
            raise SurfaceError(f"the surface gave {change} at {point}; it must give a finite percentage")
    return {f"{SELECTION}/bpp": 1 + change / 100, f"{SELECTION}/mse": 0.0}


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan of a simulated search. Raises SurfaceError."""
    try:
        fork = fork_epoch(args.fork_at, args.epochs)
    except ValueError as error:
        raise SurfaceError(f"--{error}".replace("_", "-", 1)) from None
    return Plan(
        qualities=tuple(LAMBDAS),
        strategies=STRATEGIES,
        alpha_min=args.alpha_min,
        alpha_max=args.alpha_max,
        epochs=args.epochs,
        rungs=rungs(args.epochs, args.grace, args.eta, fork) if args.stopping else (),
        eta=args.eta,
        budget=args.budget,
        seed=args.seed,
        sampler=args.sampler,
        selection=SELECTION,
        fork=fork,
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m search.simulate", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    surface = parser.add_mutually_exclusive_group()
    surface.add_argument("--surface", metavar="MODULE:FUNCTION", help="your own response")
    surface.add_argument("--table", type=path_argument, metavar="CSV", help="recorded learning curves")
    surface.add_argument(
        "--member", type=whole_argument(0, 2**32 - 1), default=0, metavar="N", help="of the parametric family"
    )
    parser.add_argument(
        "--noise",
        type=number_argument(0, 1e6),
        metavar="X",
        help="of a table's readings, percent (default: that between the seeds of its baselines, else 0.5)",
    )
    parser.add_argument(
        "--budget", type=whole_argument(1, 100_000), default=64, metavar="N", help="trials (default: 64)"
    )
    parser.add_argument(
        "--workers",
        type=whole_argument(1, 100_000),
        default=1,
        metavar="W",
        help="trials at once (default: 1)",
    )
    parser.add_argument(
        "--epochs",
        type=whole_argument(1, 100_000),
        default=9,
        metavar="E",
        help="of a full training (default: 9)",
    )
    parser.add_argument(
        "--seed",
        type=whole_argument(0, 2**32 - 1),
        default=0,
        metavar="S",
        help="of the proposals (default: 0)",
    )
    parser.add_argument("--sampler", choices=SAMPLERS, default="surrogate", help="(default: surrogate)")
    parser.add_argument(
        "--stopping", action=argparse.BooleanOptionalAction, default=True, help="ASHA per rate"
    )
    parser.add_argument(
        "--grace",
        type=whole_argument(1, 100_000),
        default=1,
        help="epochs before the first rung (default: 1)",
    )
    parser.add_argument(
        "--eta", type=whole_argument(2, 1000), default=3, help="one in eta trials passes a rung (default: 3)"
    )
    parser.add_argument(
        "--fork-at", type=number_argument(0, 1), default=0.0, metavar="F",
        help="trials begin where their baseline was after this fraction of the epochs; the surface is asked "
        "for the rest alone (default: 0, they train in full)",
    )  # fmt: skip
    parser.add_argument("--alpha-min", type=number_argument(1e-30, 1e6), default=1e-8, help="(default: 1e-8)")
    parser.add_argument("--alpha-max", type=number_argument(1e-30, 1e6), default=1e-5, help="(default: 1e-5)")
    parser.add_argument(
        "--failures",
        type=number_argument(0, 1),
        default=0.0,
        metavar="P",
        help="chance that a trial fails in an epoch (default: 0)",
    )
    parser.add_argument(
        "--export", type=path_argument, nargs="+", metavar="FOLDER",
        help="write the learning curves of these searches (results folders) to --table, and stop",
    )  # fmt: skip
    parser.add_argument("--json", type=path_argument, metavar="FILE", help="write the outcome there")
    args = parser.parse_args(argv)
    try:
        if args.export:
            return _export(args.export, args.table)
        if args.alpha_min >= args.alpha_max:
            raise SurfaceError(f"--alpha-min {args.alpha_min:g} must be below --alpha-max {args.alpha_max:g}")
        plan = plan_of(args)
        outcome = simulate(_curve(args), plan, args.workers, args.failures)
        _show(outcome, plan)
        if args.json:
            args.json.write_text(json.dumps(_document(outcome), indent=2) + "\n")
    except (SurfaceError, OSError) as error:
        print(f"lictune: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("lictune: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _export(folders: list[Path], target: Path | None) -> int:
    """Write what the trials of real searches measured as a table of learning curves."""
    if target is None:
        raise SurfaceError("--export needs --table FILE to write to")
    table = recorded_curves(folders)
    table.to_csv(target, index=False, float_format="%.5g")
    noise = seed_noise(table)
    between = "" if noise is None else f"; {noise:.2f} % between seeds"
    print(f"wrote {len(table)} readings of {len(folders)} searches to {target}{between}")
    return 0


def _curve(args: argparse.Namespace) -> Curve:
    if args.surface:
        sys.path.insert(0, "")
        return load_curve(args.surface)
    if args.table:
        return recorded(args.table, args.epochs, args.noise)
    return Family(args.member, args.epochs)


def _document(outcome: Outcome) -> dict[str, Any]:
    return {
        "recommended": [asdict(item) for item in outcome.recommended],
        "trials": outcome.trials,
        "stopped": outcome.stopped,
        "failed": outcome.failed,
        "epochs_spent": outcome.epochs_spent,
        "simulated_time": outcome.time,
        "decision_seconds": outcome.decision_seconds,
        "median_suggestion_seconds": float(np.median(outcome.suggest_seconds)),
    }


def _show(outcome: Outcome, plan: Plan) -> None:
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    table = Table(title="Recommended per rate", box=box.SIMPLE_HEAD, title_justify="left")
    for header in ("quality", "lambda", "alpha", "strategy", "expected rate change", "best reading"):
        table.add_column(header, justify="right")
    for item in outcome.recommended:
        table.add_row(
            str(item.quality), f"{item.lmbda:g}", f"{item.alpha:.2e}" if item.alpha else "0 (baseline)",
            item.strategy or "-", f"{item.expected:+.2f} % +- {item.sigma:.2f}",
            "-" if item.luckiest is None else f"{item.luckiest:+.2f} %",
        )  # fmt: skip
    console.print(table)
    full = plan.epochs * outcome.trials
    console.print(
        f"{outcome.trials} trials, {outcome.stopped} stopped early, {outcome.failed} failed; "
        f"{outcome.epochs_spent} epochs "
        f"({100 * outcome.epochs_spent / max(1, full):.0f} % of full training) in {outcome.time:.0f} units "
        f"of time; {outcome.decision_seconds:.1f} s of deciding, "
        f"{1000 * float(np.median(outcome.suggest_seconds)):.0f} ms a suggestion (median)"
    )


if __name__ == "__main__":
    sys.exit(main())
