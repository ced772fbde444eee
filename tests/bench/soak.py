"""Whether a long search grows: memory and open files of its driver and its workers, over many short trials.

    python -m tests.bench.soak --trials 300 --out docs/bench/soak.csv

A row every few seconds; at the end the slope of each figure per hundred trials, once a third of them has
ended, and the processes that are left.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from search.decide.core import open_studies
from search.store.storage import sqlite_address

SEARCH = (
    *("--model", "hyperprior", "--preset", "tiny", "--width", "4", "--start", "scratch", "--epochs", "1"),
    *("--steps-per-epoch", "2", "--batch", "2", "--patch", "64", "--rates", "1,2", "--no-stopping"),
    *("--data", "deadleaves", "--test", "deadleaves", "--test-images", "1", "--val-images", "1"),
    *("--val-crop", "64", "--workers", "2", "--sampler", "random", "--no-reuse-baselines"),
)

#: Seconds between two looks.
_EVERY = 2.0


def look(driver: psutil.Process) -> dict[str, float]:
    """Memory, MiB, and open files of the driver, and the means of its workers."""
    workers = [p for p in driver.children(recursive=True) if p.name().startswith("ray::R")]
    rows = [(p.memory_full_info().uss / 2**20, p.num_fds(), p.num_threads()) for p in (driver, *workers)]
    mean = np.mean(rows[1:], axis=0) if workers else (np.nan,) * 3
    names = ("memory_mib", "files", "threads")
    return {
        "workers": len(workers),
        **{f"driver_{name}": value for name, value in zip(names, rows[0], strict=True)},
        **{f"worker_{name}": float(value) for name, value in zip(names, mean, strict=True)},
    }


def slopes(table: pd.DataFrame, trials: int) -> pd.DataFrame:
    """Per figure its median in the second third and in the last, and how much it grows per hundred trials."""
    late = table[table["trials"] >= trials / 3]
    rows = []
    for name in [column for column in table.columns if column.startswith(("driver_", "worker_"))]:
        kept = late[["trials", name]].dropna()
        slope = 100 * np.polyfit(kept["trials"], kept[name], 1)[0]
        middle = kept[kept["trials"] < 2 * trials / 3][name].median()
        last = kept[kept["trials"] >= 2 * trials / 3][name].median()
        rows.append({"figure": name, "second third": middle, "last third": last, "per 100 trials": slope})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--out", type=Path, help="CSV file for the table")
    args = parser.parse_args()
    below: set[psutil.Process] = set()
    rows = []
    with tempfile.TemporaryDirectory(prefix="lictune-soak-") as work:
        command = [sys.executable, "-m", "search.run", "--results", work, "--name", "soak", *SEARCH]
        began, storage = time.monotonic(), sqlite_address(Path(work) / "soak" / "study.db")
        driver = subprocess.Popen([*command, "--budget", str(args.trials), "--cache", f"{work}/cache"])
        study, process = None, psutil.Process(driver.pid)
        while driver.poll() is None:
            time.sleep(_EVERY)
            if study is None and (Path(work) / "soak" / "study.db").is_file():
                with contextlib.suppress(KeyError):  # it has just begun
                    study = open_studies(storage, "soak")[0]
            ended = (
                0 if study is None else sum(t.state.is_finished() for t in study.get_trials(deepcopy=False))
            )
            try:
                below |= set(process.children(recursive=True))
                rows.append({"seconds": time.monotonic() - began, "trials": ended, **look(process)})
            except psutil.Error:
                continue  # a worker ended meanwhile
        took = time.monotonic() - began
    table = pd.DataFrame(rows)
    if args.out:
        table.to_csv(args.out, index=False, float_format="%.1f")
    time.sleep(5)
    left = [process.pid for process in below if process.is_running()]
    print(slopes(table[table["workers"] > 0], args.trials).round(2).to_string(index=False))
    print(
        f"{args.trials} trials in {took:.0f} s, status {driver.returncode}; left behind: {left or 'nothing'}"
    )


if __name__ == "__main__":
    main()
