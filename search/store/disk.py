"""Space on the disk: what a search needs of it, when there is too little left, and what is said then."""

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

#: What SQLite says when it cannot write, and of a file that is not what it wrote.
_SQLITE_FULL = ("disk is full", "readonly database", "unable to open database", "disk I/O error")
_SQLITE_TORN = ("malformed", "not a database")

#: Bytes that everything but checkpoints is given: records, MLflow, the report.
_RESERVE = 64 << 20


def is_full(error: OSError) -> bool:
    """Whether nothing more can be written to a place, so that trying again is of no use."""
    return error.errno in _FULL


def trouble(error: BaseException | None) -> str:
    """What is wrong with the disk or the memory, if that is what went wrong, as a sentence's beginning."""
    while error is not None:
        said = str(error).partition("\n")[0]
        if isinstance(error, MemoryError):
            return "the memory of this machine does not suffice; give it fewer --workers"
        if isinstance(error, OSError) and error.filename is not None:
            return f"{error.filename} cannot be used ({error.strerror})"
        if isinstance(error, OSError) and is_full(error):
            return f"a file cannot be written ({error.strerror})"
        if any(words in said for words in _SQLITE_FULL):
            return f"the records cannot be written ({said[:200]})"
        if any(words in said for words in _SQLITE_TORN):
            return f"the records are damaged ({said[:200]})"
        error = error.__cause__ or error.__context__
    return ""


#: Bytes that a file of torch.save has for a tensor beside its values; a weight and its state are four or so.
_PER_TENSOR = 400


@dataclass(frozen=True)
class Need:
    """Bytes: a checkpoint (weights and the optimiser's state), the checkpoints that a search writes at the
    least and has at the most, and what must stay free for those that run."""

    checkpoint: int
    least: int
    most: int
    reserve: int


def need_of(template: TrialConfig, plan: Plan, workers: int) -> Need:
    """What a search needs if none of its checkpoints can be removed: of a training that runs two, of one that
    has ended one, a copy of the best of every rate, and, if trials fork, what those of a rate begin with."""
    from lic.models.build import parameters_of
    from lic.training.optimizers import state_bytes

    weights = parameters_of(template.model, template.width, template.latent_width)
    size = 4 * sum(weight.numel() for weight in weights) + state_bytes(template.training.optimizer, weights)
    size += 4 * _PER_TENSOR * len(weights)
    rates = len(plan.qualities)
    running = 2 * min(workers, plan.budget + rates) * size
    forks = rates * size if plan.fork else 0
    most = running + (2 * rates + plan.budget) * size + forks
    return Need(size, running + rates * size + forks, most, running + _RESERVE)


def free_at(place: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    there = next(path for path in (place.resolve(), *place.resolve().parents) if path.exists())
    found = os.statvfs(there)
    return found.f_bavail * found.f_frsize


def check_space(need: Need, folder: Path, storage: str | None) -> str:
    """What the checkpoints take and what is free, in words. Raises ConfigError if the disk is too small for
    a search of any luck."""
    place, setting = (Path(storage), "--storage") if storage else (folder, "--results")
    if storage and not Checkpoints(storage).is_local:
        return f"up to {_size(need.most)} of checkpoints, {_size(need.checkpoint)} each"
    free = free_at(place)
    if free < need.least + _RESERVE:
        raise ConfigError(
            f"the disk of {place} has {_size(free)} free, and the checkpoints of the baselines and of what "
            f"runs take {_size(need.least)}; free some, or name a place on another disk by {setting}"
        )
    return (
        f"up to {_size(need.most)} of checkpoints, {_size(need.checkpoint)} each; {_size(free)} are free"
        + ("" if free >= need.most + need.reserve else ", and the search ends in time, to be gone on with")
    )


def watch(places: list[Path], need: Need, halt: Callable[[str], None]) -> Callable[[], None]:
    """A look at the disks, which says `halt`, with the reason, while the running epochs can be saved yet."""

    def look() -> None:
        for place in places:
            free = free_at(place)
            if free < need.reserve:
                halt(f"the disk of {place} has {_size(free)} left, of which running epochs may need all")

    return look


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
