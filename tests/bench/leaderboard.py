"""How long the leaderboard of a large search takes to open.

    python -m tests.bench.leaderboard --trials 1500 --store /tmp/large.db

Fills an MLflow store with the runs of a search (unless the file is there already), serves it as
`python -m dashboards.open` does, and opens the leaderboard's link in fresh browser profiles: seconds from the
request until the first rows show, with nothing in the browser's cache. A first load that warms the server is
not counted. The runs have the params, metrics and tags of a real search, at the lengths that early stopping
by three leaves; their values are drawn.
"""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from dashboards.links import serve_mlflow
from dashboards.servers import HOST, Servers
from lic.models.architectures import STRATEGIES
from lic.recipe import LAMBDAS
from search.base.space import TRIAL, trial_name
from search.tracking.tracker import PARENT, PARENT_TAG, ROLE_TAG, SEARCH_TAG, TRIAL_TAG, readable
from search.tracking.views import LEADERBOARD, final_figure, install_views, link
from tests.support.browser import MISSING, chromium, fresh_page

NAME, EPOCHS = "large", 9
METRICS = (
    "val/rate_change", "val/bpp", "val/bpp_y", "val/bpp_z", "val/mse", "val/psnr", "kodak/rate_change",
    "kodak/bd_rate_psnr", "kodak/bd_rate_msssim", "kodak/bpp", "kodak/bpp_y", "kodak/bpp_z", "kodak/ms_ssim",
    "kodak/ms_ssim_db", "kodak/mse", "kodak/psnr", "memory/peak_mib", "time/eval_seconds",
    "time/train_seconds", "train/alpha_L_over_D", "train/decorrelation", "train/grad_norm", "train/loss",
    "train/lr", "train/mse", "train/rate_y", "train/rate_z", "train/skipped_steps",
)  # fmt: skip
FINAL = final_figure("val")
ROWS = f".ag-center-cols-container .ag-row [col-id='metrics.`{FINAL}`']"


def fill(uri: str, trials: int) -> None:
    """The parent run and its trials, one batch each."""
    client, draw = MlflowClient(uri), np.random.default_rng(0)
    experiment = client.create_experiment(NAME)
    parent = client.create_run(
        experiment, tags={ROLE_TAG: PARENT, "lictune.test_set": "kodak"}, run_name=NAME
    )
    for number in range(trials):
        quality, alpha = int(draw.integers(1, 7)), float(10 ** draw.uniform(-8, -5))
        strategy = STRATEGIES[int(draw.integers(len(STRATEGIES)))]
        last = int(draw.choice([1, 3, EPOCHS], p=[2 / 3, 2 / 9, 1 / 9]))
        tags = {
            ROLE_TAG: TRIAL, SEARCH_TAG: NAME, TRIAL_TAG: trial_name(number),
            PARENT_TAG: parent.info.run_id, "lictune.state": "finished" if last == EPOCHS else "stopped",
            "lictune.epochs": str(last),
        }  # fmt: skip
        params = {
            "role": TRIAL, "quality": str(quality), "lambda": readable(LAMBDAS[quality]),
            "strategy": strategy, "alpha": readable(alpha), "log10_alpha": f"{np.log10(alpha):.3f}",
            "seed": "0",
        }  # fmt: skip
        now = int(time.time() * 1000)
        name = f"q{quality} {strategy} {readable(alpha)}"
        run = client.create_run(experiment, tags=tags, run_name=name).info.run_id
        metrics = [Metric(m, draw.normal(), now, epoch) for epoch in range(1, last + 1) for m in METRICS]
        if last == EPOCHS:
            final = next(m.value for m in reversed(metrics) if m.key == "val/rate_change")
            metrics.append(Metric(FINAL, final, now, last))
        client.log_batch(run, metrics, [Param(key, value) for key, value in params.items()])
        client.set_terminated(run, "FINISHED" if last == EPOCHS else "KILLED")


def best(store: Path) -> float:
    """The lowest rate change of any trial, which the first row has to show."""
    with sqlite3.connect(store) as database:
        (value,) = database.execute(
            "SELECT MIN(value) FROM latest_metrics WHERE key = ?", (FINAL,)
        ).fetchone()
    return float(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=1500)
    parser.add_argument("--store", type=Path, required=True, help="SQLite file, made if it is not there")
    parser.add_argument("--loads", type=int, default=3)
    parser.add_argument("--picture", type=Path, help="of the last load")
    args = parser.parse_args()
    if MISSING:
        raise SystemExit(MISSING)
    uri = f"sqlite:///{args.store.resolve()}"
    if not args.store.is_file():
        started = time.perf_counter()
        fill(uri, args.trials)
        print(f"{args.trials} trials written in {time.perf_counter() - started:.0f} s", flush=True)
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(NAME)
    assert found is not None
    experiment = found.experiment_id
    install_views(client, experiment, "kodak", "val", tuple(LAMBDAS))
    taken = []
    with Servers() as servers, chromium() as browser:
        port = serve_mlflow(servers, uri, 5000)
        servers.wait_until_ready()
        for load in range(args.loads + 1):
            page, _ = fresh_page(browser)
            started = time.perf_counter()
            page.goto(link(f"http://{HOST}:{port}", experiment, LEADERBOARD), wait_until="commit")
            page.locator(ROWS).first.wait_for()
            seconds = time.perf_counter() - started
            shown = page.locator(".ag-center-cols-container .ag-row[row-index='0']")
            first = shown.locator("[col-id='metrics.`val/rate_change`']").inner_text()
            assert abs(float(first) - best(args.store)) < 1e-3, first
            busy = os.getloadavg()[0]
            print(f"load {load}: {seconds:.2f} s (load average {busy:.1f})", flush=True)
            taken += [seconds] if load else []
            if args.picture and load == args.loads:
                page.screenshot(path=args.picture)
            page.context.close()
    print(
        f"median of {len(taken)}: {statistics.median(taken):.2f} s; {platform.machine()}, {os.cpu_count()} "
        f"cores, MLflow {version('mlflow')}, chromium {browser.version}"
    )


if __name__ == "__main__":
    main()
