"""The Ray Tune engine: hands the core's candidates to workers and their readings to the core."""

from __future__ import annotations

import contextlib
import dataclasses
import posixpath
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from lic.recipe import LAMBDAS
from lic.training import DivergedError
from lic.trial import Readings, Trial, TrialConfig
from search.checkpoints import CHECKPOINT, TRIALS_FOLDER, Checkpoints, StoredFile
from search.limits import Limits
from search.space import Candidate, Plan


class Decisions(Protocol):
    """What the engine asks: the decision core, or a fixed list of trainings (search.confirm)."""

    plan: Plan

    def unfinished(self) -> list[Candidate]: ...

    def suggest(self) -> Candidate | None: ...

    def observe(
        self,
        name: str,
        epoch: int,
        figures: dict[str, float],
        images: dict[str, list[float]] | None = None,
    ) -> None: ...

    def decide(self, name: str, epoch: int) -> bool: ...

    def fail(self, name: str, reason: str) -> None: ...

    def end(self, name: str, reason: str) -> None: ...

    def close(self) -> None: ...


class RayTrial(tune.Trainable):
    """A lic Trial as Ray Tune's actor; the actor, its imports and its images are used again for
    the next trial."""

    trial: Trial

    def setup(self, config: dict[str, Any]) -> None:
        if 0 < config["gpus"] < 1:
            # No trial on a shared GPU can take the memory of the others.
            torch.cuda.set_per_process_memory_fraction(config["gpus"])
        self.trial = Trial(config["trial"])
        if config["checkpoint"] is not None:
            with config["checkpoint"].local() as path:
                self.trial.trainer.load(path)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        try:
            readings = self.trial.run_epoch()
        except DivergedError as error:
            # Not an error to Ray: training it again from the checkpoint would fail the same way.
            return {"failure": str(error)}
        return {"readings": readings}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self.trial.trainer.save(Path(checkpoint_dir) / CHECKPOINT)

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.trial.trainer.load(Path(checkpoint) / CHECKPOINT)


