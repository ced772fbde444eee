"""Real searches through Ray, Optuna and MLflow, as a user types them."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import psutil
import pytest
import yaml
from mlflow import MlflowClient
from optuna.storages import InMemoryStorage

from lic.models.architectures import ARCHITECTURES
from lic.recipe import LAMBDAS
from lic.training.trainer import read_checkpoint
from search import simulate
from search.base.limits import Limits
from search.base.space import BASELINE, TRIAL, Candidate
from search.decide.core import SETUP, Core, open_studies
from search.engine.tune import CoreScheduler, CoreSearcher, TuneBridge
from search.records.folder import SearchFolder
from search.records.search_records import FINISHED, STOPPED, RecordReader, SearchRecords, read_records
from search.session.reuse import reuse_baselines
from search.settings.config import Settings
from search.settings.plan import plan_of, template_of
from search.simulation.surfaces import read_table, seed_noise
from tests.conftest import TEST_SET, assert_as_trained_alone, interrupted_at, run_search, search_command
from tests.support.sockets import is_local, watched

SMALL = [
    *("--preset", "tiny", "--width", "8", "--start", "scratch", "--epochs", "2", "--steps-per-epoch", "3"),
    *("--data", "deadleaves", "--test", "deadleaves", "--test-images", "2", "--val-images", "2"),
    *("--workers", "1"),
]


def records_of(results: Path, name: str, test_set: str) -> SearchRecords:
    settings = settings_of(results, name)
    opened = open_studies(f"sqlite:///{results}/{name}/study.db", name)
    return read_records(opened, plan_of(settings), test_set)


def settings_of(results: Path, name: str) -> Settings:
    return Settings(**yaml.safe_load((results / name / "settings.yaml").read_text()))


def test_a_search_ends_with_its_tables(real: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    results, done = real
    assert done.returncode == 0, done.stderr + done.stdout
    printed = " ".join(done.stdout.split())
    for expected in (
        "preset tiny", "CPU (no GPU found), 2 concurrent trials", f"test images {TEST_SET}: ",
        "budget 8 trials and 6 baselines", "[ 14/14] ", f"Best point per quality, measured on {TEST_SET}",
        "BD-rate (MS-SSIM)", "next: python -m dashboards.open",
    ):  # fmt: skip
        assert expected in printed, expected
    assert done.stderr == ""  # no wall of warnings
    folder = results / "real"
    rates = pd.read_csv(folder / "tables" / "rates.csv")
    assert list(rates["quality"]) == [1, 2, 3, 4, 5, 6]
    assert rates[["bpp", "psnr", "ms_ssim", "rate_change"]].notna().all().all()
    strategies = pd.read_csv(folder / "tables" / "strategies.csv")
    assert list(strategies["strategy"]) == ["y", "z", "y+z", "best of all"]
    # After so few steps two rates can be too alike for an interval, which is said.
    whole = strategies[strategies["refused"].isna()]
    assert len(whole) and (whole["bd_rate_psnr_low"] <= whole["bd_rate_psnr"]).all()
    assert (whole["bd_rate_psnr"] <= whole["bd_rate_psnr_high"]).all()
    assert (folder / "figures" / "rd.png").stat().st_size > 20_000
    environment = json.loads((folder / "environment.json").read_text())
    assert {"git_commit", "version_torch", "train_fingerprint", "command"} <= environment.keys()


def test_every_trial_is_in_optuna_with_finite_figures(
    real: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    results, _ = real
    records = records_of(results, "real", TEST_SET)
    assert len(records.trials) == 8
    assert sorted(records.baselines) == [1, 2, 3, 4, 5, 6]
    assert {r.state for r in records.baselines.values()} == {FINISHED}
    assert {r.state for r in records.trials} <= {FINISHED, STOPPED}
    assert [r.quality for r in records.trials] == [1, 2, 3, 4, 5, 6, 1, 2]
    points = [records.baselines[q].readings[3][f"{TEST_SET}/psnr"] for q in range(1, 7)]
    assert points == sorted(points)
    for record in records.trials:
        derived = records.derived(record, record.last_epoch)
        assert len(derived) == 4
        assert all(math.isfinite(value) for value in derived.values())


def test_mlflow_holds_the_search(real: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    results, _ = real
    records = records_of(results, "real", TEST_SET)
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    experiment = client.get_experiment_by_name("real")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    by_role = {role: [r for r in runs if r.data.tags["lictune.role"] == role]
               for role in ("search", "baseline", "trial")}  # fmt: skip
    assert {role: len(found) for role, found in by_role.items()} == {"search": 1, "baseline": 6, "trial": 8}
    parent = by_role["search"][0]
    assert parent.info.status == "FINISHED"
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"figures", "report.html", "settings.yaml", "environment.json", "tables"} <= artifacts
    tables = {item.path for item in client.list_artifacts(parent.info.run_id, "tables")}
    assert {"tables/rates.csv", "tables/strategies.csv", "tables/trials.csv"} <= tables
    best = client.get_metric_history(parent.info.run_id, "best/rate_change_q1")
    assert len(best) == len(records.finished())
    assert [point.value for point in sorted(best, key=lambda p: p.step)][-1] <= 0
    assert math.isfinite(parent.data.metrics[f"best/{TEST_SET}_bd_rate_psnr_best"])
    by_name = {run.data.tags["lictune.trial"]: run for run in by_role["trial"]}
    for record in records.trials:
        run = by_name[record.name]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == ("FINISHED" if record.state == FINISHED else "KILLED")
        assert run.data.params["alpha"] == f"{record.alpha:.3g}"
        assert run.data.params["strategy"] == record.strategy
        assert float(run.data.params["lambda"]) == pytest.approx(LAMBDAS[record.quality], rel=1e-2)
        for metric in ("bd_rate_psnr", "bd_rate_msssim", "psnr", "ms_ssim"):
            assert math.isfinite(run.data.metrics[f"{TEST_SET}/{metric}"])
        change = records.rate_change(record, record.last_epoch, "val")
        assert run.data.metrics["val/rate_change"] == pytest.approx(change)
        history = client.get_metric_history(run.info.run_id, "val/rate_change")
        assert sorted(point.step for point in history) == list(range(1, record.last_epoch + 1))


def test_the_best_checkpoints_are_kept_and_no_others(
    real: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    results, _ = real
    index = json.loads((results / "real" / "best" / "index.json").read_text())
    assert sorted(index) == [f"q{quality}.pt" for quality in range(1, 7)]
    for name, entry in index.items():
        state = read_checkpoint(results / "real" / "best" / name)
        assert state["config"]["lmbda"] == entry["lambda"]
        assert state["config"]["alpha"] == entry["alpha"]
        assert state["step"] == 3 * 30
    for record in records_of(results, "real", TEST_SET).everything():
        there = sorted((results / "real" / "trials" / record.name).glob("*.pt"))
        last = [f"epoch-{record.last_epoch:04d}.pt"]
        # A trial that was stopped can no longer win.
        assert [path.name for path in there] == ([] if record.state == STOPPED else last), record


def test_its_learning_curves_can_be_exported(
    real: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    results, _ = real
    target = tmp_path / "curves.csv"
    assert simulate.main(["--export", str(results / "real"), "--table", str(target)]) == 0
    records = records_of(results, "real", TEST_SET)
    table = read_table(target)
    assert len(table) == sum(record.last_epoch for record in records.trials)
    record = records.trials[0]
    change = records.rate_change(record, record.last_epoch, "val")
    own = table[(table["alpha"] / record.alpha - 1).abs() < 1e-3]
    assert own["rate_change"].iloc[-1] == pytest.approx(change, rel=1e-3)
    assert simulate.main(["--export", str(tmp_path), "--table", str(target)]) == 2
    twice = [str(results / "real")] * 2
    assert simulate.main(["--export", *twice, "--table", str(target)]) == 0
    again = read_table(target)
    assert set(again[again["alpha"] == 0]["quality"]) == set(range(1, 7))
    assert seed_noise(again) == pytest.approx(0, abs=1e-9)  # the same baselines


def test_nothing_of_ray_is_left_behind(real: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    results, done = real
    assert done.returncode == 0
    time.sleep(2)
    started = (results / "real" / "settings.yaml").stat().st_mtime  # Ray starts after it is written
    left = [
        process.info["name"]
        for process in psutil.process_iter(["name", "create_time"])
        if (process.info["create_time"] or 0) >= started
    ]
    assert not [name for name in left if name and ("raylet" in name or "gcs_server" in name)]


def test_a_trials_figures_are_a_function_of_its_point_and_seed(
    real: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    results, _ = real
    records = records_of(results, "real", TEST_SET)
    assert_as_trained_alone(records.trials[-1], template_of(settings_of(results, "real")))


class Deeds:
    """What an engine tells the core."""

    def __init__(self) -> None:
        self.failed: list[tuple[str, str]] = []

    def fail(self, name: str, reason: str) -> None:
        self.failed.append((name, reason))

    def unfinished(self) -> list[Candidate]:
        return []


def test_a_training_is_failed_only_when_ray_gives_it_up(tmp_path: Path) -> None:
    core = Deeds()
    drive = TuneBridge(core, lambda: None, Limits(None, None, 0))  # type: ignore[arg-type]
    scheduler, searcher = CoreScheduler(drive, lambda: None), CoreSearcher(drive, lambda _: {}, lambda: 1)
    (tmp_path / "error.txt").write_text("Failure # 1\nValueError: a corrupt batch\n")
    trial = SimpleNamespace(
        trial_id="7",
        config={"name": "trial-003", "gpus": 0},
        error_file=str(tmp_path / "error.txt"),
        status="ERROR",
    )
    scheduler.on_trial_error(None, trial)  # as Ray calls it before it tries again, too
    assert core.failed == []
    searcher.on_trial_complete("7", error=True)
    assert core.failed == [("trial-003", "a corrupt batch")]


@pytest.mark.chaos
def test_a_killed_worker_is_trained_on_from_its_checkpoint(tmp_path: Path) -> None:
    arguments = ["--model", "hyperprior", *SMALL, "--rates", "1", "--budget", "1", "--no-stopping"]
    command = [*search_command(tmp_path, "killed"), *arguments, "--epochs", "3", "--steps-per-epoch", "80"]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 300
    while not any((tmp_path / "killed" / "trials" / "trial-000").glob("epoch-*.pt")):
        assert driver.poll() is None and time.monotonic() < until, driver.communicate()
        time.sleep(0.1)
    training = [
        process
        for process in psutil.Process(driver.pid).children(recursive=True)
        if process.name().startswith(("ray::RayTrial", "ray::Resource"))
    ]
    assert training
    for process in training:
        process.kill()
    printed, errors = driver.communicate(timeout=300)
    assert (driver.returncode, errors) == (0, ""), printed + errors
    records = records_of(tmp_path, "killed", "deadleaves")
    assert [(r.name, r.state) for r in records.everything()] == [
        ("baseline-q1", FINISHED),
        ("trial-000", FINISHED),
    ]
    for record in records.everything():
        assert len(record.readings) == 3
        assert_as_trained_alone(record, template_of(settings_of(tmp_path, "killed")))


@pytest.mark.slow
def test_a_search_needs_neither_a_reader_nor_a_quiet_environment(tmp_path: Path) -> None:
    """Its output is closed, and the environment names another Ray, another run of MLflow and ASCII."""
    arguments = ["--model", "hyperprior", *SMALL, "--rates", "1", "--budget", "1", "--no-stopping"]
    command = [*search_command(tmp_path, "alone"), *arguments]
    foreign = {"RAY_ADDRESS": "127.0.0.1:1", "RAY_NAMESPACE": "x", "MLFLOW_RUN_ID": "0"}
    done = subprocess.run(
        ["bash", "-c", f"exec {shlex.join(command)} >&-"], stderr=subprocess.PIPE, text=True, check=False,
        env={**os.environ, **foreign, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    log = (tmp_path / "alone" / "search.log").read_text()
    assert (done.returncode, done.stderr) == (0, ""), log
    (ignored,) = re.findall(r"^ignored .*", log, re.M)
    assert set(foreign) <= set(re.findall(r"\w+", ignored))
    for line in ("Best point per quality", "next: python -m "):
        assert line in log
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("alone")
    assert experiment is not None
    assert {run.info.status for run in client.search_runs([experiment.experiment_id])} == {"FINISHED"}
    assert len(client.search_runs([experiment.experiment_id])) == 3


@pytest.mark.chaos
def test_a_search_that_is_told_to_end_does_so_within_30_seconds(tmp_path: Path) -> None:
    arguments = ["--model", "hyperprior", *SMALL, "--rates", "1", "--budget", "1"]
    command = [*search_command(tmp_path, "told"), *arguments, "--steps-per-epoch", "1000000"]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 300
    while not any((tmp_path / "told" / "trials").glob("baseline-q1")):
        assert driver.poll() is None and time.monotonic() < until, driver.communicate()
        time.sleep(0.1)
    time.sleep(5)
    started = psutil.Process(driver.pid).children(recursive=True)
    began = time.monotonic()
    driver.terminate()
    printed, errors = driver.communicate(timeout=120)
    assert time.monotonic() - began < 30
    assert "SIGTERM: finishing the running epochs (12 s at most)" in printed
    assert (driver.returncode, errors.count(f"--resume {tmp_path / 'told'}")) == (130, 1), errors
    assert psutil.wait_procs(started, timeout=10)[1] == []


@pytest.mark.slow
def test_two_runs_with_one_worker_are_identical_even_if_one_is_interrupted_and_killed(tmp_path: Path) -> None:
    arguments = ["--model", "cheng", *SMALL, "--rates", "1,6", "--budget", "4", "--seed", "5"]
    confirm = ("--confirm", "1", "--seeds", "2")
    done = run_search(tmp_path, "first", *arguments, "--no-reuse-baselines", *confirm)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "Confirmed on fresh seeds" in done.stdout
    assert len(pd.read_csv(tmp_path / "first" / "tables" / "trials.csv")) == 6
    again = pd.read_csv(tmp_path / "first" / "tables" / "confirmation.csv")
    assert 1 <= len(again) <= 2
    assert set(again["seeds"]) == {2}
    assert set(again["outcome"]) <= {"better", "worse", "undecided"}
    assert (again["rate_change_low"] <= again["rate_change"]).all()
    assert (again["rate_change"] <= again["rate_change_high"]).all()

    # One that is interrupted, goes on, is killed and goes on, ends as if it had not been.
    command = [*search_command(tmp_path, "broken"), *arguments, "--no-reuse-baselines", *confirm]
    printed = interrupted_at("[  2/", command)
    assert "finishing the running epochs" in printed
    assert f"to resume: python -m search.run --resume {tmp_path / 'broken'}" in printed
    refused = run_search(tmp_path, None, "--resume", "broken", "--batch", "5")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "batch is 4 in" in refused.stderr
    resume = [*search_command(tmp_path, None), "--resume", "broken"]
    interrupted_at("[", resume, signal.SIGKILL)  # at whatever is its first result
    done = run_search(tmp_path, None, "--resume", "broken")
    assert done.returncode == 0, done.stderr + done.stdout
    for table in ("rates", "strategies", "trials", "confirmation"):
        undisturbed = (tmp_path / "first" / "tables" / f"{table}.csv").read_text()
        assert (tmp_path / "broken" / "tables" / f"{table}.csv").read_text() == undisturbed

    # A third takes the baselines over, and a limit of some milliseconds leaves no time for trials.
    done = run_search(tmp_path, "third", *arguments, "--max-hours", "1e-6", "--warm-start", "first")
    assert done.returncode == 0, done.stderr + done.stdout
    printed = " ".join(done.stdout.split())
    for quality in (1, 6):
        assert f"reused baseline of quality {quality} from broken" in printed
    assert "4 trials of" in printed
    assert "the sampler uses" in printed
    assert "stopped: max_hours 1e-06 reached; 0 of 4 trials were started" in printed
    kept = json.loads((tmp_path / "third" / "best" / "index.json").read_text())
    assert {entry["alpha"] for entry in kept.values()} == {0.0}
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("third")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`lictune.taken_from` = 'broken'")
    assert len(runs) == 2
    assert all(math.isfinite(run.data.metrics["val/bpp"]) for run in runs)

    done = run_search(tmp_path, "fifth", *arguments, "--warm-start", "nothing")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no search 'nothing' in" in done.stderr


@pytest.mark.smoke
def test_a_forked_search_is_to_the_last_bit_what_it_would_be_by_hand(tmp_path: Path) -> None:
    """One worker trains the baseline, the other waits for it to get to the fork."""
    done = run_search(
        tmp_path, "forked", "--model", "hyperprior", *SMALL, "--epochs", "4", "--rates", "1",
        "--budget", "2", "--workers", "2", "--fork-at", "0.5",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    printed = " ".join(done.stdout.split())
    assert "trials begin with their baseline's state after epoch 2" in printed
    records = records_of(tmp_path, "forked", "deadleaves_first2")
    assert_forked(tmp_path, "forked", records, printed)

    # Another search takes over a baseline with what its trials begin with, or not at all.
    plan, folder = plan_of(settings_of(tmp_path, "forked")), tmp_path / "forked"
    baselines = open_studies(f"sqlite:///{folder}/study.db", "forked")[1]
    setup = baselines.trials[0].user_attrs[SETUP]
    for name, wanted, files in (
        ("next", plan, ["epoch-0002.pt", "epoch-0004.pt"]),
        ("whole", replace(plan, fork=0), ["epoch-0004.pt"]),
        ("lacking", plan, None),
    ):
        if files is None:
            (folder / "trials" / "baseline-q1" / "epoch-0002.pt").unlink()
        core = Core(InMemoryStorage(), name, wanted, setup)
        own = SearchFolder(tmp_path / name, Settings())
        assert reuse_baselines(core, own) == ({1: "forked"} if files else {})
        copied = sorted(path.name for path in (tmp_path / name).glob("trials/baseline-q1/*"))
        assert copied == (files or [])
        candidate = core.suggest()
        assert candidate is not None and candidate.role == (TRIAL if files else BASELINE)


def assert_forked(results: Path, name: str, records: SearchRecords, printed: str) -> None:
    """Every trial trained the last two of four epochs, as by hand; the baselines keep what it takes."""
    assert records.trials and {t.state for t in records.trials} <= {FINISHED, STOPPED}
    for trial in records.trials:
        assert (trial.fork, list(trial.readings)) == (2, list(range(3, trial.last_epoch + 1)))
        assert_as_trained_alone(trial, template_of(settings_of(results, name)))
    share = sum(trial.last_epoch - 2 for trial in records.trials) / (4 * len(records.trials))
    assert f" {100 * share:.0f} % of the epochs of full training" in printed
    for baseline in records.baselines.values():
        kept = sorted(path.name for path in (results / name / "trials" / baseline.name).glob("*.pt"))
        assert kept == ["epoch-0002.pt", "epoch-0004.pt"]


@pytest.mark.chaos
def test_a_forked_search_goes_on_after_anything_and_confirms_in_full(tmp_path: Path) -> None:
    arguments = ["--model", "hyperprior", *SMALL, "--epochs", "4", "--rates", "1,6", "--budget", "4"]
    more = ["--workers", "3", "--fork-at", "0.5", "--confirm", "1", "--seeds", "1"]
    interrupted_at("[  1/", [*search_command(tmp_path, "forked"), *arguments, *more])
    interrupted_at("[", [*search_command(tmp_path, None), "--resume", "forked"], signal.SIGKILL)
    done = run_search(tmp_path, None, "--resume", "forked")
    assert done.returncode == 0, done.stderr + done.stdout
    plan, opened = (
        plan_of(settings_of(tmp_path, "forked")),
        open_studies(f"sqlite:///{tmp_path}/forked/study.db", "forked"),
    )
    reader = RecordReader(opened, plan, "deadleaves_first2")
    assert len(reader.read().trials) == 4
    assert_forked(tmp_path, "forked", reader.read(), " ".join(done.stdout.split()))
    (confirmed,) = reader.read_confirmation()
    for record in confirmed.everything():
        assert (record.fork, list(record.readings)) == (0, [1, 2, 3, 4])
        kept = (tmp_path / "forked" / "confirmation" / record.name).glob("*.pt")
        assert [path.name for path in kept] == ["epoch-0004.pt"]


@pytest.mark.slow
def test_a_search_whose_every_trial_fails_says_why_and_is_open_to_this_machine_alone(tmp_path: Path) -> None:
    seen: set[tuple[str, str, int]] = set()
    with watched(seen):
        done = run_search(
            tmp_path, "lost", "--model", "hyperprior", *SMALL, "--rates", "1", "--budget", "2",
            "--strategies", "y", "--alpha-min", "1e34", "--alpha-max", "1e35", "--steps-per-epoch", "8",
        )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert "all trials failed; the first reason: " in done.stdout
    assert "lower --lr or --alpha-max" in done.stdout
    names = {name for name, _, _ in seen}
    assert {"gcs_server", "raylet"} <= names and any(name.startswith("ray::") for name in names)
    assert not [found for found in seen if not is_local(found[1])]


@pytest.mark.smoke
@pytest.mark.parametrize("model", sorted(ARCHITECTURES))
def test_three_trials_of_every_model(model: str, tmp_path: Path) -> None:
    done = run_search(
        tmp_path, "smoke", "--model", model, *SMALL, "--width", "16", "--rates", "1,6", "--budget", "3"
    )
    assert done.returncode == 0, done.stderr + done.stdout
    records = records_of(tmp_path, "smoke", "deadleaves_first2")
    assert len(records.trials) == 3
    assert all(t.state in (FINISHED, STOPPED) for t in records.trials)
    assert all(records.rate_change(t, t.last_epoch, "val") is not None for t in records.trials)
