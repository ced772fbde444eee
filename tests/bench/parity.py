"""Does what makes training fast cost anything? `python -m tests.bench.parity --data FOLDER`.

Trains each variant with each seed in full (the preset's epochs, or --epochs) and measures the RD cost J = R
+ lambda D on the validation images. `change_%` is 100 (J - J0) / R0 against the first variant's training of
the same seed, the search's own measure; the last column is the same between trainings of the first variant
with different seeds, which is the noise that it must stay within. --jobs trainings run at once, each in its
process; what --out has already is not trained again.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import subprocess
import sys
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import torch

from configs import geometry
from lic.data.cache import default_cache
from lic.data.sets import training_and_validation
from lic.evaluation.evaluate import aggregate, evaluate
from lic.models.acceleration import keep_freed_memory
from lic.recipe import LAMBDAS, ON_GPU, Acceleration
from tests.bench.trainings import DEVICE, add_arguments, show, trainer_of

PLAIN = "plain fp32"
VARIANTS = {
    PLAIN: Acceleration(fused_adam=False),
    "fast fp32": Acceleration(),
    "bf16": Acceleration("bf16"),
    **(
        {"all of a GPU's": ON_GPU, "the same in bf16": dataclasses.replace(ON_GPU, precision="bf16")}
        if DEVICE == "cuda"
        else {}
    ),
}
_KEYS = ["model", "quality", "variant", "seed"]


def train(model: str, quality: int, variant: str, seed: int, args: argparse.Namespace) -> dict[str, object]:
    """One training, in this process."""
    torch.set_num_threads(1)
    if DEVICE == "cpu" and variant != PLAIN:
        keep_freed_memory()
    values = geometry(model, args.preset)
    train, val = training_and_validation(args.data and str(args.data), values["val_images"], default_cache())
    length = {"epochs": args.epochs} if args.epochs else {}
    run = trainer_of(
        model, args.preset, train.images, VARIANTS[variant], seed=seed, lmbda=LAMBDAS[quality],
        alpha=args.alpha, strategy="y", **length,
    )  # fmt: skip
    seconds = sum(run.run_epoch()["train_seconds"] for _ in range(run.config.epochs))
    point = aggregate(evaluate(run.model, val.images, DEVICE, values["val_crop"], False))
    return {
        "model": model, "quality": quality, "variant": variant, "seed": seed,
        "bpp": point.bpp, "mse": point.mse, "J": point.bpp + LAMBDAS[quality] * point.mse,
        "train_seconds": seconds,
    }  # fmt: skip


def in_a_process(case: tuple[str, int, str, int], args: argparse.Namespace) -> dict[Hashable, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.parity", "--case", json.dumps(case)]
    command += ["--preset", args.preset, "--alpha", str(args.alpha)]
    command += ["--data", str(args.data)] if args.data else []
    command += ["--epochs", str(args.epochs)] if args.epochs else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[Hashable, Any] = json.loads(done.stdout.splitlines()[-1])
    print(found, flush=True)
    return found


def compared(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """With the change against the reference's training of the same seed, and between its seeds."""
    plain = table[table["variant"] == reference].set_index(["model", "quality", "seed"])
    rows = []
    for row in table.to_dict("records"):
        same = plain.loc[(row["model"], row["quality"])]
        base = same.loc[row["seed"]]
        changes = 100 * (row["J"] - same["J"].drop(row["seed"])) / same["bpp"].drop(row["seed"])
        between = "" if row["variant"] != reference else " ".join(f"{change:+.2f}" for change in changes)
        rows.append({**row, "change_%": 100 * (row["J"] - base["J"]) / base["bpp"], "other_seeds_%": between})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--qualities", nargs="+", type=int, default=[3], choices=LAMBDAS)
    parser.add_argument(
        "--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS, help="in this order"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="instead of the preset's")
    parser.add_argument("--alpha", type=float, default=1e-8)
    parser.add_argument("--jobs", type=int, default=1 if DEVICE == "cuda" else 2)
    parser.add_argument("--case", help=argparse.SUPPRESS)  # of the process of one training
    args = parser.parse_args()
    if args.case:
        model, quality, variant, seed = json.loads(args.case)
        print(json.dumps(train(model, quality, variant, seed, args)))
        return
    known = pd.read_csv(args.out) if args.out and args.out.is_file() else pd.DataFrame(columns=_KEYS)
    # Seed by seed, so that what ran before the time was over can be compared.
    order = itertools.product(args.models, args.qualities, range(args.seeds), args.variants)
    cases = [(model, quality, variant, seed) for model, quality, seed, variant in order]
    there = set(known[_KEYS].itertuples(index=False, name=None))
    rows = [row for row in known.to_dict("records") if tuple(row[key] for key in _KEYS) in set(cases)]
    with ThreadPoolExecutor(args.jobs) as pool:
        for row in pool.map(
            lambda case: in_a_process(case, args), [case for case in cases if case not in there]
        ):
            rows.append(row)
            if args.out:
                pd.DataFrame(rows).drop(columns=["change_%", "other_seeds_%"], errors="ignore").to_csv(
                    args.out, index=False
                )
    table = compared(pd.DataFrame(rows).sort_values(_KEYS), args.variants[0])
    show(table, args)


if __name__ == "__main__":
    main()
