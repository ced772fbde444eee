"""How much the driver can take: many trials over many logical GPUs, with nothing trained.

    python -m tests.bench.scale --trials 200 --gpus 64

Runs the same made-up trainings (a result every --seconds, 9 epochs, a checkpoint of a few bytes) through
this package's engine and core, with its own sampler and with random proposals, and through Ray Tune's plain
recipe: OptunaSearch, ASHAScheduler, MLflowLoggerCallback. Of each side, from the first result on: trials and
results a second, processor time of the driver for each result, and its memory after a third of the results
and at the end. MLflow is written to SQLite on every side. Ray has as many CPUs as logical GPUs, whatever
the machine: each is a process of 0.4 GiB, so that 24 GiB hold some 40.
"""

from __future__ import annotations

import argparse
import functools
import gc
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from rich.console import Console

from lic.recipe import LAMBDAS
from search.engine import cluster

cluster.prepare(None)  # Ray reads its environment when it is imported
import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune.schedulers import ASHAScheduler  # noqa: E402

from search.base.limits import Limits  # noqa: E402
from search.base.space import Candidate, Plan, rungs  # noqa: E402
from search.decide.core import Core  # noqa: E402
from search.engine import tune as engine  # noqa: E402
from search.records.folder import SearchFolder  # noqa: E402
from search.session.monitor import Followed, Monitor  # noqa: E402
from search.session.terminal import PlainView  # noqa: E402
from search.tracking.publishing import Publisher  # noqa: E402
from search.tracking.tracker import Tracker  # noqa: E402
from tests.bench.instant import EPOCHS, Instant  # noqa: E402
from tests.bench.tracking import made_up_search  # noqa: E402

ETA = 3

SIDES = ["random", "plain", "surrogate"]


class Gauge:
    """Counts the results, and looks at this process while they come."""

    def __init__(self, expected: int) -> None:
        self.expected, self.results, self.early = expected, 0, 0.0
        self.began, self.used = 0.0, 0.0

    def count(self) -> None:
        if not self.results:  # the first workers are there; what starting them took is not counted
            self.began, self.used = time.monotonic(), time.process_time()
        self.results += 1
        if self.results == self.expected // 3:
            self.early = memory()

    def read(self, side: str, trials: int) -> dict[str, Any]:
        wall, used = time.monotonic() - self.began, time.process_time() - self.used
        return {
            "side": side, "trials": trials, "results": self.results, "wall_s": wall,
            "trials_per_s": trials / wall, "results_per_s": self.results / wall,
            "driver_ms_per_result": 1000 * used / self.results,
            "memory_third_mib": self.early, "memory_end_mib": memory(),
        }  # fmt: skip


def memory() -> float:
    """Memory of this process, MiB."""
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


class Counted(Core):
    """The core, counting what it is told."""

    gauge: Gauge

    def observe(self, *args: Any, **kwargs: Any) -> None:
        self.gauge.count()
        super().observe(*args, **kwargs)


def ours(sampler: str, trials: int, gpus: int, seconds: float, root: Path, side: str) -> dict[str, Any]:
    """The trials through this package's engine, core and monitor."""
    levels = tuple(rungs(EPOCHS, 1, ETA))
    plan = Plan(
        qualities=tuple(LAMBDAS), strategies=("y", "z", "y+z"), alpha_min=1e-8, alpha_max=1e-5, epochs=EPOCHS,
        rungs=levels, eta=ETA, budget=trials, seed=0, sampler=sampler, selection="val",
    )  # fmt: skip
    folder = made_up_search(root / side, "val")
    opened = SearchFolder.read(folder)
    core = Counted(opened.storage(), folder.name, plan)
    core.gauge = Gauge(trials * 2)
    with (root / "said.log").open("w") as log:
        view = PlainView(Console(file=log))
        publisher = Publisher(
            Tracker(f"sqlite:///{root}/ours.db", folder.name, opened), plan.strategies, view.say
        )
        monitor = Monitor(Followed(opened, plan, "val", gpus), publisher, view)
        engine.run(
            core, functools.partial(_point, seconds), monitor.changed, Limits(None, None, 1),
            engine.Execution(opened.checkpoints, lambda: gpus, 1, 0), trainable=Instant,
        )  # fmt: skip
        found = core.gauge.read(side, trials)
        monitor.close()
        publisher.close(monitor.groups(), {}, "FINISHED")
    return found


def _point(seconds: float, candidate: Candidate) -> Any:
    return {"alpha": candidate.alpha, "quality": candidate.quality, "seconds": seconds}


def plain(trials: int, gpus: int, seconds: float, root: Path) -> dict[str, Any]:
    """The trials through Ray Tune's own recipe."""
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search.optuna import OptunaSearch

    gauge = Gauge(trials * 2)

    class Count(tune.Callback):
        def on_trial_result(self, *_args: Any, **_info: Any) -> None:
            gauge.count()

    space = {
        "alpha": tune.loguniform(1e-8, 1e-5),
        "strategy": tune.choice(["y", "z", "y+z"]),
        "quality": tune.choice(list(LAMBDAS)),
        "seconds": seconds,
    }
    tracking = MLflowLoggerCallback(tracking_uri=f"sqlite:///{root}/plain.db", experiment_name="plain")
    tune.Tuner(
        tune.with_resources(Instant, {"CPU": 1, "GPU": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(metric="rd_cost", mode="min"),
            scheduler=ASHAScheduler(
                metric="rd_cost", mode="min", max_t=EPOCHS, grace_period=1, reduction_factor=ETA
            ),
            num_samples=trials, max_concurrent_trials=gpus, reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="plain", storage_path=str(root), verbose=0, callbacks=[Count(), tracking],
            # All are kept: with num_to_keep Ray writes the state of all trials at every checkpoint.
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
        ),
    ).fit()  # fmt: skip
    return gauge.read("Ray Tune's plain recipe", trials)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--gpus", type=int, default=64, help="logical ones")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a made-up epoch")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--out", type=Path, help="CSV file to write")
    args = parser.parse_args()
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    ray.init(
        num_cpus=args.gpus, num_gpus=args.gpus, include_dashboard=False, log_to_driver=False,
        logging_level=logging.ERROR,
    )  # fmt: skip
    rows, size = [], (args.trials, args.gpus, args.seconds)
    with tempfile.TemporaryDirectory() as temporary:
        sides: dict[str, Callable[[Path], dict[str, Any]]] = {
            "random": lambda root: ours("random", *size, root, "lictune, random proposals"),
            "plain": lambda root: plain(*size, root),
            "surrogate": lambda root: ours("surrogate", *size, root, "lictune, its own sampler"),
        }
        for number in range(args.rounds):
            for name in args.sides:
                root = Path(temporary) / f"{number}-{name}"
                root.mkdir()
                rows.append(sides[name](root))
                print(rows[-1], flush=True)
    ray.shutdown()
    table = pd.DataFrame(rows).groupby("side", sort=False).median()
    print(table.round(2).to_string())
    for name, row in table.iterrows() if "plain" in args.sides else ():
        other = table.loc["Ray Tune's plain recipe"]
        print(
            f"{name}: {row['results_per_s'] / other['results_per_s']:.2f} times the results a second, "
            f"{row['driver_ms_per_result'] / other['driver_ms_per_result']:.2f} times the driver's time "
            "for each"
        )
    print(
        f"{os.cpu_count()} cores, Ray {ray.__version__}, {args.trials} trials over {args.gpus} logical GPUs"
    )
    if args.out:
        table.round(4).to_csv(args.out)


if __name__ == "__main__":
    main()
