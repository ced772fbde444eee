"""The initial weights of a chained search (`--chain`): those of the baseline of the next higher quality."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from lic.training.trainer import CheckpointError
from lic.training.trial import TrialConfig
from search.base.space import CONFIRMATION, Candidate, Plan, baseline_name, repeated_name
from search.store.checkpoints import Checkpoints


def folder_of(candidate: Candidate, plan: Plan, subfolder: str) -> str:
    """The folder of a training run's checkpoints: those of another seed than the plan's are with the
    confirmation."""
    return subfolder if candidate.seed == plan.seed else CONFIRMATION


def starts_from(candidate: Candidate, plan: Plan, subfolder: str) -> str:
    """The baseline of the same seed ('trials/baseline-q4') whose final weights a training run starts from, or
    empty."""
    above = plan.above(candidate.quality)
    if above is None:
        return ""
    name = baseline_name(above)
    own = name if candidate.seed == plan.seed else repeated_name(name, candidate.seed)
    return f"{folder_of(candidate, plan, subfolder)}/{own}"


@contextmanager
def started_from(config: TrialConfig, checkpoints: Checkpoints, baseline: str) -> Iterator[TrialConfig]:
    """The configuration with the final weights of a baseline, unless that is empty, as initial weights; valid
    in this context. Raises CheckpointError if they are missing, OSError and StorageError."""
    if not baseline:
        yield config
        return
    try:
        file = checkpoints.of_epoch(baseline, config.training.epochs)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"cannot start from the baseline of the next higher quality: {error}"
        ) from error
    with file.local() as path:
        yield dataclasses.replace(config, start=str(path))
