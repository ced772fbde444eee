"""Samplers compared on simulated searches: regret of what they recommend, and epochs spent.

    python -m tests.bench.samplers --members 1000-1039 --out docs/bench/samplers.csv

Every method searches the same surfaces, one row a member: the mean over the six rates of the true rate
change of the recommended point minus that of the best point there is (percent), and the trials' epochs.

    surrogate            the search's own sampler, recommendation by the model, ASHA per rate
    surrogate, full      the same, every trial at full length
    surrogate, fewer     the same at full length, as many trials as `surrogate`'s epochs allow
    scikit-learn         as `surrogate`, with scikit-learn's kernels (tests.bench.library_surrogate)
    gp pooled, full      Optuna's GPSampler over (alpha, strategy), rates in turn, best reading per rate
    tpe per rate, full   Optuna's TPESampler, one study a rate, best reading
    one epoch, top K     64 points spread evenly get one epoch, the best K of every rate all of them, K such
                         that the epochs are those that `surrogate` spent on the same surface

The surfaces are search.surfaces.Family (its docstring states the formula); members from 1000 on were never
looked at while the sampler was made, those below served to make it. With --table the surface is a table of
recorded curves and the members are seeds of the noise.
"""

from __future__ import annotations

import argparse
import csv
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from optuna.storages import InMemoryStorage

from lic.models.architectures import STRATEGIES
from lic.recipe import LAMBDAS
from search.base.space import Plan, rungs
from search.decide.core import Core
from search.decide.sampler import spread_point
from search.simulation.simulator import SELECTION, simulate
from search.simulation.surfaces import Family, Recorded, best_of, recorded
from tests.bench.library_surrogate import library_surrogate

ALPHAS = (1e-8, 1e-5)
Surface = Family | Recorded
#: Per quality the recommended (alpha, strategy); alpha 0 is the baseline.
Choice = dict[int, tuple[float, str]]


def plan(sampler: str, seed: int, epochs: int, stopping: bool, budget: int = 64) -> Plan:
    levels = rungs(epochs, 1, 3) if stopping else ()
    return Plan(tuple(LAMBDAS), STRATEGIES, *ALPHAS, epochs, levels, 3, budget, seed, sampler, SELECTION)


def own(surface: Surface, seed: int, stopping: bool, workers: int, budget: int = 64) -> tuple[Choice, int]:
    outcome = simulate(surface, plan("surrogate", seed, surface.epochs, stopping, budget), workers)
    return {
        item.quality: (item.alpha, item.strategy or "") for item in outcome.recommended
    }, outcome.epochs_spent


def library(surface: Surface, seed: int, workers: int) -> tuple[Choice, int]:
    with library_surrogate():
        return own(surface, seed, True, workers)


def best_readings(core_plan: Plan, surface: Surface, workers: int) -> tuple[Choice, int]:
    core = Core(InMemoryStorage(), "bench", core_plan)
    outcome = simulate(surface, core_plan, workers, core=core)
    chosen: Choice = dict.fromkeys(LAMBDAS, (0.0, ""))
    best = dict.fromkeys(LAMBDAS, 0.0)
    for trial in core.trials.trials:
        quality = trial.user_attrs["quality"]
        if trial.value is not None and trial.value < best[quality]:
            best[quality] = trial.value
            chosen[quality] = (trial.params["alpha"], trial.params["strategy"])
    return chosen, outcome.epochs_spent