class _NotRestored:
    """Ray saves its searcher and scheduler to restore them later; ours are made anew over Optuna's
    storage, so there is nothing to save."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class CoreSearcher(_NotRestored, Searcher):
    """Passes `suggest` on; Ray's own record of the trials is not needed."""

    def __init__(
        self,
        core: Decisions,
        configure: Callable[[Candidate], TrialConfig],
        changed: Callable[[], None],
        limits: Limits,
        unfinished: dict[Candidate, StoredFile | None],
        gpus_per_trial: float,
        room: Callable[[], int],
        given_up: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.gpus_per_trial, self.room, self.given_up = gpus_per_trial, room, given_up
        self.live: set[str] = set()
        self.core, self.configure, self.changed, self.limits = core, configure, changed, limits
        self.unfinished = unfinished

    def suggest(self, trial_id: str) -> Any:
        if self.limits.reached():
            return Searcher.FINISHED
        if len(self.live) >= self.room():
            return None
        candidate = next(iter(self.unfinished), None) or self.core.suggest()
        if candidate is None:
            return Searcher.FINISHED
        checkpoint = self.unfinished.pop(candidate, None)
        self.limits.started(candidate.name)
        self.live.add(trial_id)
        self.changed()
        return {
            "name": candidate.name,
            "trial": self.configure(candidate),
            "checkpoint": checkpoint,
            "gpus": self.gpus_per_trial,
        }

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        self.live.discard(trial_id)
        if error:
            self.given_up(trial_id)

    def save(self, checkpoint_path: str) -> None:
        pass  # everything is in Optuna's storage

    def restore(self, checkpoint_path: str) -> None:
        pass


class CoreScheduler(_NotRestored, FIFOScheduler):
    """Passes `observe` and `decide` on, and the end of a trial."""

    def __init__(self, core: Decisions, changed: Callable[[], None], limits: Limits) -> None:
        super().__init__()
        self.core, self.changed, self.limits = core, changed, limits
        #: By Ray's number the name of a trial that broke off, and why it did so the last time.
        self.broken: dict[str, tuple[str, str]] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        name = trial.config["name"]
        if "failure" in result:
            return self._fail(name, result["failure"])
        readings: Readings = result["readings"]
        self.core.observe(name, readings.epoch, readings.figures, readings.images)
        goes_on = self.core.decide(name, readings.epoch)
        self.changed()
        if goes_on and (reason := self.limits.reached()):
            if not self.limits.interrupted:
                self.core.end(name, reason)
            goes_on = False
        return TrialScheduler.CONTINUE if goes_on else self._ended(name)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Ray calls this whenever a trial breaks off, also if it is to be tried again; the searcher hears
        only of the last time (`give_up`)."""
        self.broken[trial.trial_id] = (trial.config["name"], _reason(trial))

    def give_up(self, trial_id: str) -> None:
        """The trial has broken off and is not tried again."""
        self._fail(*self.broken[trial_id])

    def _fail(self, name: str, reason: str) -> str:
        self.core.fail(name, reason)
        return self._ended(name)

    def _ended(self, name: str) -> str:
        self.limits.ended(name)
        self.changed()
        return TrialScheduler.STOP


class KeepLast(tune.Callback):
    """Keeps the last checkpoint of every trial. Ray would keep it too, and for that write down the state of
    all trials, which nothing reads, at every checkpoint."""

    def __init__(self) -> None:
        self._last: dict[str, Any] = {}

    def on_checkpoint(
        self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any
    ) -> None:
        """Ray calls this when a checkpoint is where it shall be, whole."""
        before = self._last.get(trial.trial_id)
        self._last[trial.trial_id] = checkpoint
        if before is not None and before.path != checkpoint.path:
            with contextlib.suppress(OSError):  # it takes space, no more
                before.filesystem.delete_dir(before.path)


def _reason(trial: Any) -> str:
    """Why a trial broke off: the last line of what Ray wrote about it."""
    try:
        lines = Path(trial.error_file).read_text().strip().splitlines()
    except (OSError, TypeError):
        lines = []
    return lines[-1].strip() if lines else "its worker died"


def run(
    core: Decisions,
    configure: Callable[[Candidate], TrialConfig],
    changed: Callable[[], None],
    limits: Limits,
    checkpoints: Checkpoints,
    room: Callable[[], int],
    gpus_per_trial: float,
    retries: int,
    subfolder: str = TRIALS_FOLDER,
    trainable: type[tune.Trainable] = RayTrial,
) -> None:
    """Train until the core has nothing more to suggest or a limit is reached; first what an interrupted
    search left unfinished, from its checkpoints.

    `changed` is called in the driver's loop whenever something was proposed, measured or ended: it must be
    quick. `room` says how many trainings may run at once. A training that breaks off is tried again from its
    last checkpoint, `retries` times. Ray writes the checkpoints below `subfolder`; of each trial the last is
    kept. Ray must be connected (search.cluster)."""
    unfinished = {c: checkpoints.set_aside(f"{subfolder}/{c.name}") for c in core.unfinished()}
    share, (place, search) = {"CPU": 1.0, "GPU": gpus_per_trial}, posixpath.split(checkpoints.root)
    scheduler = CoreScheduler(core, changed, limits)
    tuner = tune.Tuner(
        tune.with_resources(trainable, share),
        tune_config=tune.TuneConfig(
            search_alg=CoreSearcher(
                core, configure, changed, limits, unfinished, gpus_per_trial, room, scheduler.give_up
            ),
            scheduler=scheduler,
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=_folder_name,
            trial_name_creator=_folder_name,
        ),
        run_config=tune.RunConfig(
            # With the search's name in it: Ray keeps what is of one name and second in one place on the head,
            # and gives trials whose names it finds there other folders.
            name=f"{search}/{subfolder}",
            storage_path=place,
            storage_filesystem=checkpoints.filesystem,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=retries),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
            callbacks=[KeepLast()],
        ),
    )
    tuner.fit()
    if not limits.interrupted:
        core.close()


def _folder_name(trial: Any) -> str:
    return str(trial.config["name"])


def training_config_of(candidate: Candidate, template: TrialConfig) -> TrialConfig:
    """The template with the candidate's point filled in."""
    training = dataclasses.replace(
        template.training,
        lmbda=LAMBDAS[candidate.quality],
        alpha=candidate.alpha,
        strategy=candidate.strategy or "y",
        seed=candidate.seed,
    )
    return dataclasses.replace(template, training=training)
