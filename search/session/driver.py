"""Runs a search, or shows its plan, once the settings of `python -m search.run` are validated."""

from __future__ import annotations

import datetime
import functools
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import optuna

from lic import atomic_io
from lic.cli import keep_lost_output
from lic.data.sets import ImageSet
from lic.errors import StorageError
from lic.models.architectures import OWN, STARTERS, OwnModel, architecture
from lic.recipe import LAMBDAS, Distortion
from search.base.secrets import PublicFormatter, public
from search.base.space import Plan
from search.engine import cluster
from search.engine.cluster import ClusterError
from search.records.folder import SearchFolder
from search.session.warm_start import check_comparable
from search.settings.complaints import ConfigError
from search.settings.config import SETTINGS, Resolved, Settings
from search.settings.tuning import dimensions_of, tuning_text
from search.store.checkpoints import Checkpoints, prepare_storage, refusal
from search.store.find import check_inside, find_folder, is_search
from search.store.lock import only_driver
from search.store.provenance import ENVIRONMENT, provenance, without_ms_ssim
from search.store.storage import keep_password, open_storage
from search.tracking.tracker import Tracker, TrackingError, tracking_address

if TYPE_CHECKING:
    from search.engine.sharing import Sharing
    from search.session.pace import Pace
    from search.session.session import Experiment, Resources


def new_folder(settings: Settings) -> Path:
    """The folder for a new search. Raises ConfigError if it exists."""
    name = settings.name
    if name is None:
        now = datetime.datetime.now().astimezone()
        name = f"{settings.model.replace(':', '.')}-{now:%Y%m%d-%H%M%S}"
    folder = Path(settings.results) / name
    if folder.exists() and not _is_empty(folder):
        raise ConfigError(f"{folder} exists; choose another --name, resume it with --resume, or move it away")
    return folder


def _is_empty(folder: Path) -> bool:
    """Whether the folder has no search yet, such as after a kill before the settings were written."""
    return folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())


def _complete(resolved: Resolved, folder: Path) -> Resolved:
    """The settings with the name of the search, and without the password of its database."""
    study = resolved.settings.study
    found = {"name": folder.name, "study": study and keep_password(study)}
    return replace(resolved, settings=resolved.settings.model_copy(update=found))


def show_plan(resolved: Resolved, price: float | None, gpu: str | None = None) -> int:
    """Print the estimated time and cost of the search, without starting it: on this machine, or on one GPU of
    the name `gpu`, by what was measured on it. Raises LictuneError."""
    from lic.training.trial import check_start, open_images
    from search.engine.capacity import default_workers
    from search.session.estimate import show_estimate
    from search.session.pace import pace_on
    from search.settings.plan import plan_of, template_of

    check_start(template_of(resolved.settings))
    _check_tuned_regularizers(resolved.settings)
    if gpu is not None:
        pace_on(gpu, template_of(resolved.settings))  # before the images are prepared, which takes long
    images = open_images(template_of(resolved.settings).images)
    gpus, sharing = 1, None
    if gpu is None:
        gpus = cluster.gpus(resolved.settings.address)
        resolved, sharing = _with_sharing(resolved, gpus, functools.partial(print, flush=True))
    settings = resolved.settings
    plan, template = plan_of(settings), template_of(settings)
    workers = settings.workers or (
        settings.shares if gpu else default_workers(settings, template, gpus, print)
    )
    prepared = _Prepared(resolved, images, gpus, sharing, new=True)
    for label, text in _choices(prepared, plan, workers).items():
        print(f"{label:<12} {text}")
    show_estimate(settings, _pace(prepared, gpu), workers, price)
    return 0


def _pace(prepared: _Prepared, gpu: str | None) -> Pace:
    """The pace of one of the training runs that share a GPU, with a line on how it was found."""
    from search.session.estimate import measure
    from search.session.pace import pace_on
    from search.settings.plan import template_of

    template = template_of(prepared.resolved.settings)
    if gpu is not None:
        pace, how = pace_on(gpu, template)
        shares = prepared.resolved.settings.shares
        shared = f"; as {shares} share it, {shares} times as long (not measured)" if shares > 1 else ""
        print(
            f"{gpu:<12} {1000 * pace.step:.2f} ms per step alone, {how}{shared}; evaluation takes "
            f"{pace.val:.2f} s on 64 crops of 256x256 and {pace.test:.2f} s on the 24 Kodak images"
        )
        return replace(pace, step=shares * pace.step)
    print("measuring the time of a few steps ...", flush=True)
    pace = measure(template)
    if prepared.sharing is not None:
        pace = replace(pace, step=pace.step * prepared.sharing.slowdown)
    _, val, test = prepared.images
    print(
        f"{'measured':<12} {1000 * pace.step:.1f} ms per step; evaluation takes "
        f"{pace.val:.1f} s on {len(val.images)} validation images and "
        f"{pace.test:.1f} s on {len(test.images)} test images"
    )
    return pace


