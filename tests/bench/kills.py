"""What survives a kill -9: the driver, a trial's worker, Ray's raylet, MLflow's server and the database, each
killed at six moments of real searches with one worker and with two, which then go on; and a disk that runs
full, or is read-only all at once, at these moments.

    python -m tests.bench.kills --out docs/bench/kills.csv

A search that was killed six times must end as one that was not: every training once in Optuna and in MLflow,
no run left RUNNING, no epoch whose checkpoint was written trained again; with one worker the same points and
tables, with two the figures that each point has when it is trained alone.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from mlflow import MlflowClient

from search.records.folder import open_search
from search.records.search_records import FAILED, RUNNING, SearchRecords, TrialRecord
from search.settings.config import Settings, recorded_settings
from search.settings.plan import template_of
from search.tracking.tracker import ROLE_TAG, TRIAL_TAG
from tests.bench.scenes import (
    BUDGET,
    DISKS,
    LAST,
    MOMENTS,
    PATIENCE,
    SEARCH,
    VICTIMS,
    Scene,
    scene_of,
    undisturbed_search,
    wait_for,
)
from tests.conftest import assert_as_trained_alone, meanwhile


@dataclass(frozen=True)
class Kill:
    """One kill: of what, at which moment, how long after it was seen, and what came of it."""

    victim: str
    workers: int
    moment: str
    after_s: float
    search: str
    outcome: str


def run_scene(scene: Scene, undisturbed: Path | None) -> list[Kill]:
    """A search with the victim killed at every moment; raises AssertionError where it is not as must be."""
    if scene.server is not None:
        assert _answers(scene.mlflow)
    place = ["--study", scene.study] if scene.database else []
    if scene.victim == "readonly":
        place = ["--storage", str(scene.folder / "storage")]
    scene.start("--name", scene.name, *SEARCH, "--workers", str(scene.workers), "--cache", str(scene.cache),
                "--tracking-uri", scene.mlflow, *place)  # fmt: skip
    kills: list[Kill] = []
    with meanwhile(scene.look, 0.1):
        for moment, (make, most, pause) in MOMENTS.items():
            if moment == "at the very end" and scene.victim in ("worker", "raylet"):
                make, most, pause = LAST
            delay, how = scene.draw.uniform(0, most), ""
            seen = make(scene)
            while not how:
                assert wait_for(scene, seen, pause), f"{scene.name} ended before it was killed {moment}"
                time.sleep(delay)
                how = scene.kill()
            kills.append(Kill(scene.victim, scene.workers, moment, round(delay, 3), how, "as undisturbed"))
            print(f"{scene.name}: killed {moment}, {how}", flush=True)
            if scene.driver is not None and scene.driver.poll() == 0:
                break
            if how != "went on":
                _wait_for_orphans(scene)
                scene.start("--resume", scene.name, "--tracking-uri", scene.mlflow)
        assert scene.driver is not None
        status = scene.driver.wait(PATIENCE)
    said = (scene.folder / "driver.log").read_text()
    assert status == 0, said[-3000:]
    if (
        "search.track" in said and scene.victim == "mlflow"
    ):  # it was away when the search ended, which said so
        assert _answers(scene.mlflow)
        track = ["search.track", scene.name, "--results", str(scene.search.parent), "--rebuild"]
        done = subprocess.run([sys.executable, "-m", *track], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        kills[-1] = replace(kills[-1], search="went on; MLflow by search.track --rebuild")
    check(scene, undisturbed)
    return kills


def _wait_for_orphans(scene: Scene) -> None:
    """What a killed driver started ends by itself."""
    until = time.monotonic() + 60
    while any(_belongs(process, scene) for process in psutil.process_iter()):
        assert time.monotonic() < until, f"{scene.name}: processes of a killed driver are left"
        time.sleep(0.2)


def _belongs(process: psutil.Process, scene: Scene) -> bool:
    try:
        return process.name() in ("raylet", "gcs_server") and scene.name in process.environ().get("SCENE", "")
    except psutil.Error:
        return False


def _answers(address: str) -> bool:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
            return True
        time.sleep(0.5)
    return False


def check(scene: Scene, undisturbed: Path | None) -> None:
    """What must hold of a search that was killed and has ended."""
    scene.reader = None  # over a connection that was not broken
    records = scene.records()
    everything = records.everything()
    names = [record.name for record in everything]
    assert len(records.trials) == BUDGET and len(set(names)) == len(names) == BUDGET + 2, names
    assert not [r.name for r in everything if r.state in (RUNNING, FAILED)], everything
    twice = {key: len(files) for key, files in scene.written.items() if len(files) > 1}
    assert not twice, f"trained twice: {twice}"
    _check_mlflow(scene, everything)
    if undisturbed is not None:
        for table in ("rates", "strategies", "trials"):
            mine, other = (f / "tables" / f"{table}.csv" for f in (scene.search, undisturbed))
            assert mine.read_text() == other.read_text(), f"{table} of {scene.name} are not the undisturbed"
        assert _decisions(records) == _decisions(open_search(str(undisturbed), undisturbed.parent).records)
    template = template_of(Settings(**recorded_settings(scene.search)))
    for record in everything if undisturbed is None else []:
        assert_as_trained_alone(record, template)


def _decisions(records: SearchRecords) -> list[tuple[Any, ...]]:
    return [(r.name, r.quality, r.alpha, r.strategy, r.seed, r.state, r.last_epoch) for r in records.trials]


def _check_mlflow(scene: Scene, everything: list[TrialRecord]) -> None:
    client = MlflowClient(scene.mlflow)
    experiment = client.get_experiment_by_name(scene.name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    held = Counter(run.data.tags.get(TRIAL_TAG, "") for run in runs)
    assert held == Counter(["", *(record.name for record in everything)]), held
    by_name = {run.data.tags.get(TRIAL_TAG, ""): run for run in runs}
    assert {run.data.tags[ROLE_TAG] for run in runs} == {"search", "baseline", "trial"}
    assert not [run for run in runs if run.info.status == "RUNNING"]
    for record in everything:
        history = client.get_metric_history(by_name[record.name].info.run_id, "val/bpp")
        measured = [epoch for epoch, readings in record.readings.items() if "val/bpp" in readings]
        assert sorted(point.step for point in history) == measured, record.name
        for point in history:
            assert point.value == record.readings[point.step]["val/bpp"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="CSV file for the table; what it holds is not done again")
    parser.add_argument("--victims", default=",".join((*VICTIMS, *DISKS)), help="some of them (default: all)")
    parser.add_argument("--workers", default="1,2", help="numbers of workers (default: 1,2)")
    parser.add_argument("--seed", type=int, default=0, help="of the random timing")
    args = parser.parse_args()
    done = pd.read_csv(args.out) if args.out and args.out.is_file() else pd.DataFrame(columns=["workers"])
    kills: list[Any] = done.to_dict("records")
    with tempfile.TemporaryDirectory(prefix="lictune-kills-") as work:
        cache, undisturbed = Path(work) / "cache", None
        for workers, victim in itertools.product(map(int, args.workers.split(",")), args.victims.split(",")):
            if ((done["workers"] == workers) & (done.get("victim") == victim)).any():
                continue
            if victim in DISKS and workers > 1:
                continue
            if workers == 1 and undisturbed is None:
                undisturbed = undisturbed_search(Path(work), cache)
            with scene_of(victim, workers, cache, args.seed) as scene:
                began = time.monotonic()
                ran = run_scene(scene, undisturbed if workers == 1 else None)
                kills += map(asdict, ran)
                print(f"{scene.name}: as it must be, {time.monotonic() - began:.0f} s", flush=True)
            if args.out:
                pd.DataFrame(kills).to_csv(args.out, index=False)
    print(pd.DataFrame(kills).to_string())


if __name__ == "__main__":
    main()
