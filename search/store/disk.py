"""Disk space: how much a search needs, and what happens when too little is left."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lic.training.trial import TrialConfig
from search.base.space import Plan
from search.settings.complaints import ConfigError
from search.store.checkpoints import Checkpoints

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)

#: Error messages of SQLite when it cannot write, and when a file is damaged.
_SQLITE_FULL = ("disk is full", "readonly database", "unable to open database", "disk I/O error")
_SQLITE_TORN = ("malformed", "not a database")

#: Bytes reserved for everything except checkpoints: records, MLflow, the report.
_RESERVE = 64 << 20


def is_full(error: OSError) -> bool:
    """Whether a place is full or read-only, so that retrying is useless."""
    return error.errno in _FULL


def trouble(error: BaseException | None) -> str:
    """If the error is due to disk or memory, the beginning of a message about it; else empty."""
    while error is not None:
        said = str(error).partition("\n")[0]
        if isinstance(error, MemoryError):
            return "out of memory; use fewer --workers"
        if isinstance(error, OSError) and error.filename is not None:
            return f"{error.filename} cannot be used ({error.strerror})"
        if isinstance(error, OSError) and is_full(error):
            return f"cannot write a file ({error.strerror})"
        if any(words in said for words in _SQLITE_FULL):
            return f"cannot write the records ({said[:200]})"
        if any(words in said for words in _SQLITE_TORN):
            return f"the records are damaged ({said[:200]})"
        error = error.__cause__ or error.__context__
    return ""


#: Overhead of torch.save per tensor in bytes; a weight and its state are about four tensors.
_PER_TENSOR = 400


@dataclass(frozen=True)
class Need:
    """Disk space in bytes: of one checkpoint (weights and optimizer state), of the minimum and maximum total
    of checkpoints, and the space to keep free for running training."""

    checkpoint: int
    least: int
    most: int
    reserve: int


def need_of(template: TrialConfig, plan: Plan, workers: int) -> Need:
    """The disk space of a search that cannot remove any checkpoint: two per running training run, one per
    ended run, a copy of the best per quality and, with a fork, the checkpoint that trials of a quality start
    from."""
    from lic.models.build import parameters_of
    from lic.training.optimizers import state_bytes

    weights = parameters_of(template.model, template.width, template.latent_width)
    size = 4 * sum(weight.numel() for weight in weights) + state_bytes(template.training.optimizer, weights)
    if template.training.ema:
        size += 4 * sum(weight.numel() for weight in weights)
    size += 4 * _PER_TENSOR * len(weights)
    qualities = len(plan.qualities)
    running = 2 * min(workers, plan.budget + qualities) * size
    forks = qualities * size if plan.fork else 0
    noise = plan.noise_baselines * size
    most = running + (2 * qualities + plan.budget) * size + forks + noise
    return Need(size, running + qualities * size + forks + noise, most, running + _RESERVE)


def free_at(place: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
    there = next(path for path in (place.resolve(), *place.resolve().parents) if path.exists())
    found = os.statvfs(there)
    return found.f_bavail * found.f_frsize


def check_space(need: Need, folder: Path, storage: str | None) -> str:
    """A description of the space for checkpoints and the free space. Raises ConfigError if the disk is too
    small even for the minimum."""
    place, setting = (Path(storage), "--storage") if storage else (folder, "--results")
    if storage and not Checkpoints(storage).is_local:
        return f"up to {_size(need.most)} of checkpoints, {_size(need.checkpoint)} each"
    free = free_at(place)
    if free < need.least + _RESERVE:
        raise ConfigError(
            f"the disk of {place} has {_size(free)} free, but the checkpoints of baselines and running "
            f"trials need {_size(need.least)}; free some space, or use another disk with {setting}"
        )
    return f"up to {_size(need.most)} of checkpoints, {_size(need.checkpoint)} each; {_size(free)} free" + (
        "" if free >= need.most + need.reserve else " (the search stops before the disk is full)"
    )


def watch(places: list[Path], need: Need, halt: Callable[[str], None]) -> Callable[[], None]:
    """A check of the disks that calls `halt` with the reason while there is space to save the running
    epochs."""

    def look() -> None:
        for place in places:
            free = free_at(place)
            if free < need.reserve:
                halt(f"the disk of {place} is almost full ({_size(free)} left)")

    return look


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