@dataclass(frozen=True)
class _Prepared:
    """A search that is ready to start or resume: its resolved settings, the images (training, validation,
    test), the number of GPUs, the measurement for sharing them, and whether the search is new."""

    resolved: Resolved
    images: tuple[ImageSet, ...]
    gpus: int
    sharing: Sharing | None
    new: bool


def search(resolved: Resolved, folder: Path) -> int:
    """Run a search in this folder, or resume the one in it; returns the exit status."""
    resolved = _complete(resolved, folder)
    ignored = cluster.prepare(resolved.settings.address)
    from search.base.text_table import text_console
    from search.session.session import Session
    from search.store.disk import check_space

    console = text_console()
    say = functools.partial(console.print, markup=False)
    prepared = _prepare(resolved, folder, say)
    experiment, resources = _plan(prepared, say)
    uri = tracking_address(prepared.resolved.settings.tracking_uri, folder.parent)
    space = check_space(resources.need, folder, prepared.resolved.settings.storage)
    for label, text in _choices(prepared, experiment.plan, resources.workers).items():
        say(f"{label:<12} {text}")
    if ignored:
        say(f"{'ignored':<12} environment variables {', '.join(ignored)}")
    say(f"{'results':<12} {folder}\n{'disk':<12} {space}\n{'MLflow':<12} {public(uri)}")
    for logger in prepared.resolved.settings.log_to:
        say(f"{logger:<12} {folder / logger}")
    with only_driver(folder):
        opened, tracker = _begin(prepared, folder, uri, resources)
        _log_to(folder / "search.log")
        keep_lost_output(folder / "search.log")
        return Session(opened, experiment, resources, tracker, console).run()


def _prepare(resolved: Resolved, folder: Path, say: Callable[[str], None]) -> _Prepared:
    """Check what a search needs before anything is written: weights, storage, images, cluster, GPUs. Raises
    LictuneError."""
    from lic.training.trial import check_start, open_images
    from search.settings.plan import template_of

    settings = resolved.settings
    check_start(template_of(settings))
    _check_tuned_regularizers(settings)
    if new := not is_search(folder):
        resolved = _with_earlier(resolved, say)
    if settings.storage:
        prepare_storage(settings.storage)
    say("preparing the images ...")
    images = open_images(template_of(settings).images)
    if settings.select_on == "kodak" and images[2].name != "kodak":
        raise ConfigError(
            f"--select-on kodak needs the Kodak images, but found {images[2].source}; give --kodak DIR"
        )
    _check_ms_ssim(settings, images)
    gpus = cluster.gpus(settings.address)  # joins the cluster, if there is one
    if new:
        _check_new(settings, folder.name)
    resolved, sharing = _with_sharing(resolved, gpus, say)
    return _Prepared(resolved, images, gpus, sharing, new)


def _check_ms_ssim(settings: Settings, images: tuple[ImageSet, ...]) -> None:
    """Raises ConfigError if trials are to be compared by MS-SSIM, and the images have none; or those that
    results are reported on, if it is trained."""
    _, validation, test = images
    selection = [validation if settings.select_on == "val" else test] if settings.needs_ms_ssim else []
    for part in (*selection, *([test] if Distortion.of(settings.distortion).ms_ssim else [])):
        if reason := without_ms_ssim(part):
            raise ConfigError(
                f"{reason}, so the objective {settings.objective} with the distortion {settings.distortion} "
                f"has no value on {part.name}; give larger images, or use PSNR for both"
            )


def _check_tuned_regularizers(settings: Settings) -> None:
    """Raises ModelError if one of the regularizers that are tuned cannot be used."""
    from lic.losses.regularizers import check_regularizer

    for dimension in dimensions_of(settings):
        if dimension.name == "regularizer":
            for name in dimension.choices:
                check_regularizer(str(name))


def _plan(prepared: _Prepared, say: Callable[[str], None]) -> tuple[Experiment, Resources]:
    """The experiment and its resources."""
    from search.engine.capacity import default_workers
    from search.session.reuse import setup_of
    from search.session.session import Experiment, Resources
    from search.settings.plan import plan_of, template_of
    from search.store.disk import need_of

    resolved, images, gpus = prepared.resolved, prepared.images, prepared.gpus
    plan, template = plan_of(resolved.settings), template_of(resolved.settings)
    workers = resolved.settings.workers or default_workers(resolved.settings, template, gpus, say)
    experiment = Experiment(plan, template, setup_of(template, images, plan), images[2].name)
    return experiment, Resources(workers, gpus, need_of(template, plan, workers))


