"""Reuses baselines of earlier searches with the same training setup."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from lic.data.sets import ImageSet
from lic.errors import StorageError
from lic.models.architectures import OwnModel
from lic.models.importing import source_of
from lic.recipe import BEFORE
from lic.training.trial import TrialConfig
from search.base.space import Plan, baseline_name
from search.decide.core import SETUP, SOURCE, Core
from search.decide.readings import readings_of
from search.records.folder import SearchFolder
from search.records.search_records import record_of
from search.store.find import TRIALS_FOLDER, FolderError, searches_in

_log = logging.getLogger(__name__)

#: Fields that baselines do not depend on, apart from their quality.
_POINT = ("lmbda", "alpha", "strategy", "regularizer")


def setup_of(template: TrialConfig, images: tuple[ImageSet, ...], plan: Plan) -> str:
    """A fingerprint of everything that a baseline's metrics depend on except its quality: model, initial
    weights and the chain of qualities that hands them down, training settings, the pixels of all images,
    versions of torch and compressai."""
    training = {
        key: value
        for key, value in dataclasses.asdict(template.training).items()
        if key not in _POINT and (key, value) not in BEFORE.items()  # as fingerprints were then
    }
    start = hashlib.sha256(Path(template.start).read_bytes()).hexdigest() if template.start else ""
    chain = [(quality, plan.point(quality).lmbda) for quality in plan.qualities]
    parts = {
        "model": [_identity(template.model), template.width, template.latent_width, start, template.device],
        "training": training,
        "speed": dataclasses.asdict(template.speed),
        "images": [part.images.fingerprint for part in images],
        "measured": [
            template.val_epochs,
            template.test_epochs,
            template.images.val_crop,
            *(["ms_ssim"] if template.val_ms_ssim else []),
        ],
        **({"chain": chain} if plan.chain else {}),  # without it as fingerprints were before
        **({"devices": template.devices} if template.devices > 1 else {}),  # which round differently
        "versions": [version(name) for name in ("torch", "compressai")],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _identity(model: str | OwnModel) -> Any:
    """The model in a fingerprint; for a user's own, with the hash of the source file that defines it."""
    if isinstance(model, str):
        return model
    source = hashlib.sha256(source_of(model.name)).hexdigest()
    return [model.name, model.arguments, model.latents, source]


def reuse_baselines(core: Core, own: SearchFolder) -> dict[int, str]:
    """Reuse finished baselines of other searches in the same results folder, with their last checkpoints and
    those of the fork. Returns the source search per quality. Skips searches that cannot be read or whose
    checkpoints are missing; does not change them."""
    wanted = [q for q in core.plan.qualities if core.baseline(q) is None]
    taken: dict[int, str] = {}
    for path in reversed([path for path in searches_in(own.path.parent) if path != own.path]):
        if len(taken) == len(wanted):
            break
        try:
            other = SearchFolder.read(path)
            finished = [trial for trial in other.baselines() if trial.state == TrialState.COMPLETE]
        except FolderError as error:
            _log.warning("baselines of %s not reused: %s", path, error)
            continue
        for trial in finished:
            quality = trial.user_attrs["quality"]
            if quality not in wanted or quality in taken or not _same(trial, core):
                continue
            if not _take_over(other, own, f"{TRIALS_FOLDER}/{baseline_name(quality)}", core.plan.fork):
                continue  # no checkpoint to export, or for trials to start from
            attributes = {**trial.user_attrs, SOURCE: path.name}
            core.baselines.add_trial(
                create_trial(state=TrialState.COMPLETE, value=0.0, user_attrs=attributes)
            )
            taken[quality] = path.name
    return dict(sorted(taken.items()))


def _take_over(other: SearchFolder, own: SearchFolder, training: str, fork: int) -> bool:
    try:
        return own.checkpoints.take_over(other.checkpoints, training, keep=fork)
    except (OSError, StorageError) as error:
        _log.warning("%s of %s not reused: %s", training, other.path, error)
        return False


def _same(trial: FrozenTrial, core: Core) -> bool:
    attributes = trial.user_attrs
    same = attributes.get(SETUP) == core.setup and attributes["seed"] == core.plan.seed
    at_lambda = record_of(trial).point == core.plan.point(attributes["quality"])
    return bool(core.setup) and same and at_lambda and core.plan.epochs in readings_of(trial)
