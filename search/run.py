"""Search for the best decorrelation weight and strategy at every rate.

    python -m search.run --model cheng --budget 64

trains one baseline per rate, then trials, several at once; stops the poor ones early; logs each to
MLflow; and leaves the best checkpoint per rate in the results folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import json
import os
import platform
import re
import secrets
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from lic.architectures import ModelError, architecture
from lic.data.images import ImageError
from lic.data.sets import ImageSet
from search.config import ConfigError, Resolved, Settings, add_arguments, resolve
from search.confirm import CONFIRMATION, Confirmation, points_to_confirm
from search.records import FAILED, SearchRecords
from search.space import Plan, trial_name
from search.tracking import Tracker, TrackingError, tracking_address

USER_ERROR, OWN_ERROR, INTERRUPTED = 2, 1, 130
_MLFLOW_STATUS = {0: "FINISHED", INTERRUPTED: "KILLED"}
_VERSIONS = ("lictune", "torch", "compressai", "ray", "optuna", "mlflow", "numpy")


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    folder: Path | None = None
    try:
        resolved, options = parse(sys.argv[1:] if argv is None else argv)
        if options.print_config:
            print(resolved.report())
            return 0
        if options.plan:
            return show_plan(resolved, options.price_per_gpu_hour)
        folder = _results_folder(resolved.settings)
        return search(resolved, folder)
    except (ConfigError, ImageError, ModelError, TrackingError) as error:
        print(f"lictune: {_public(str(error))}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("lictune: interrupted before the search began", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        text = traceback.format_exc()
        if folder is None or not folder.is_dir():
            print(text, file=sys.stderr)
            return OWN_ERROR
        (folder / "error.log").write_text(text)
        first = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        print(
            f"lictune: a fault of ours: {first[0]} (the whole of it: {folder / 'error.log'})", file=sys.stderr
        )
        return OWN_ERROR


def parse(argv: list[str]) -> tuple[Resolved, argparse.Namespace]:
    """The settings, and the options that are none: print_config, plan, price_per_gpu_hour. Raises
    ConfigError."""
    parser = argparse.ArgumentParser(
        prog="python -m search.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Each setting can also be a line of a YAML file ('budget: 32') or an environment variable "
        "(LICTUNE_BUDGET=32); the command line wins. Training settings default to the preset's.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="a YAML file of settings")
    parser.add_argument(
        "--print-config", action="store_true", help="show every setting and its source, and stop"
    )
    parser.add_argument(
        "--plan", action="store_true", help="measure a few steps, show what the search will take, and stop"
    )
    parser.add_argument(
        "--price-per-gpu-hour", type=float, metavar="X", help="with --plan: money in the same currency"
    )
    add_arguments(parser)
    known, unknown = parser.parse_known_args(argv)
    own = ("config", "print_config", "plan", "price_per_gpu_hour")
    values = {key: value for key, value in vars(known).items() if key not in own}
    if unknown:
        # Through the settings' own check, for its 'did you mean'.
        values[unknown[0].lstrip("-").split("=")[0].replace("-", "_")] = ""
    return resolve(values, os.environ, _gpus, known.config), known


def _prepare_ray(address: str | None) -> None:
    """Environment that Ray reads when it is imported."""
    # Ray's own table of trials and its log files would only repeat what is in the results.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    if not address and "RAY_AUTH_MODE" not in os.environ:
        # A token of our own, for this process and its workers. Left to itself Ray writes one to the
        # home folder, which changes what a later `ray start` does.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@functools.cache
def _gpus(address: str | None) -> int:
    """GPUs of the cluster at `address`, or of this machine."""
    if address:
        _prepare_ray(address)
        import ray

        from search import engine

        engine.connect(address, 0, 0)
        return int(ray.cluster_resources().get("GPU", 0))
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
        return 0  # without the seconds that importing torch takes
    import torch

    return torch.cuda.device_count()


def _results_folder(settings: Settings) -> Path:
    name = settings.name
    if name is None:
        now = datetime.datetime.now().astimezone()
        name = f"{settings.model}-{now:%Y%m%d-%H%M%S}"
    folder = Path(settings.results) / name
    if folder.exists():
        raise ConfigError(f"{folder} is there already; choose another --name, or move it away")
    return folder


def show_plan(resolved: Resolved, price: float | None) -> int:
    """Print what the search would take on this machine, without starting it."""
    from lic.trial import open_images
    from search.estimate import estimate, measure
    from search.monitor import duration
    from search.plan import plan_of, template_of

    settings = resolved.settings
    plan, template = plan_of(settings), template_of(settings)
    images = open_images(template.images)
    gpus = _gpus(settings.address)
    workers = settings.workers or _default_workers(settings, gpus)
    for label, text in _choices(resolved, plan, images, gpus, workers).items():
        print(f"{label:<12} {text}")
    print("measuring a few steps ...", flush=True)
    pace = measure(template)
    expected = estimate(plan, template, pace, workers, settings.gpus_per_trial or 0)
    share = 100 * expected.trial_epochs / (plan.epochs * plan.budget)
    print(
        f"{'measured':<12} {1000 * pace.step:.0f} ms a step, "
        f"{pace.val:.1f} s on the {len(images[1].images)} images to select on, "
        f"{pace.test:.1f} s on the {len(images[2].images)} to report on, for one training\n"
        f"{'expected':<12} {expected.trial_epochs:.0f} epochs of trials ({share:.0f} % of full training) and "
        f"{expected.baseline_epochs} of baselines, as simulated; start-up not counted"
    )
    print(f"{'wall time':<12} {duration(3600 * expected.hours)} with {workers} trials at once")
    if settings.gpus_per_trial:
        money = "" if price is None else f", {price * expected.gpu_hours:.2f} at {price:g} an hour"
        print(f"{'GPU hours':<12} {expected.gpu_hours:.1f}{money}")
    return 0


def search(resolved: Resolved, folder: Path) -> int:
    """The whole search, from the first line it prints to the last."""
    # Heavy imports wait until the settings are known to be good.
    _prepare_ray(resolved.settings.address)
    from lic.trial import open_images
    from search import engine, summary
    from search.core import Core, studies
    from search.limits import Limits
    from search.monitor import ConfirmationMonitor, Monitor
    from search.plan import plan_of, template_of
    from search.recommend import expectations
    from search.reuse import reuse_baselines, setup_of

    settings = resolved.settings
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, soft_wrap=True)
    say = functools.partial(console.print, markup=False)
    plan, template = plan_of(settings), template_of(settings)
    earlier = _earlier_search(settings)
    say("preparing the images ...")
    images = open_images(template.images)
    test_set = images[2].name
    if settings.select_on == "kodak" and test_set != "kodak":
        raise ConfigError(
            f"--select-on kodak needs the Kodak images, not {images[2].source}; give --kodak DIR"
        )
    gpus = _gpus(settings.address)  # joins the cluster, if there is one
    workers = settings.workers or _default_workers(settings, gpus)
    uri = tracking_address(settings.tracking_uri, folder.parent)
    for label, text in _choices(resolved, plan, images, gpus, workers).items():
        say(f"{label:<12} {text}")
    say(f"{'results':<12} {folder}\n{'MLflow':<12} {_public(uri)}")

    tracker = _record_start(resolved, folder, uri, images)
    storage = f"sqlite:///{folder.resolve()}/study.db"
    core = Core(storage, folder.name, plan, setup_of(template, images))
    monitor = Monitor(core, test_set, tracker, say)
    if settings.reuse_baselines:
        for quality, source in reuse_baselines(core, folder).items():
            monitor.reused(quality)
            say(f"{'reused':<12} the baseline of quality {quality}, trained the same way in {source}")
    if earlier is not None:
        there = studies(f"sqlite:///{(earlier / 'study.db').resolve()}", earlier.resolve().name)[0]
        say(
            f"{'warm start':<12} {core.learn_from(there.get_trials())} trials of {earlier} inform the sampler"
        )
    if not settings.address:
        engine.connect(None, workers, gpus)
    started = time.monotonic()
    limits = Limits(settings.max_hours, settings.max_gpu_hours, settings.gpus_per_trial or 0)
    configure = functools.partial(engine.training_config_of, template=template)
    confirmation = None
    try:
        engine.run(core, configure, monitor, limits, folder, workers, settings.gpus_per_trial or 0)
        wall = time.monotonic() - started  # of the search, without what is confirmed after it
        records = monitor.records()
        expected = expectations(core.trials, plan, core.earlier())
        records = dataclasses.replace(
            records, expected={trial_name(number): value for number, value in expected.items()}
        )
        if settings.confirm and len(records.trials) == plan.budget and not limits.reached():
            points = points_to_confirm(records, plan, settings.confirm, settings.seeds)
            say(f"confirming   {len(points)} trainings on {settings.seeds} fresh seeds")
            confirmation = Confirmation(storage, folder.name, plan, points)
            listener = ConfirmationMonitor(len(points), tracker, say)
            share = settings.gpus_per_trial or 0
            engine.run(confirmation, configure, listener, limits, folder, workers, share, CONFIRMATION)
    except BaseException:
        tracker.close("FAILED")
        raise
    finally:
        engine.disconnect()
    ended_by = limits.reached()
    monitor.close()
    took = functools.partial(summary.effort, wall=wall, workers=workers, memory=monitor.peak_memory)
    status = _conclude(records, plan, folder, tracker, console, took, ended_by)
    if confirmation is not None:
        _conclude_confirmation(confirmation, records, folder, tracker, console)
    tracker.close(_MLFLOW_STATUS.get(status, "FAILED"))
    if tracker.lost:
        say(f"{tracker.lost} records did not reach MLflow; the results folder has them all")
    say(f"next: python -m dashboards.open {folder}\n      python -m search.export {folder} --verify")
    return status


def _earlier_search(settings: Settings) -> Path | None:
    """The folder of the search to start warm from. Raises ConfigError if there is none such."""
    if settings.warm_start is None:
        return None
    for folder in (Path(settings.results) / settings.warm_start, Path(settings.warm_start)):
        if (folder / "study.db").is_file():
            return folder
    raise ConfigError(f"warm_start {settings.warm_start}: no search of that name is in {settings.results}")


def _choices(
    resolved: Resolved, plan: Plan, images: tuple[ImageSet, ...], gpus: int, workers: int
) -> dict[str, str]:
    """What the search chose, by label, for its first lines."""
    settings, (train, val, test) = resolved.settings, images
    stops = f"poor trials stop after epoch {', '.join(map(str, plan.rungs))}"
    return {
        "searching": f"{architecture(settings.model)}, {settings.width} channels: qualities "
        f"{', '.join(map(str, plan.qualities))}, strategies {', '.join(plan.strategies)}, "
        f"alpha {plan.alpha_min:g} to {plan.alpha_max:g} ({settings.scale} scale)",
        "preset": f"{settings.preset}, from {resolved.sources['preset']}",
        "device": f"{_device(settings, gpus)}, {workers} trials at once",
        "training": f"{plan.epochs} epochs of {settings.steps_per_epoch} steps, {settings.batch} patches of "
        f"{settings.patch}x{settings.patch}, from {Path(settings.start).name}",
        "train on": train.source,
        "select on": val.source if plan.selection == "val" else test.source,
        "report on": f"{test.name}: {test.source}",
        "budget": f"{plan.budget} trials and {len(plan.qualities)} baselines; "
        f"{stops if plan.rungs else 'no early stopping'}",
    }


def _record_start(resolved: Resolved, folder: Path, uri: str, images: tuple[ImageSet, ...]) -> Tracker:
    """Make the results folder with the settings and where everything came from, and MLflow's
    parent run. Raises TrackingError, leaving no folder, if MLflow cannot be reached."""
    provenance = _provenance(images)
    shown = {key: _public(str(value)) for key, value in resolved.settings.model_dump(mode="json").items()}
    tags = {f"lictune.{key}": value for key, value in provenance.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    artifacts = folder / "artifacts" if uri.startswith("sqlite:") else None
    tracker = Tracker(uri, folder.name, artifacts, shown, {**tags, "lictune.test_set": images[2].name})
    (folder / "tables").mkdir(parents=True)
    (folder / "settings.yaml").write_text(_public(resolved.report()) + "\n")
    (folder / "environment.json").write_text(json.dumps(provenance, indent=2) + "\n")
    tracker.artifact(folder / "settings.yaml")
    return tracker


def _public(text: str) -> str:
    """The text with the passwords of its addresses hidden."""
    return re.sub(r"//([^:/@\s]*):[^@/\s]+@", r"//\1:***@", text)


def _device(settings: Settings, gpus: int) -> str:
    if not settings.gpus_per_trial:
        return "CPU" if gpus else "CPU (there is no GPU)"
    return f"{gpus} GPU, {settings.gpus_per_trial:g} a trial"


def _default_workers(settings: Settings, gpus: int) -> int:
    if settings.gpus_per_trial:
        return max(1, int(gpus / settings.gpus_per_trial))
    if settings.address:
        import ray

        return max(1, int(ray.cluster_resources().get("CPU", 1)))
    return len(os.sched_getaffinity(0))


def _provenance(images: tuple[ImageSet, ...]) -> dict[str, str]:
    """Code, command, machine, versions and images of this search."""
    root = Path(__file__).resolve().parent.parent
    try:
        git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
        commit = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = "unknown"
    return {
        "git_commit": commit,
        "command": _public(" ".join(["python -m search.run", *sys.argv[1:]])),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        **{f"version_{name}": version(name) for name in _VERSIONS},
        **{
            f"{role}_fingerprint": part.images.fingerprint
            for role, part in zip(("train", "val", "test"), images, strict=True)
        },
    }


def _conclude(
    records: SearchRecords,
    plan: Plan,
    folder: Path,
    tracker: Tracker,
    console: Console,
    took: Callable[[SearchRecords], str],
    ended_by: str,
) -> int:
    """Tables, figures and best checkpoints; the last lines; the exit status."""
    from search import results, summary
    from search.figures import rd_figure

    interrupted = len(records.trials) < plan.budget and not ended_by
    all_failed = bool(records.trials) and all(trial.state == FAILED for trial in records.trials)
    by_strategy = results.strategy_results(records, plan.strategies)
    tables = {
        "rates": results.rate_table(records),
        "strategies": results.strategy_table(by_strategy),
        "trials": results.trial_table(records),
    }
    for name, table in tables.items():
        table.to_csv(folder / "tables" / f"{name}.csv", index=False)
        tracker.artifact(folder / "tables" / f"{name}.csv")
    tracker.artifact(rd_figure(records, plan.strategies, folder / "rd.png"))
    tracker.search_measured(0, results.parent_figures(by_strategy, records.test_set))
    keep_best(records, folder)

    console.print()
    if all_failed:
        console.print(f"every trial failed; the first said: {records.trials[0].reason}", markup=False)
        return OWN_ERROR
    summary.show(records, by_strategy, console)
    console.print(took(records), markup=False)
    if ended_by:
        console.print(f"ended because {ended_by}: {len(records.trials)} of {plan.budget} trials were started")
    console.print(
        f"best checkpoints in {folder / 'best'}, tables in {folder / 'tables'}, figure {folder / 'rd.png'}"
    )
    return INTERRUPTED if interrupted else 0


def _conclude_confirmation(
    confirmation: Confirmation, records: SearchRecords, folder: Path, tracker: Tracker, console: Console
) -> None:
    """The confirmed points: table, file, and BD-rates over seeds and images."""
    from search import confirm, summary

    found = confirm.confirmed(confirmation, records.test_set)
    target = folder / "tables" / "confirmation.csv"
    confirm.table_of(found).to_csv(target, index=False)
    tracker.artifact(target)
    console.print(summary.confirmation(found, records.test_set))
    for label, figure in confirm.bd_rates(confirmation, records).items():
        text = figure if isinstance(figure, str) else summary.interval(figure)
        console.print(f"{label} of the search's choice on fresh seeds: {text}", markup=False)


def keep_best(records: SearchRecords, folder: Path) -> None:
    """Copy the last checkpoint of the kept point of every rate to folder/best/qN.pt, with an index."""
    from search import results
    from search.folder import last_checkpoint

    best = folder / "best"
    best.mkdir(exist_ok=True)
    index = {}
    for quality, record in results.best_per_rate(records).items():
        target = best / f"q{quality}.pt"
        shutil.copyfile(last_checkpoint(folder, record.name), target)
        index[target.name] = {"trial": record.name, "lambda": record.lmbda, "alpha": record.alpha,
                              "strategy": record.strategy, "seed": record.seed,
                              "figures": record.readings[records.epochs]}  # fmt: skip
    (best / "index.json").write_text(json.dumps(index, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
