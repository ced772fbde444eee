"""Which optimiser trains best: `python -m tests.bench.optimizers --data DIR --kodak DIR --out FILE.csv`.

Trains every combination of model, rate, optimiser, seed and point of the decorrelation loss, and measures
the RD cost J = R + lambda D on the validation images --parts times on the way, and rate and PSNR on Kodak at
the end. --jobs processes share the trainings; what --out has already is not trained again, and none is begun
after --seconds. `ms` is the time of a step: the processor's on the CPU, so that trainings beside each other
do not count; on a GPU the clock's, which says something with --jobs 1 alone.

--changes adds trainings with other settings, each of NAME=VALUE joined by commas (lic.recipe.TrainingConfig):
`--changes schedule=cosine ema=0.999 regularizer=correlation,strategy=y,alpha=1e-7`.

An optimiser has its own learning rate (lic.recipe.LEARNING_RATES), or a given one: `soap=3e-3`.
`adam=1e-3x2` trains twice as many steps, for a comparison at equal time. The tables printed last are of all
that --out has (--show prints them alone): see tests.bench.optimizer_tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch

from configs import geometry
from lic.data.cache import PackedImages, default_cache, pack_files
from lic.data.sets import training_and_validation
from lic.evaluation.evaluate import aggregate, evaluate
from lic.evaluation.example import papers_images
from lic.evaluation.latents import correlation_sum, examine
from lic.models.acceleration import keep_freed_memory
from lic.recipe import LAMBDAS, LEARNING_RATES, Optimizer, TrainingConfig, learning_rate
from lic.training.trainer import DivergedError
from tests.bench import machine
from tests.bench.optimizer_tables import tables
from tests.bench.trainings import BEST, DEVICE, PRESET, add_turn, config_of, trainer_of, turn


@dataclasses.dataclass(frozen=True)
class Case:
    """One training, with all that tells it from another."""

    preset: str
    model: str
    width: int
    latent_width: int
    start: str
    batch: int
    patch: int
    optimizer: str
    lr: float
    strategy: str
    alpha: float
    quality: int
    seed: int
    total: int
    #: Those that the preset has besides, and --decay-at and --decay-to: presets change.
    settings: str = ""
    changes: str = ""


KEYS = [field.name for field in dataclasses.fields(Case)]


def cases(args: argparse.Namespace) -> Iterator[Case]:
    """Those that the command line asks for; all of a seed come before the next."""
    parts = (point.partition("=") for point in args.points)
    losses: list[dict[str, Any]] = [
        {"strategy": strategy, "alpha": float(alpha or 0)} for strategy, _, alpha in parts
    ]
    losses += [{"strategy": "y", "alpha": 0.0, "changes": changes} for changes in args.changes]
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for model in args.models:
            values = geometry(model, args.preset)
            if args.width:
                values["latent_width"] = args.width
            values |= given(args, "width", "start", "batch", "patch")
            values.setdefault("latent_width", values["width"])
            settings = settings_of(model, args)
            for quality in args.qualities:
                for wanted in args.optimizers:
                    name, lr, times = optimizer_of(wanted)
                    lr = lr or learning_rate(name, values["start"])
                    steps = args.steps or values["epochs"] * values["steps_per_epoch"]
                    total = round(steps * times / args.parts) * args.parts
                    sizes = {key: values[key] for key in ("width", "latent_width", "start", "batch", "patch")}
                    case = {"model": model, **sizes, "optimizer": name, "lr": lr, "quality": quality}
                    for loss in losses:
                        yield Case(args.preset, seed=seed, total=total, settings=settings, **case, **loss)


def settings_of(model: str, args: argparse.Namespace) -> str:
    """What a training has from its preset that is not named elsewhere in a case, and not the default."""
    values = dataclasses.asdict(config_of(model, args.preset)) | given(args, "decay_at", "decay_to")
    elsewhere = {*KEYS, "lmbda", "epochs", "steps_per_epoch"}
    defaults = dataclasses.asdict(TrainingConfig(lmbda=0.0))
    found = {key: value for key, value in values.items() if key not in elsewhere and value != defaults[key]}
    return ",".join(f"{key}={value}" for key, value in sorted(found.items()))


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """What the command line says instead of the preset."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def optimizer_of(wanted: str) -> tuple[Optimizer, float, float]:
    """Name, learning rate (0: its own), and how many times the steps, of `name=rate x times`."""
    name, _, rest = wanted.partition("=")
    rate, _, times = rest.partition("x")
    if name not in LEARNING_RATES:
        raise SystemExit(f"there is no optimiser {name!r}; choose among {', '.join(LEARNING_RATES)}")
    return cast(Optimizer, name), float(rate or 0), float(times or 1)


