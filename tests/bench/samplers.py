"""Samplers compared on simulated searches: regret, false discoveries and epochs.

    python -m tests.bench.samplers --members 3000-3039 --out docs/bench/realistic.csv

Every side searches the same surfaces with 64 trials; one row a side and member in the table:

    regret    mean over the six rates of the true rate change of the recommended point minus that of the
              best point there is (percent of the rate)
    false     rates of six where the recommended point is truly worse than the baseline
    epochs    of the trials, percent of full training
    ruinous   percent of the trials after the start-up points whose first reading is above +50 %
    claims    rates of six where the model is 95 % sure of a gain, and how many of these are wrong

    own                  the search's own sampler, recommendation by the model, stopping at the rungs
    own, full            the same, every trial at full length
    tpe per rate         Optuna's TPESampler, one study a rate, best reading
    gp pooled            Optuna's GPSampler over (alpha, strategy), rates in turn, best reading (--slow)
    library gp           scikit-learn's Gaussian process with lambda as an input
    random               random points, best reading
    one epoch, top K     64 points spread evenly get one epoch, the best K of every rate all of them, K
                         such that the epochs are those of `own`
    baseline             always the baseline

The surfaces are search.simulation.realistic.Realistic, or with --family parametric the older Family (the
docstrings state the formulas); docs/search.md says which members the sampler was made on. With
--table the surface is a table of recorded curves and the members are seeds of the noise.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from lic.models.architectures import STRATEGIES
from lic.recipe import LAMBDAS
from search.decide.belief import SURE
from search.simulation.realistic import Realistic
from search.simulation.surfaces import Family, Recorded, best_of, recorded
from tests.bench.library_surrogate import library_gp
from tests.bench.sides import (
    ALPHAS,
    Choice,
    Found,
    Side,
    Surface,
    baseline,
    best_readings,
    one_epoch_then_best,
    own,
    tpe_per_rate,
)


def true_values(surface: Surface, chosen: Choice) -> dict[int, float]:
    """By quality the rate change of what was chosen, without noise."""
    return {
        q: surface.full(alpha, strategy, LAMBDAS[q]) if alpha else 0.0
        for q, (alpha, strategy) in chosen.items()
    }


def compare(
    make: Callable[[int], Surface], workers: int, only: str, slow: bool, member: int
) -> list[dict[str, object]]:
    """One row a side."""
    warnings.simplefilter("ignore")
    surface, rows = make(member), []
    for name, found in _sides(surface, member, workers, only, slow):
        true = true_values(surface, found.chosen)
        best = {q: best_of(surface.full, LAMBDAS[q], *ALPHAS, STRATEGIES) for q in LAMBDAS}
        sure = {q for q, std in (found.sure or {}).items() if std > SURE}
        rows.append(
            {
                "side": name, "member": member,
                "regret": _regret([true[q] for q in LAMBDAS], best),
                "false": sum(value > 0 for value in true.values()),
                "epochs": 100 * found.epochs / (64 * surface.epochs),
                "ruinous": None if found.ruinous is None else 100 * found.ruinous,
                "claims": len(sure) if found.sure is not None else None,
                "wrong_claims": sum(true[q] > 0 for q in sure) if found.sure is not None else None,
            }
        )  # fmt: skip
    return rows


def _regret(values: list[float], best: dict[int, float]) -> float:
    """The mean over the rates of what was chosen beyond the best there is, percent."""
    return float(np.mean([value - best[q] for value, q in zip(values, LAMBDAS, strict=True)]))


def _sides(surface: Surface, member: int, workers: int, only: str, slow: bool) -> Iterator[tuple[str, Found]]:
    sides: dict[str, Side] = {
        "own": partial(own, surface, member, True, workers),
        "own, full": partial(own, surface, member, False, workers),
        "tpe per rate": partial(tpe_per_rate, surface, member),
        "library gp": partial(library_gp, surface, surface.epochs, member),
        "random": partial(best_readings, "random", surface, member, workers),
        "baseline": partial(baseline, surface),
    }
    if slow:
        sides["gp pooled"] = partial(best_readings, "gp", surface, member, workers)
    spent = 0
    for name, side in sides.items():
        if name.startswith(only):
            found = side()
            spent = found.epochs if name == "own" else spent
            yield name, found
    if not only:
        yield "one epoch, top K", one_epoch_then_best(surface, member, spent)


def _same(surface: Recorded, member: int) -> Surface:  # noqa: ARG001
    """The recorded surface; the member is the seed of the search, and with it of the noise."""
    return surface


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """The means over the members by side; `beyond own` is the mean paired difference of the regret to that of
    `own`, in its standard errors."""
    grouped = table.groupby("side", sort=False)
    found = grouped[list(table.columns[2:])].mean()
    found.insert(1, "standard error", grouped["regret"].sem())
    regret = table.pivot(index="member", columns="side", values="regret")
    if "own" in regret:
        beyond = regret.sub(regret["own"], axis=0)
        found["beyond own"] = beyond.mean() / beyond.sem()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--members", default="3000-3039")
    parser.add_argument("--family", choices=("realistic", "parametric"), default="realistic")
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--workers", type=int, default=2, help="simulated")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--noise", type=float, help="of a table's readings, percent")
    parser.add_argument("--only", default="", help="sides whose names begin so")
    parser.add_argument("--slow", action="store_true", help="Optuna's GPSampler too, a minute a search")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    first, _, last = args.members.partition("-")
    members = range(int(first), int(last or first) + 1)
    family = Realistic if args.family == "realistic" else Family
    make: Callable[[int], Surface] = partial(family, epochs=args.epochs)
    if args.table:
        surface = recorded(args.table, args.epochs, args.noise)
        print(f"{args.table}: {surface.sigma:.2f} % of noise on a reading")
        make = partial(_same, surface)
    rows: list[dict[str, object]] = []
    with ProcessPoolExecutor(args.processes) as pool:
        for part in pool.map(partial(compare, make, args.workers, args.only, args.slow), members):
            rows += part
            print(".", end="", flush=True)
            if args.out:
                args.out.parent.mkdir(parents=True, exist_ok=True)
                pd.DataFrame(rows).to_csv(args.out, index=False, float_format="%.4f")
    print()
    print(summary(pd.DataFrame(rows)).to_string(float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
