"""Resolves settings that were not given from those that were, and from the machine.

A default or preset value that conflicts with a given value is replaced by the nearest compatible one. Two
given values that conflict are an error (search.settings.complaints)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lic.models.architectures import (
    ModelError,
    OwnModel,
    architecture,
    check_strategy,
    check_width,
    has_latent_width,
    least_latent_width,
    starter_path,
    starter_sizes,
    starting_weights,
    strategies,
)
from lic.recipe import ON_CPU, ON_GPU, Distortion, learning_rate
from search.base.space import BD_RATE_MSSIM, RD_COST, alpha_range, enough_epochs, leaves_no_rung
from search.settings.addresses import storage_address
from search.settings.complaints import MS_SSIM_PIXELS

if TYPE_CHECKING:
    from search.settings.config import Settings


def worked_out(settings: Settings, given: Collection[str], gpus: Callable[[], int]) -> dict[str, Any]:
    """The resolved values that differ from those in `settings`, by name. `given` are the names of the
    settings that the user gave. Raises ModelError, ConfigError."""
    changes = _model(settings, given) | _length(settings, given) | _device(settings, given, gpus)
    if "batch" not in given and (parts := settings.accumulate * settings.gpus_per_trial) > 1:
        least = 1 if settings.gpus_per_trial > 1 else 2
        changes["batch"] = parts * max(least, round(settings.batch / parts))
    changes |= _distortion(settings, given)
    if settings.lr is None:
        changes["lr"] = learning_rate(settings.optimizer, changes["start"])
    changes["rates"] = settings.rates if "rates" in given else tuple(settings.lambda_table)
    low, high = alpha_range(settings.alpha_min, settings.alpha_max, given)
    changes |= {"alpha_min": low, "alpha_max": high}
    noise_baselines = settings.noise_seeds * len(changes["rates"])
    if noise_baselines >= settings.budget and "budget" not in given:
        changes["budget"] = settings.budget + noise_baselines  # the default number of trials
    if settings.storage is not None:
        changes["storage"] = storage_address(settings.storage)
    return {key: value for key, value in changes.items() if value != getattr(settings, key)}


def _model(settings: Settings, given: Collection[str]) -> dict[str, Any]:
    """Strategies, widths and initial weights."""
    name = settings.model
    architecture(name)
    if isinstance(settings.network, OwnModel):
        return _own_model(settings, settings.network, given)
    for key in ("model_args", "latents"):
        if getattr(settings, key):
            raise ModelError(f"{key} needs a model of your own, --model MODULE:CLASS; {name} takes --width")
    chosen = _strategies(settings, name)
    width, latent = _widths(settings, given)
    check_width(name, width, latent)
    start = starting_weights(settings.start, name, width, latent)
    return {"strategies": chosen, "width": width, "latent_width": latent, "start": start}


def _strategies(settings: Settings, model: str | OwnModel) -> tuple[str, ...]:
    """The strategies given, or all that the model supports. Raises ModelError."""
    chosen = settings.strategies or strategies(model)
    for strategy in chosen:
        check_strategy(model, strategy)
    return tuple(dict.fromkeys(chosen))


def _own_model(settings: Settings, own: OwnModel, given: Collection[str]) -> dict[str, Any]:
    """The same for a model of the user's own, which is built and checked; `width` is that of y. Raises
    ModelError."""
    from lic.models.own import check_own  # takes seconds

    checked = check_own(own)
    width = {"width": checked.channels, "latent_width": None}
    for key, value in width.items():
        if key in given and getattr(settings, key) != value:
            raise ModelError(f"{key} does not apply to {own.name}; give its size in --model-args")
    return {
        "latents": checked.own.paths,
        "strategies": _strategies(settings, checked.own),
        **width,
        "start": starting_weights(settings.start, own.name, checked.channels),
    }


def _widths(settings: Settings, given: Collection[str]) -> tuple[int, int | None]:
    """Channels and latent channels (None: as many as channels), consistent with the initial weights."""
    name, width, latent = settings.model, settings.width, settings.latent_width
    found = None if {"width", "latent_width"} <= set(given) else _widths_at_start(settings, given)
    if found is not None:
        width = width if "width" in given else found[0]
        if "latent_width" not in given:
            latent = None if found[1] == width else found[1]
    if latent is not None and latent != width and not has_latent_width(name):
        if "latent_width" not in given:
            latent = None
        elif "width" not in given:
            width = latent
    least = least_latent_width(name)
    if latent is None and width < least:
        latent = least
    return width, latent


def _widths_at_start(settings: Settings, given: Collection[str]) -> tuple[int, int] | None:
    """Channels and latent channels of the given initial weights; None if those do not determine them."""
    name, start = settings.model, settings.start
    if "start" not in given or start in ("scratch", "auto"):
        return None
    if start == "starter":
        if starter_path(name, settings.width, settings.latent_width).is_file():
            return None
        own = [size for size in starter_sizes(name) if "width" not in given or size[0] == settings.width]
        return min(own, key=lambda size: abs(size[0] - settings.width), default=None)
    if "width" in given and not has_latent_width(name):
        return None
    from lic.training.weights import read_weights, widths_of  # takes seconds

    return widths_of(read_weights(Path(starting_weights(start, name, settings.width))))


def _length(settings: Settings, given: Collection[str]) -> dict[str, Any]:
    """Numbers of epochs and of grace epochs that allow a fork and a rung."""
    epochs, grace, fork_at = settings.epochs, settings.grace, settings.fork_at
    if "epochs" not in given:
        epochs = enough_epochs(epochs, fork_at, grace if "grace" in given and settings.stopping else 0)
    left = epochs - round(fork_at * epochs)
    if "grace" not in given and settings.stopping and leaves_no_rung(grace, left):
        grace = left - 1
    return {"epochs": epochs, "grace": grace}


def _distortion(settings: Settings, given: Collection[str]) -> dict[str, Any]:
    """The objective that suits the distortion, and sizes of patches and crops that have an MS-SSIM."""
    distortion = Distortion.of(settings.distortion)
    if not distortion.ms_ssim:
        return {}
    objective = RD_COST if distortion.mse else BD_RATE_MSSIM
    changes: dict[str, Any] = {} if "objective" in given else {"objective": objective}
    for key in ("patch", "val_crop"):
        size = getattr(settings, key)
        if key not in given and size is not None and size < MS_SSIM_PIXELS:
            changes[key] = math.ceil(MS_SSIM_PIXELS / 64) * 64
    return changes


def _device(settings: Settings, given: Collection[str], gpus: Callable[[], int]) -> dict[str, Any]:
    """Trials per GPU, and the fastest options for the device."""
    trials = settings.trials_per_gpu
    if trials is None:
        trials = 1 if gpus() else 0
    elif trials == "auto" and not gpus():
        trials = 0
    changes: dict[str, Any] = {"trials_per_gpu": trials}
    for key, value in asdict(ON_GPU if trials else ON_CPU).items():
        # A preset's precision applies only to GPUs.
        elsewhere = key == "precision" and key not in given and not trials
        if getattr(settings, key) in ("auto", None) or elsewhere:
            changes[key] = value
            if key == "graph":
                changes[key] = value and settings.fused_adam and settings.gpus_per_trial == 1
    return changes