def changed(case: Case) -> dict[str, Any]:
    """The settings of a training that its preset and --changes name, as their defaults' types."""
    defaults, found = TrainingConfig(lmbda=0.0), {}
    for text in filter(None, f"{case.settings},{case.changes}".split(",")):
        name, _, value = text.partition("=")
        found[name] = type(getattr(defaults, name))(value)
    return found


def train(case: Case, args: argparse.Namespace, images: dict[str, PackedImages]) -> Iterator[dict[str, Any]]:
    """Train, in this process; what was measured after each part."""
    own = {
        key: getattr(case, key) for key in ("optimizer", "lr", "strategy", "alpha", "batch", "patch", "seed")
    }
    run = trainer_of(
        case.model, case.preset, images["train"], speed_of(args), DEVICE, (case.width, case.latent_width),
        case.start,
        lmbda=LAMBDAS[case.quality], epochs=args.parts, steps_per_epoch=case.total // args.parts,
        **{**own, **changed(case)},
    )  # fmt: skip
    crop, busy = geometry(case.model, case.preset)["val_crop"], 0.0
    for part in range(1, args.parts + 1):
        before, lost = time.process_time(), ""
        try:
            seconds = run.run_epoch()["train_seconds"]
        except DivergedError as error:
            lost = str(error)
        busy += time.process_time() - before if DEVICE == "cpu" else seconds
        step = part * case.total // args.parts
        row = {**dataclasses.asdict(case), "step": step, "ms": 1000 * busy / step, "device": DEVICE}
        if part == 1 and row["ms"] > args.most_ms:
            lost = f"a step took {row['ms']:.0f} ms"
        if lost:
            yield {**row, "lost": lost}
            return
        point = aggregate(evaluate(run.final_model, images["val"], DEVICE, crop, False))
        row |= {"bpp": point.bpp, "mse": point.mse, "J": point.bpp + LAMBDAS[case.quality] * point.mse}
        if part == args.parts and "kodak" in images:
            kodak = aggregate(evaluate(run.final_model, images["kodak"], DEVICE, None, False))
            row |= {"kodak_bpp": kodak.bpp, "kodak_psnr": kodak.psnr}
            for name, number in papers_images(images["kodak"]).items():
                seen = examine(run.final_model, images["kodak"][number])
                row |= {
                    f"pearson_{name}": correlation_sum(seen.correlation),
                    f"eq9_{name}": seen.covariance_sum,
                }
        yield row


def speed_of(args: argparse.Namespace) -> Any:
    changes: dict[str, Any] = {"precision": args.precision} if args.precision else {}
    if args.no_compile:
        changes |= {"compile": False, "channels_last": False}
    return dataclasses.replace(BEST, **changes)


def images_of(args: argparse.Namespace) -> dict[str, PackedImages]:
    """To train on, to select on, and Kodak if it is given."""
    train, val = training_and_validation(args.data and str(args.data), args.val_images, default_cache())
    found = {"train": train.images, "val": val.images}
    if args.kodak:
        pictures = sorted(args.kodak.glob("*.png"))
        found["kodak"] = pack_files(pictures, args.kodak, default_cache())
    return found


def work(args: argparse.Namespace) -> None:
    """Be one of the processes: train what comes in, a line each; an empty answer ends each training."""
    torch.set_num_threads(1)
    if DEVICE == "cpu":
        keep_freed_memory()
    images = images_of(args)
    if DEVICE == "cuda":  # compile
        short, own = dataclasses.replace(next(cases(args)), total=args.parts), images.copy()
        own.pop("kodak", None)
        list(train(short, args, own))
    with turn(args):
        for line in sys.stdin:
            for row in train(Case(**json.loads(line)), args, images):
                print(json.dumps(row), flush=True)
            print("", flush=True)


