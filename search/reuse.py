"""Baselines of earlier searches that were trained just as this one would train them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from importlib.metadata import version
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState, create_trial

from lic.data.sets import ImageSet
from lic.trial import TrialConfig
from search.core import SETUP, SOURCE, Core, readings_of, studies
from search.find import TRIALS_FOLDER, searches_in
from search.folder import checkpoints_of, name_of, storage_of
from search.records import check, record_of
from search.space import baseline_name
from search.storage import StorageError

_log = logging.getLogger(__name__)

#: What a trial's training does not depend on, or what is told apart by the rate.
_POINT = ("lmbda", "alpha", "strategy")


def setup_of(template: TrialConfig, images: tuple[ImageSet, ...]) -> str:
    """A fingerprint of everything that a baseline's figures depend on besides its rate: the model, the
    weights it starts from, the training, the pixels of all images, the versions of torch and compressai."""
    training = {k: v for k, v in dataclasses.asdict(template.training).items() if k not in _POINT}
    start = hashlib.sha256(Path(template.start).read_bytes()).hexdigest() if template.start else ""
    parts = {
        "model": [template.model, template.width, template.latent_width, start, template.device],
        "training": training,
        "speed": dataclasses.asdict(template.speed),
        "images": [part.images.fingerprint for part in images],
        "measured": [template.val_epochs, template.test_epochs, template.images.val_crop],
        "versions": [version(name) for name in ("torch", "compressai")],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def reuse_baselines(core: Core, folder: Path) -> dict[int, str]:
    """Take over the baselines that other searches beside `folder` have finished, with their last
    checkpoints and those of the fork, wherever each search keeps its own; per quality the search each came
    from. One whose checkpoints are not there or cannot be copied is passed over."""
    wanted = [q for q in core.plan.qualities if core.baseline(q) is None]
    taken: dict[int, str] = {}
    for other in reversed([path for path in searches_in(folder.parent) if path != folder]):
        for trial in _finished(other) if len(taken) < len(wanted) else []:
            quality = trial.user_attrs["quality"]
            if quality not in wanted or quality in taken or not _same(trial, core):
                continue
            if not _take_over(other, folder, f"{TRIALS_FOLDER}/{baseline_name(quality)}", core.plan.fork):
                continue  # nothing to export from, or for trials to begin with
            attributes = {**trial.user_attrs, SOURCE: other.name}
            core.baselines.add_trial(
                create_trial(state=TrialState.COMPLETE, value=0.0, user_attrs=attributes)
            )
            taken[quality] = other.name
    return dict(sorted(taken.items()))


def _take_over(other: Path, folder: Path, training: str, fork: int) -> bool:
    try:
        return checkpoints_of(folder).take_over(checkpoints_of(other), training, keep=fork)
    except (OSError, StorageError) as error:
        _log.warning("%s of %s is not taken over: %s", training, other, error)
        return False


def _same(trial: FrozenTrial, core: Core) -> bool:
    attributes = trial.user_attrs
    same = attributes.get(SETUP) == core.setup and attributes["seed"] == core.plan.seed
    return bool(core.setup) and same and core.plan.epochs in readings_of(trial)


def _finished(search: Path) -> list[FrozenTrial]:
    """The finished baselines of the search in this folder; of one that cannot be read, none."""
    try:
        found = studies(storage_of(search), name_of(search))[1].get_trials(deepcopy=False)
        for trial in found:
            check(record_of(trial))
    except Exception as error:  # a damaged database can raise anything at all
        _log.warning("the baselines of %s are not taken over: %s", search, error)
        return []
    return [trial for trial in found if trial.state == TrialState.COMPLETE]
