"""Searches that tune settings of the training beside alpha and strategy, simulated: regret by sampler.

    python -m tests.bench.tuned --members 1000-1003 --out docs/bench/tuned.csv

Every side searches the same surfaces (search.simulation.realistic.Realistic; the effect of the settings is
made up) with the same number of trials, and the model recommends. The surrogate stops trials at the rungs;
Optuna's samplers train them in full, as their models know finished trials only. One row a side, number of
settings and member in the table:

    settings  2: clip and lr, both with an effect; 4: also decay_at and ema, which have none; 0: none is tuned
    regret    mean over the six rates of the true rate change of the recommended point minus that of the
              best point there is (percent of the rate)
    epochs    of the trials, percent of full training
    seconds   processor time of the decisions, which is that of the whole search

`baseline` recommends nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lic.models.architectures import STRATEGIES
from lic.recipe import LAMBDAS
from search.base.dimensions import Dimension
from search.base.space import Plan, rungs
from search.decide.recommend import Recommendation
from search.simulation.realistic import Realistic
from search.simulation.simulator import SELECTION, simulate
from search.simulation.surfaces import best_of

ALPHAS, EPOCHS = (1e-8, 1e-5), 9

#: Sorted by name, as plans have them; those that act come first in Realistic.
ACTING = (Dimension("clip", 1.0, 0.1, 10.0, log=True), Dimension("lr", 1e-3, 1e-4, 1e-2, log=True))
INERT = (Dimension("decay_at", 0.8, 0.5, 1.0), Dimension("ema", 0.0, 0.0, 0.999))


def row(sampler: str, settings: Sequence[Dimension], member: int, budget: int) -> dict[str, object]:
    """One search. The effect of the settings is 0 where none is tuned."""
    surface = Realistic(member, EPOCHS, ACTING)
    levels = rungs(EPOCHS, 1, 3) if sampler == "surrogate" else ()
    plan = Plan(
        tuple(LAMBDAS), STRATEGIES, *ALPHAS, EPOCHS, levels, 3, budget, member, sampler,
        SELECTION, dimensions=tuple(sorted(settings, key=lambda setting: setting.name)),
    )  # fmt: skip
    began = time.process_time()
    outcome = simulate(surface, plan, 2)
    return {
        "side": sampler, "settings": len(settings), "member": member,
        "regret": _regret(surface, outcome.recommended),
        "epochs": 100 * outcome.epochs_spent / (budget * EPOCHS), "seconds": time.process_time() - began,
    }  # fmt: skip


def _regret(surface: Realistic, chosen: Sequence[Recommendation]) -> float:
    regrets = []
    for item in chosen:
        best = best_of(surface.full, item.lmbda, *ALPHAS, STRATEGIES) + surface.best_effect
        values = dict(item.tuned) if item.trial is not None else {}
        true = surface.full(item.alpha, item.strategy_name, item.lmbda, values) if item.alpha else 0.0
        regrets.append(true - best)
    return float(np.mean(regrets))


def _nothing(member: int) -> dict[str, object]:
    surface = Realistic(member, EPOCHS, ACTING)
    best = [best_of(surface.full, lmbda, *ALPHAS, STRATEGIES) for lmbda in LAMBDAS.values()]
    regret = -float(np.mean(best)) - surface.best_effect
    return {"side": "baseline", "settings": 0, "member": member, "regret": regret}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--members", default="1000-1003")
    parser.add_argument("--budget", type=int, default=48)
    parser.add_argument("--sides", default="surrogate,tpe,gp,random")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    first, _, last = args.members.partition("-")
    rows: list[dict[str, object]] = []
    for member in range(int(first), int(last or first) + 1):
        rows.append(_nothing(member))
        for settings in ((), ACTING, (*ACTING, *INERT)):
            for side in args.sides.split(",") if settings else ("surrogate",):
                rows.append(row(side, settings, member, args.budget))
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    found = table.groupby(["settings", "side"], sort=False)[["regret", "epochs", "seconds"]].mean()
    found.insert(1, "standard error", table.groupby(["settings", "side"], sort=False)["regret"].sem())
    print(found.to_string(float_format="{:.2f}".format))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(args.out, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