def tpe_per_rate(surface: Surface, seed: int) -> tuple[Choice, int]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    chosen: Choice = {}
    for place, (quality, lmbda) in enumerate(LAMBDAS.items()):
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed * 10 + quality))

        def objective(trial: optuna.Trial, lmbda: float = lmbda) -> float:
            alpha = trial.suggest_float("alpha", *ALPHAS, log=True)
            strategy = trial.suggest_categorical("strategy", STRATEGIES)
            return surface(alpha, strategy, lmbda, surface.epochs, seed)

        study.optimize(objective, n_trials=64 // 6 + (place < 64 % 6))
        best = study.best_trial
        assert best.value is not None
        chosen[quality] = (best.params["alpha"], best.params["strategy"]) if best.value < 0 else (0.0, "")
    return chosen, 64 * surface.epochs


def one_epoch_then_best(surface: Surface, seed: int, epochs: int) -> tuple[Choice, int]:
    spread = plan("surrogate", seed, surface.epochs, False)
    points = [spread_point(spread, spread.qualities, number) for number in range(64)]
    full = max(1, round((epochs - 64) / (surface.epochs - 1) / 6))
    chosen: Choice = {}
    for quality, lmbda in LAMBDAS.items():
        first = sorted(
            (surface(point.alpha, point.strategy_name, lmbda, 1, seed), point.alpha, point.strategy_name)
            for point in points
            if point.quality == quality and point.strategy is not None
        )
        last = [(surface(alpha, s, lmbda, surface.epochs, seed), alpha, s) for _, alpha, s in first[:full]]
        value, alpha, strategy = min(last)
        chosen[quality] = (alpha, strategy) if value < 0 else (0.0, "")
    return chosen, 64 + 6 * full * (surface.epochs - 1)


def regret(surface: Surface, chosen: Choice) -> float:
    lost = []
    for quality, (alpha, strategy) in chosen.items():
        lmbda = LAMBDAS[quality]
        value = surface.full(alpha, strategy, lmbda) if alpha else 0.0
        lost.append(value - best_of(surface.full, lmbda, *ALPHAS, STRATEGIES))
    return float(np.mean(lost))


def compare(
    make: Callable[[int], Surface], workers: int, only: str, member: int
) -> list[tuple[str, int, float, int]]:
    """One row a method."""
    warnings.simplefilter("ignore")
    surface = make(member)
    pooled = plan("gp", member, surface.epochs, False)
    methods: dict[str, Callable[[], tuple[Choice, int]]] = {
        "surrogate": partial(own, surface, member, True, workers),
        "surrogate, full": partial(own, surface, member, False, workers),
        "scikit-learn": partial(library, surface, member, workers),
        "gp pooled, full": partial(best_readings, pooled, surface, workers),
        "tpe per rate, full": partial(tpe_per_rate, surface, member),
    }
    rows, spent = [], 0
    for name, method in methods.items():
        if only and not name.startswith(only):
            continue
        chosen, epochs = method()
        spent = epochs if name == "surrogate" else spent
        rows.append((name, member, regret(surface, chosen), epochs))
    if not only:
        chosen, epochs = own(surface, member, False, workers, spent // surface.epochs)
        rows.append(("surrogate, fewer", member, regret(surface, chosen), epochs))
        chosen, epochs = one_epoch_then_best(surface, member, spent)
        rows.append(("one epoch, top K", member, regret(surface, chosen), epochs))
    return rows


def _same(surface: Recorded, member: int) -> Surface:  # noqa: ARG001
    """The recorded surface; the member is the seed of the search, and with it of the noise."""
    return surface


def summary(table: pd.DataFrame, epochs: int) -> pd.DataFrame:
    """Mean regret, its standard error, and the share of the epochs of full training, per method."""
    grouped = table.groupby("method", sort=False)
    return pd.DataFrame(
        {
            "members": grouped.size(),
            "mean regret": grouped["regret"].mean(),
            "standard error": grouped["regret"].sem(),
            "median regret": grouped["regret"].median(),
            "epochs, %": 100 * grouped["epochs"].mean() / (64 * epochs),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--members", default="1000-1039")
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--workers", type=int, default=2, help="simulated")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--noise", type=float, help="of a table's readings, percent")
    parser.add_argument("--only", default="", help="methods whose names begin so")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    first, _, last = args.members.partition("-")
    members = range(int(first), int(last or first) + 1)
    make: Callable[[int], Surface] = partial(Family, epochs=args.epochs)
    if args.table:
        surface = recorded(args.table, args.epochs, args.noise)
        print(f"{args.table}: {surface.sigma:.2f} % of noise on a reading")
        make = partial(_same, surface)
    rows: list[tuple[str, int, float, int]] = []
    with ProcessPoolExecutor(args.processes) as pool:
        for part in pool.map(partial(compare, make, args.workers, args.only), members):
            rows += part
            print(".", end="", flush=True)
    table = pd.DataFrame(rows, columns=["method", "member", "regret", "epochs"])
    print()
    print(summary(table, args.epochs).to_string(float_format="{:.3f}".format))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(args.out, index=False, float_format="%.4f", quoting=csv.QUOTE_MINIMAL)


if __name__ == "__main__":
    main()