def _begin(prepared: _Prepared, folder: Path, uri: str, resources: Resources) -> tuple[SearchFolder, Tracker]:
    """Write the folder's first files, start or resume the MLflow run, and connect to Ray. On failure, a new
    search leaves nothing behind."""
    settings = prepared.resolved.settings
    check_inside(folder, "best", "tables", "figures", "search.log", "error.log")
    _record_start(prepared.resolved, folder, prepared.images)
    opened, tracker = SearchFolder(folder, settings), None
    try:
        if settings.address:
            _join_cluster(settings, folder)
        tracker = Tracker(uri, folder.name, opened)
        _keep_start(opened)
        cluster.connect(settings.address, resources.workers, resources.gpus)
    except (ClusterError, StorageError, TrackingError, OSError):
        if tracker is not None:
            tracker.close("FAILED")
        if prepared.new:  # nothing has begun, and its name is free
            shutil.rmtree(folder)
        raise
    return opened, tracker


def _join_cluster(settings: Settings, folder: Path) -> None:
    """Join the cluster given in the settings, and check its nodes. Raises ClusterError."""
    cluster.connect(settings.address)
    if settings.gpus_per_trial > 1:
        cluster.check_gpus(settings.gpus_per_trial)
    given = (settings.data, settings.kodak, settings.test, settings.start)
    setting = "--storage" if settings.storage else "--results"
    place = Checkpoints(settings.storage or str(folder.resolve()))
    code = [name for name in (settings.model, settings.regularizer) if OWN.fullmatch(name)]
    cluster.check_nodes(place, setting, [Path(path) for path in given if path and Path(path).exists()], code)