class Results:
    """What was measured, and the file that has it."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._lock = path, threading.Lock()
        there = path is not None and path.is_file()
        table = pd.read_csv(path) if path is not None and there else pd.DataFrame()
        for name in ("settings", "changes"):
            table[name] = table[name].fillna("") if name in table else ""
        self.rows: list[Any] = table.to_dict("records")

    def has(self, case: Case) -> bool:
        own = dataclasses.asdict(case)
        ended = (row for row in self.rows if row["step"] == row["total"] or isinstance(row.get("lost"), str))
        return any(all(row[key] == own[key] for key in KEYS) for row in ended)

    def add(self, row: dict[str, Any]) -> None:
        with self._lock:
            own = (*KEYS, "step")
            self.rows = [known for known in self.rows if any(known[key] != row[key] for key in own)]
            self.rows.append(row)
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                pd.DataFrame(self.rows).to_csv(self._path, index=False, float_format="%.7g")


def serve(todo: Iterator[Case], results: Results, until: float) -> None:
    """Have a process of its own train one case after the other."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.optimizers", "--worker", *sys.argv[1:]]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    for case in todo:
        if time.monotonic() > until:
            break
        print(json.dumps(dataclasses.asdict(case)), file=process.stdin, flush=True)
        rows = []
        for line in iter(process.stdout.readline, "\n"):
            if not line:
                raise SystemExit(f"the process that trained {case} has ended")
            rows.append(json.loads(line))
            results.add(rows[-1])
        last, name = rows[-1], f"{case.model} q{case.quality} {case.optimizer} {case.lr:g} seed {case.seed}"
        told = last.get("lost") or f"J {last['J']:.4f}, {last['ms']:.1f} ms a step"
        point = case.changes or f"{case.strategy}={case.alpha:g}"
        print(f"{name} {point}, {case.total} steps: {told}", flush=True)
    process.stdin.close()
    process.wait()


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--models", nargs="+", default=["hyperprior", "cheng"])
    found.add_argument("--preset", default=PRESET, help=f"of geometry and schedule (default: {PRESET})")
    found.add_argument("--width", type=int, help="channels, instead of the preset's")
    found.add_argument("--start", choices=["scratch", "auto"], help="instead of the preset's")
    found.add_argument("--batch", type=int)
    found.add_argument("--patch", type=int)
    found.add_argument("--decay-at", type=float)
    found.add_argument("--decay-to", type=float)
    found.add_argument("--qualities", nargs="+", type=int, default=[*LAMBDAS], choices=LAMBDAS)
    found.add_argument(
        "--optimizers", nargs="+", default=["adam", "soap", "muon"], metavar="NAME[=LR[xTIMES]]"
    )
    found.add_argument("--points", nargs="+", default=["y=0"], metavar="STRATEGY=ALPHA")
    found.add_argument("--changes", nargs="+", default=[], metavar="NAME=VALUE[,NAME=VALUE]")
    found.add_argument("--steps", type=int, help="of a training, instead of the preset's")
    found.add_argument("--parts", type=int, default=8, help="of a training, each measured (default: 8)")
    found.add_argument("--seeds", type=int, default=3)
    found.add_argument("--first-seed", type=int, default=0)
    found.add_argument("--precision", choices=["fp32", "tf32", "bf16"])
    found.add_argument("--no-compile", action="store_true", help="on a GPU: for models too small to pay")
    found.add_argument("--val-images", type=int, default=64)
    found.add_argument("--data", type=Path, help="folder of images to train on (default: generated)")
    found.add_argument("--kodak", type=Path, help="folder of the Kodak images")
    found.add_argument("--out", type=Path, help="CSV file to go on with")
    found.add_argument("--jobs", type=int, default=1 if DEVICE == "cuda" else 2)
    add_turn(found)
    found.add_argument("--seconds", type=float, default=float("inf"), help="after which none is begun")
    found.add_argument("--most-ms", type=float, default=1e9, help="of a step; what is slower is given up")
    found.add_argument("--show", action="store_true", help="only print the tables of --out")
    found.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return found


def main() -> None:
    args = parser().parse_args()
    if args.worker:
        work(args)
        return
    results, until = Results(args.out), time.monotonic() + args.seconds
    if not args.show:
        images_of(args)  # packed once, before all processes ask for them
        left = [case for case in dict.fromkeys(cases(args)) if not results.has(case)]
        todo, lock = iter(left), threading.Lock()

        def shared() -> Iterator[Case]:
            while True:
                with lock:
                    case = next(todo, None)
                if case is None:
                    return
                yield case

        servers = [
            threading.Thread(target=serve, args=(shared(), results, until))
            for _ in range(min(args.jobs, len(left)))
        ]
        for server in servers:
            server.start()
        for server in servers:
            server.join()
    print(tables(pd.DataFrame(results.rows)))
    print(machine.described("compressai"))


if __name__ == "__main__":
    main()
