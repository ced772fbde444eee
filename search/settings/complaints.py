"""Error messages for settings: one sentence with the value and what to do."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from lic.errors import LictuneError
from lic.files import shown
from search.base.space import leaves_no_rung

if TYPE_CHECKING:
    from search.settings.config import Settings


#: The smallest image that has an MS-SSIM (lic.losses.msssim.SMALLEST, which needs torch).
MS_SSIM_PIXELS = 161

#: The package that writes for each logger of --log-to.
_WRITERS = {"tensorboard": "tensorboardX", "wandb": "wandb"}


class ConfigError(LictuneError):
    """An invalid setting; the message is one sentence with the value and what to do."""


def nearest(word: str, known: Iterable[str], written: Callable[[str], str] = str) -> str:
    """The end of an error message that suggests the closest known word, in its written form."""
    close = difflib.get_close_matches(word[:50], list(known), n=1, cutoff=0.5)
    return f"; did you mean '{written(close[0])}'?" if close else "; --help lists them"


def sentence(error: ValidationError, sources: Mapping[str, str]) -> str:
    """The first validation error of pydantic as a sentence; `sources`: the source of each setting."""
    first = error.errors()[0]
    key = str(first["loc"][0])
    bounds = {
        "greater_than": "gt",
        "greater_than_equal": "ge",
        "less_than": "lt",
        "less_than_equal": "le",
    }
    what = first["msg"].removeprefix("Value error, ")[:300]
    if first["type"] in bounds:
        limit = first["ctx"][bounds[first["type"]]]
        inclusive = first["type"].endswith("equal")
        what = f"the nearest valid value is {limit}" if inclusive else f"it must be {what[16:]}"
    if first["type"] == "literal_error":
        options = [word.strip(" '\"") for word in first["ctx"]["expected"].replace(" or ", ",").split(",")]
        meant = nearest(first["input"], options) if isinstance(first["input"], str) else ""
        what = f"choose from {', '.join(options)}{meant}".replace("; --help lists them", "")
    return f"{key} {shown(first['input'])} ({sources.get(key, '')}) cannot be used: {what}"


def disagreement(settings: Settings, gpus: Callable[[], int]) -> str:
    """What is wrong with the combination of valid settings, or with a path that they name; empty if
    nothing."""
    if settings.alpha_min >= settings.alpha_max:
        return f"alpha_min {settings.alpha_min:g} must be below alpha_max {settings.alpha_max:g}"
    if (highest := settings.rates[-1]) > (count := len(settings.lambda_table)):
        return (
            f"rates goes to quality {highest}, but lambdas has {count} values; choose quality levels from 1 "
            f"to {count}, or omit --rates for all"
        )
    try:
        fork = settings.fork
    except ValueError as error:
        return str(error)
    if settings.stopping and leaves_no_rung(settings.grace, settings.epochs - fork):
        after = f" after the fork at {fork}" if fork else ""
        return (
            f"grace {settings.grace} leaves no rung in {settings.epochs} epochs{after}; "
            "lower --grace or use --no-stopping"
        )
    if settings.chain and fork:
        return "--chain and --fork-at both set the weights that trials start from; omit one of them"
    if settings.noise_baselines >= settings.budget:
        return (
            f"noise_seeds {settings.noise_seeds} takes {settings.noise_baselines} of the budget of "
            f"{settings.budget} trials and leaves none; use a larger --budget or fewer --noise-seeds"
        )
    for key in ("results", "cache"):
        folder = getattr(settings, key)
        if folder is not None and (obstacle := _obstacle(Path(folder))):
            return f"{key} {shown(folder)} cannot be used: {obstacle}; give another folder"
    if small := _too_small_for_ms_ssim(settings):
        return small
    if settings.kodak and settings.test != "auto":
        return f"--kodak and --test {shown(settings.test)} both set the test images; omit one of them"
    if settings.select_on == "kodak" and (settings.test != "auto" or settings.test_images):
        return "--select-on kodak needs the whole Kodak set; omit --test and --test-images"
    if settings.max_gpu_hours is not None and not settings.trials_per_gpu:
        return f"max_gpu_hours is {settings.max_gpu_hours:g} but no trial uses a GPU; use --max-hours instead"
    if settings.trials_per_gpu and not gpus():
        return f"trials_per_gpu is {settings.trials_per_gpu} but there is no GPU; use 0"
    if wrong := _several_gpus(settings, gpus):
        return wrong
    if not settings.trials_per_gpu and settings.precision == "tf32":
        return "precision tf32 needs a GPU; use fp32 on the CPU"
    for key in ("channels_last", "compile"):
        if getattr(settings, key) and not settings.trials_per_gpu:
            option = f"--no-{key.replace('_', '-')}"
            return f"{key} makes torch crash on a CPU when training cheng; use {option}"
    for key in ("graph", "autotune"):
        if getattr(settings, key) and not settings.trials_per_gpu:
            return f"{key} needs a GPU; use --no-{key}"
    if settings.graph and not settings.fused_adam:
        return "graph needs fused_adam; use --fused-adam or --no-graph"
    if wrong := _uneven_parts(settings.batch, settings.accumulate, settings.gpus_per_trial):
        return wrong
    if settings.patch % 64:
        below, above = settings.patch // 64 * 64, (settings.patch // 64 + 1) * 64
        return f"patch is {settings.patch} but must be a multiple of 64; the nearest are {below} and {above}"
    return _missing_writer(settings)


def _missing_writer(settings: Settings) -> str:
    """Which package a logger lacks; empty if none."""
    for logger in settings.log_to:
        if find_spec(_WRITERS[logger]) is None:
            return (
                f"--log-to {logger} needs the package {_WRITERS[logger]}, which is not installed; install it "
                f"with: pip install 'lictune[{logger}]'"
            )
    return ""


def _too_small_for_ms_ssim(settings: Settings) -> str:
    """Why patches or crops have no MS-SSIM where one is needed; empty if they have, or need none."""
    trained = "ms-ssim" in settings.distortion
    if trained and settings.patch < MS_SSIM_PIXELS:
        return (
            f"patch is {settings.patch}, but MS-SSIM needs {MS_SSIM_PIXELS} pixels; use --patch 192 or more, "
            "or --distortion mse"
        )
    on_crops = settings.needs_ms_ssim and settings.select_on == "val"
    if on_crops and settings.val_crop is not None and settings.val_crop < MS_SSIM_PIXELS:
        other = "--distortion" if trained else "--objective"
        return (
            f"val_crop is {settings.val_crop}, but MS-SSIM needs {MS_SSIM_PIXELS} pixels; use a larger "
            f"--val-crop or another {other}"
        )
    return ""


def without_effect(settings: Settings, given: Collection[str]) -> Iterator[str]:
    """One sentence for each setting that has no effect; `given` are those that the user has just given."""
    if "seeds" in given and settings.confirm is None:
        yield f"seeds {settings.seeds} has no effect without --confirm"
    if "chain" in given and settings.chain and len(settings.rates) == 1:
        yield f"chain has no effect with quality {settings.rates[0]} alone"
    for key in ("strategies", "alpha_min", "alpha_max"):
        if settings.fix and key in given:
            yield f"{key} has no effect with --fix alpha=0"
    if "decay_at" in given and settings.schedule != "constant-cosine":
        yield f"decay_at {settings.decay_at:g} has no effect with --schedule {settings.schedule}"


def _several_gpus(settings: Settings, gpus: Callable[[], int]) -> str:
    """Why a trial cannot have several GPUs; empty if it can, or has one at most."""
    if (count := settings.gpus_per_trial) == 1:
        return ""
    if not settings.trials_per_gpu:
        return f"gpus_per_trial is {count} but no trial uses a GPU; use 1"
    if settings.trials_per_gpu != 1:
        return (
            f"gpus_per_trial {count} gives a trial whole GPUs, but trials_per_gpu "
            f"{settings.trials_per_gpu} a part of one; omit one of them"
        )
    if count > (there := gpus()):
        return f"gpus_per_trial is {count}, but the number of GPUs is {there}; use {there} at most"
    if settings.graph:
        return f"graph cannot be used with gpus_per_trial {count}; use --no-graph"
    return ""


def _uneven_parts(batch: int, parts: int, gpus: int) -> str:
    """Why a batch cannot be computed in this number of parts, each divided among the GPUs of a trial; empty
    if it can."""
    if gpus > 1 and batch % (parts * gpus):
        below = batch // (parts * gpus) * parts * gpus
        near = " and ".join(str(size) for size in (below, below + parts * gpus) if size)
        product = f"accumulate {parts} times " if parts > 1 else ""
        return f"batch is {batch} but must be a multiple of {product}gpus_per_trial {gpus}; nearest: {near}"
    valid = [n for n in range(1, max(2, batch // 2 + 1)) if batch % n == 0]
    if parts in valid:
        return ""
    near = " or ".join(map(str, sorted(sorted(valid, key=lambda n: abs(n - parts))[:2])))
    return (
        f"accumulate is {parts}, but the parts of a batch of {batch} must be of equal size, and of 2 images "
        f"at least for the decorrelation loss; use {near}"
    )


def _obstacle(folder: Path) -> str:
    """What is wrong with the deepest existing part of a path; empty if it is a writable folder."""
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        return f"{there} is not a folder"
    return "" if os.access(there, os.W_OK) else f"{there} is not writable"