def _log_to(path: Path) -> None:
    """Write the log of all libraries to a file: the terminal is for the search."""
    handler = logging.FileHandler(path)
    handler.setFormatter(PublicFormatter("%(asctime)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # do not fill the terminal if the log cannot be written


def _with_earlier(resolved: Resolved, say: Callable[[str], None]) -> Resolved:
    """Resolve 'last' in --warm-start to a name, before this search itself is the last one. Raises FolderError
    if the trials of the earlier search cannot be read, ConfigError if they do not compare with this one's."""
    wanted = resolved.settings.warm_start
    if wanted is None:
        return resolved
    earlier = SearchFolder.read(find_folder(wanted, Path(resolved.settings.results)))
    earlier.trials()
    if different := check_comparable(resolved.settings, earlier):
        say(f"{'warm start':<12} {different}")
    named = earlier.path.name if wanted == "last" else wanted
    return replace(resolved, settings=resolved.settings.model_copy(update={"warm_start": named}))


def _with_sharing(
    resolved: Resolved, gpus: int, say: Callable[[str], None]
) -> tuple[Resolved, Sharing | None]:
    """Resolve --trials-per-gpu auto by measuring; returns the settings and the measurement, or None if it was
    not needed. Raises ClusterError."""
    settings = resolved.settings
    if settings.trials_per_gpu != "auto":
        return resolved, None
    from search.engine.capacity import cores
    from search.engine.sharing import measure_sharing
    from search.settings.plan import template_of

    say("measuring how many trials can share a GPU ...")
    there = cores(settings)
    cluster.connect(settings.address, max(there, settings.workers or 1), gpus)  # and for the search
    sharing = measure_sharing(template_of(settings), max(1, there // gpus))
    settings = settings.model_copy(update={"trials_per_gpu": sharing.trials})
    sources = {**resolved.sources, "trials_per_gpu": f"{resolved.sources['trials_per_gpu']} (measured)"}
    return Resolved(settings, sources), sharing


def _check_new(settings: Settings, name: str) -> None:
    """Raises ConfigError if the storage or the database has a search with this name, StorageError if one of
    them cannot be used."""
    if settings.storage and (there := Checkpoints(settings.storage, name)).kept(SETTINGS):
        raise ConfigError(f"a search exists at {there}; choose another --name, or resume it with --resume")
    study = settings.study
    if study and name in optuna.get_all_study_names(open_storage(study)):
        raise ConfigError(
            f"the database at {public(study)} has a search named {name}; choose another --name, "
            "or resume it with --resume"
        )


def _choices(prepared: _Prepared, plan: Plan, workers: int) -> dict[str, str]:
    """The resolved settings for the first lines of output, by label."""
    resolved, sharing = prepared.resolved, prepared.sharing
    settings, (train, val, test) = resolved.settings, prepared.images
    lacking = without_ms_ssim(test)
    stops = f"rungs for early stopping at epoch {', '.join(map(str, plan.rungs))}"
    noise = f", {plan.noise_baselines} more on other seeds" if plan.noise_seeds else ""
    forks = f"; trials start from their baseline's checkpoint of epoch {plan.fork}" if plan.fork else ""
    if plan.chain:
        forks = "; each quality starts from the baseline of the next higher one"
    parts = f" in {settings.accumulate} parts" if settings.accumulate > 1 else ""
    named = "" if settings.regularizer == "covariance" else f", regularizer {settings.regularizer}"
    lambdas = ", ".join(f"{plan.point(quality).lmbda:g}" for quality in plan.qualities)
    own = "" if settings.lambda_table == LAMBDAS else f" (lambda {lambdas})"
    trained = f", distortion {settings.distortion}" if settings.distortion != "mse" else ""
    term = (
        f"strategies {', '.join(plan.strategies)}, "
        f"alpha {plan.alpha_min:g} to {plan.alpha_max:g} ({settings.scale} scale{named})"
        if plan.strategies
        else "no regularisation term (alpha 0)"
    )
    qualities = ", ".join(map(str, plan.qualities))
    return {
        "searching": f"{_model(settings)}: qualities {qualities}{own}, {term}",
        **({"tuning": tuning_text(plan.dimensions)} if plan.dimensions else {}),
        "preset": f"{settings.preset}, source: {resolved.sources['preset']}",
        "device": f"{_device(settings, prepared.gpus)}, {workers} concurrent trials",
        **({"measured": str(sharing)} if sharing else {}),
        "training": f"{plan.epochs} epochs of {settings.steps_per_epoch} steps, {settings.batch} patches of "
        f"{settings.patch}x{settings.patch}{parts}, from {_shown_start(settings.start)}{trained}{forks}",
        "train images": train.source,
        "selection": val.source if plan.selection == "val" else test.source,
        "test images": f"{test.name}: {test.source}{f'; {lacking}' if lacking else ''}",
        "budget": f"{plan.budget} trials and {len(plan.qualities)} baselines{noise}; "
        f"{stops if plan.rungs else 'no early stopping'}",
        **_confirming(settings, plan),
        **({"checkpoints": settings.storage} if settings.storage else {}),
    }


def _model(settings: Settings) -> str:
    """The model and its size, for the first lines of output."""
    if isinstance(own := settings.network, OwnModel):
        latents = ", ".join(f"{latent} = {path}" for latent, path in own.paths.items())
        return f"{own}, latents {latents} ({settings.width} channels in y)"
    return f"{architecture(own)}, {settings.width} channels"


def _confirming(settings: Settings, plan: Plan) -> dict[str, str]:
    """What --confirm trains, for the first lines of output; empty without it."""
    from search.session.confirming import announced, at_most

    if not settings.confirm:
        return {}
    runs = at_most(plan, settings.confirm, settings.seeds)
    return {"confirming": f"then {announced(settings.confirm, settings.seeds, runs)}"}


def _record_start(resolved: Resolved, folder: Path, images: tuple[ImageSet, ...]) -> None:
    """Write the settings and the provenance to the results folder; on resume, only the settings can
    change."""
    if not (folder / ENVIRONMENT).exists():
        atomic_io.write(folder / ENVIRONMENT, json.dumps(provenance(images), indent=2) + "\n")
    atomic_io.write(folder / SETTINGS, public(resolved.report()) + "\n")
    (folder / "tables").mkdir(exist_ok=True)


def _keep_start(opened: SearchFolder) -> None:
    """Copy the files that another machine needs to resume to the checkpoints' storage. Raises
    StorageError."""
    place = opened.checkpoints
    try:
        place.keep(opened.path, SETTINGS, ENVIRONMENT)
    except OSError as error:
        raise StorageError(f"cannot write to {place}: {refusal(place.storage, error)}") from error


def _shown_start(start: str) -> str:
    """The initial weights: starter weights by file name, others by path."""
    return Path(start).name if Path(start).parent == STARTERS else start


def _device(settings: Settings, gpus: int) -> str:
    if not settings.trial_gpus:
        return "CPU" if gpus else "CPU (no GPU found)"
    if settings.gpus_per_trial > 1:
        return f"{gpus} GPU, {settings.gpus_per_trial} per trial, without CUDA graphs"
    return f"{gpus} GPU, {settings.shares} trials per GPU"
