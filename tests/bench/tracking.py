"""What the following of a search costs its driver: `python -m tests.bench.tracking`.

Replays the reports of a search (64 trials and 6 baselines of 100 epochs, or of --epochs, none stopped, on 8
workers) to the decision core at a fixed pace, as Ray's loop does: once without anybody who follows, and
once with the monitor that writes MLflow, to SQLite and to a server on this machine. The readings are made
up; their number, names and per-image columns are a real search's. Of each side: the time that the loop
spent in its calls, the longest call to the monitor, and the processor time of the whole process.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from search.base.space import Candidate, Plan
from search.decide.core import Core
from search.records.folder import SearchFolder
from search.session.monitor import Followed, Monitor
from search.session.terminal import PlainView
from search.settings.config import SETTINGS
from search.store.provenance import ENVIRONMENT
from search.tracking.publishing import Publisher
from search.tracking.tracker import Tracker

PLAN = Plan(
    qualities=(1, 2, 3, 4, 5, 6), strategies=("y", "z", "y+z"), alpha_min=1e-8, alpha_max=1e-5, epochs=100,
    rungs=(), eta=3, budget=64, seed=0, sampler="random", selection="val",
)  # fmt: skip
WORKERS = 8
VAL_IMAGES, TEST_IMAGES = 32, 24


def reading(quality: int, epoch: int, draw: random.Random) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Figures and per-image columns as a trial reports them; the test images every tenth epoch."""
    figures: dict[str, float] = {}
    images: dict[str, list[float]] = {}
    sets = {"val": VAL_IMAGES} | ({"kodak": TEST_IMAGES} if epoch % 10 == 0 else {})
    for name, count in sets.items():
        rates = [0.1 * quality + draw.uniform(0, 0.002) + 0.2 / epoch for _ in range(count)]
        errors = [300 / quality + draw.uniform(0, 3) + 50 / epoch for _ in range(count)]
        images |= {f"{name}/bpp": rates, f"{name}/mse": errors}
        figures |= {f"{name}/bpp": statistics.fmean(rates), f"{name}/mse": statistics.fmean(errors)}
        if name == "kodak":
            psnr = [25 + quality + draw.uniform(0, 0.01) - 1 / epoch for _ in range(count)]
            ms_ssim = [0.9 + 0.01 * quality + draw.uniform(0, 1e-4) - 0.01 / epoch for _ in range(count)]
            images |= {"kodak/psnr": psnr, "kodak/ms_ssim": ms_ssim}
            means = (statistics.fmean(psnr), statistics.fmean(ms_ssim))
            figures |= {"kodak/psnr": means[0], "kodak/ms_ssim": means[1], "kodak/ms_ssim_db": 10.0 + quality}
    for name in ("loss", "bpp", "mse", "decorrelation", "share", "aux_loss", "skipped"):
        figures[f"train/{name}"] = draw.random()
    figures |= {"time/train_seconds": 1.0, "time/eval_seconds": 0.1, "time/measured_at": time.time()}
    figures["memory/peak_mib"] = 1000.0
    return figures, images


def replay(core: Core, changed: Callable[[], None], pace: float) -> dict[str, float]:
    """Give the core the reports, `pace` a second; the seconds that the loop's calls took."""
    draw = random.Random(0)
    running: list[tuple[Candidate, int]] = []
    busy, longest, reports = 0.0, 0.0, 0
    began, used = time.monotonic(), time.process_time()
    while True:
        due = began + reports / pace
        time.sleep(max(0.0, due - time.monotonic()))
        started = time.perf_counter()
        if len(running) < WORKERS and (candidate := core.suggest()) is not None:
            running.append((candidate, 0))
        elif not running:
            break
        else:
            at_work, epoch = running.pop(0)
            epoch += 1
            core.observe(at_work.name, epoch, *reading(at_work.quality, epoch, draw))
            if core.decide(at_work.name, epoch):
                running.append((at_work, epoch))
            reports += 1
        before = time.perf_counter()
        changed()
        ended = time.perf_counter()
        busy, longest = busy + ended - started, max(longest, ended - before)
    return {
        "reports": reports, "wall_s": time.monotonic() - began, "loop_busy_s": busy,
        "longest_call_ms": 1000 * longest, "processor_s": time.process_time() - used,
    }  # fmt: skip


def made_up_search(folder: Path, test_set: str) -> Path:
    """Make the folder of a search with what the tracking reads from it; the folder."""
    folder.mkdir()
    (folder / SETTINGS).write_text("model: hyperprior\n")
    (folder / ENVIRONMENT).write_text(json.dumps({"test_set": test_set}))
    return folder


def side(uri: str | None, root: Path, name: str, pace: float, epochs: int) -> dict[str, float]:
    """One replay into a fresh folder; with `uri`, followed and written to MLflow there."""
    plan = dataclasses.replace(PLAN, epochs=epochs)
    folder = made_up_search(root / name, "kodak")
    opened = SearchFolder.read(folder)
    core = Core(opened.storage(), name, plan)
    if uri is None:
        return replay(core, lambda: None, pace)
    with (root / "said.log").open("a") as log:
        view = PlainView(Console(file=log, width=120))
        publisher = Publisher(Tracker(uri, name, opened), plan.strategies, view.say)
        monitor = Monitor(Followed(opened, plan, "kodak", WORKERS), publisher, view)
        found = replay(core, monitor.changed, pace)
        began = time.monotonic()
        monitor.close()
        complete = publisher.close(monitor.groups(), {}, "FINISHED")
    return {**found, "closing_s": time.monotonic() - began, "complete": complete}


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """An MLflow server on a store of its own; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "server-artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=2):
                break
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pace", type=float, default=35.0, help="reports a second")
    parser.add_argument("--epochs", type=int, default=PLAN.epochs, help="of a training")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, help="CSV file to write")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary, server(Path(temporary)) as address:
        root = Path(temporary)
        sides = {"none": None, "SQLite": f"sqlite:///{root}/mlflow.db", "server": address}
        for number in range(args.rounds):
            for label, uri in sides.items():
                run = functools.partial(side, uri, root, f"{label}-{number}", args.pace, args.epochs)
                rows.append({"tracking": label, **run()})
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    means: Any = table.groupby("tracking").mean()
    wall = means["wall_s"].max()
    for label in ("SQLite", "server"):
        for column, what in (("loop_busy_s", "the loop's calls"), ("processor_s", "processor time")):
            more = means.loc[label, column] - means.loc["none", column]
            print(f"{label}: {what} {more:+.2f} s, {100 * more / wall:+.2f} % of {wall:.0f} s")
        print(f"{label}: longest call to the monitor {means.loc[label, 'longest_call_ms']:.3f} ms")
    if args.out:
        table.round(4).to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
