"""The Ray Tune engine: passes the core's candidates to workers, and their metrics to the core."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.schedulers import TrialScheduler as RayTrialScheduler
from ray.tune.search import Searcher

from lic.data.cache import DamagedCacheError
from lic.errors import StorageError
from lic.recipe import learning_rate
from lic.training.trainer import CheckpointError, CorruptCheckpointError, DivergedError
from lic.training.trial import EpochMetrics, Trial, TrialConfig
from search.base.limits import Limits
from search.base.space import BASELINE, Candidate, Plan, baseline_name
from search.engine import cluster
from search.engine.chain import folder_of, started_from, starts_from
from search.store.checkpoints import Checkpoints
from search.store.disk import is_full
from search.store.find import TRIALS_FOLDER

_log = logging.getLogger(__name__)

#: Keys of a trial's report: metrics, notes for the log, why it failed, or why the whole search must stop.
READINGS, NOTES, FAILURE, TROUBLE = "readings", "notes", "failure", "trouble"


class TrialScheduler(Protocol):
    """The interface to the decision core, or to a fixed list of training runs (search.records.confirm)."""

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

    def waits(self) -> bool: ...

    def fail(self, name: str, reason: str) -> None: ...

    def end(self, name: str, reason: str) -> None: ...

    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Fork:
    """The fork of a training run: the baseline whose checkpoint after `epoch` a trial starts from; for a
    baseline, `baseline` is empty and trials start from it. Epoch 0: no fork."""

    epoch: int = 0
    baseline: str = ""

    @property
    def kept(self) -> int:
        """The epoch whose checkpoint must be kept for trials; 0 for none."""
        return 0 if self.baseline else self.epoch


class RayTrial(tune.Trainable):
    """A `lic` trial as a Ray Tune actor; the actor, its imports and its images are reused for the next trial.

    Every epoch is saved with its metrics before it is reported. So after a kill the records are never ahead
    of the checkpoints, and no saved epoch is trained again."""

    trial: Trial

    def setup(self, config: dict[str, Any]) -> None:
        if config["gpus"]:
            # No trial on a shared GPU may take the memory of the others.
            torch.cuda.set_per_process_memory_fraction(min(1.0, config["gpus"]))
        self.checkpoints: Checkpoints = config["checkpoints"]
        self.training: str = config["training"]
        self.fork: Fork = config["fork"]
        self._told = 0
        self._notes: list[str] = []
        #: Why the trial cannot start, permanently.
        self._lost = ""
        try:
            with started_from(config["trial"], self.checkpoints, config["chained"]) as trial:
                self.trial = Trial(trial)
            self._go_on()
        except (DamagedCacheError, StorageError):  # a retry may succeed
            raise
        except ValueError as error:  # such as a ModelError, ImageError or CheckpointError
            self._lost = str(error)

    def _go_on(self) -> None:
        """Load the last checkpoint, if any, or start from the fork."""
        for file in self.checkpoints.saved(self.training):
            try:
                with file.local() as path:
                    self.trial.load(path)
                break
            except CorruptCheckpointError as error:
                self._notes.append(f"{error}; using the previous one")
        else:
            if self.fork.baseline:
                self._begin_at_fork(self.fork.baseline, self.fork.epoch)

    def _begin_at_fork(self, baseline: str, epoch: int) -> None:
        """Load the baseline's checkpoint of the fork epoch; no other one is valid."""
        where = ""
        try:
            file = self.checkpoints.of_epoch(baseline, epoch)
            with file.local() as path:
                where = str(path)
                self.trial.fork(path)
        except (CheckpointError, FileNotFoundError) as error:
            said = str(error).replace(where, str(file)) if where else str(error)
            self._lost = f"cannot load its baseline's checkpoint: {said}; start a new search"

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """All metrics since the last step; after a resume, first those in the checkpoint."""
        if self._lost:  # a retry would fail again
            return {FAILURE: self._lost}
        try:
            if len(self.trial.readings) == self._told:
                epoch = self.trial.run_epoch().epoch
                with self.checkpoints.saving(self.training, epoch, self.fork.kept) as path:
                    self.trial.save(path)
        except DivergedError as error:
            if self.trial.config.device != "cpu":
                raise
            # Do not raise: a retry from the checkpoint would diverge again, bit for bit.
            return {FAILURE: str(error)}
        except OSError as error:
            if not is_full(error):
                raise
            return {TROUBLE: f"cannot write the checkpoint of {self.training}: {error.strerror}"}
        news = self.trial.readings[self._told :]
        self._told = len(self.trial.readings)
        notes, self._notes = self._notes, []
        return {READINGS: news, NOTES: notes}


class StopWithoutRay(tune.Callback):
    """Ends Ray Tune's loop when Ray has died."""

    def __init__(self, health: Callable[[], None]) -> None:
        self._pulse = health

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._pulse()


class _NotRestored:
    """Makes Ray save nothing of a searcher or scheduler: they are rebuilt from Optuna's storage."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class CoreSearcher(_NotRestored, Searcher):
    """Ray Tune's search algorithm: forwards `suggest` to the core."""

    def __init__(
        self,
        bridge: TuneBridge,
        configure: Callable[[Candidate], dict[str, Any]],
        capacity: Callable[[], int],
    ) -> None:
        super().__init__()
        self.bridge, self.configure, self.capacity = bridge, configure, capacity
        self.live: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        if self.bridge.limits.reached():
            return Searcher.FINISHED
        if len(self.live) >= self.capacity() or self.bridge.waiting:
            return None
        candidate = self.bridge.next()
        if candidate is None:
            return None if self.bridge.waits() else Searcher.FINISHED
        self.live.add(trial_id)
        return {"name": candidate.name, **self.configure(candidate)}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self.live.discard(trial_id)
        if error:
            self.bridge.give_up(trial_id)

    def save(self, checkpoint_path: str) -> None:
        pass  # everything is in Optuna's storage

    def restore(self, checkpoint_path: str) -> None:
        pass


class CoreScheduler(_NotRestored, FIFOScheduler):
    """Ray Tune's scheduler: forwards results and errors of trials to the core."""

    def __init__(self, bridge: TuneBridge, health: Callable[[], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bridge, self.health = bridge, health

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        self.bridge.waiting.discard(trial.trial_id)
        goes_on = self.bridge.hear(trial.config["name"], result)
        return RayTrialScheduler.CONTINUE if goes_on else RayTrialScheduler.STOP

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Called by Ray for every error of a trial, even if it will be retried; the searcher is only called
        for the last one. If Ray itself has died, the error is not the trial's."""
        self.health()
        name, reason, share = trial.config["name"], _reason(trial), trial.config["gpus"]
        self.bridge.broken[trial.trial_id] = (name, reason)
        tried_again = trial.status != "RUNNING"  # Ray has already stopped it
        if tried_again and is_out_of_memory(reason) and 0 < share < 1:
            # Give this trial a larger share of the GPU; nothing new starts until it is placed.
            trial.config["gpus"] = share = min(1.0, 2 * share)
            trial.update_resources(resources(share))
            self.bridge.waiting.add(trial.trial_id)


class TuneBridge:
    """Connects the core and Ray. An error here stops the search, which can be resumed: Ray would treat it as
    a failure of the current trial and retry that."""

    def __init__(self, core: TrialScheduler, changed: Callable[[], None], limits: Limits) -> None:
        self.core, self.changed, self.limits = core, changed, limits
        self.unfinished = core.unfinished()
        #: Ray's trial id -> name of a failed trial and the last reason.
        self.broken: dict[str, tuple[str, str]] = {}
        #: Ray's ids of trials that wait for a larger share of a GPU.
        self.waiting: set[str] = set()
        self.fault: Exception | None = None

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.fault = self.fault or error
            self.limits.interrupted = True

    def next(self) -> Candidate | None:
        """The next candidate: first those that an interrupted session left unfinished."""
        candidate = None
        with self._guarded():
            candidate = self.unfinished.pop(0) if self.unfinished else self.core.suggest()
            if candidate is not None:
                self.limits.started(candidate.name)
                self.changed()
        return candidate

    def waits(self) -> bool:
        """Whether there may be a candidate later although there is none now."""
        with self._guarded():
            return self.core.waits()
        return False

    def hear(self, name: str, result: dict[str, Any]) -> bool:
        """Process a trial's report; returns whether it continues."""
        goes_on = False
        for note in result.get(NOTES, ()):
            _log.warning(note)
        with self._guarded():
            if TROUBLE in result:
                self.limits.halt(result[TROUBLE])
            elif FAILURE in result:
                self.core.fail(name, result[FAILURE])
            else:
                goes_on = self._goes_on(name, result[READINGS])
            if not goes_on:
                self._ended(name)
        return goes_on

    def _goes_on(self, name: str, news: list[EpochMetrics]) -> bool:
        for readings in news:
            self.core.observe(name, readings.epoch, readings.figures, readings.images)
            if not self.core.decide(name, readings.epoch):
                return False
        self.changed()
        if reason := self.limits.reached():
            if not self.limits.interrupted:
                self.core.end(name, reason)
            return False
        return True

    def give_up(self, trial_id: str) -> None:
        """Record the failure of a trial that is not retried."""
        with self._guarded():
            self.waiting.discard(trial_id)
            name, reason = self.broken[trial_id]
            self.core.fail(name, reason)
            self._ended(name)

    def _ended(self, name: str) -> None:
        self.limits.ended(name)
        self.changed()


def _reason(trial: Any) -> str:
    """Why a trial failed, in plain words, from the last line of Ray's error file."""
    try:
        lines = Path(trial.error_file).read_text().strip().splitlines()
    except (OSError, TypeError):
        lines = []
    last = lines[-1].strip() if lines else ""
    if is_out_of_memory(last):
        return f"out of memory: {last.partition(': ')[2] or last}"
    if not last or any("ActorDiedError" in line or "ActorUnavailableError" in line for line in lines[-40:]):
        return "its worker died: it was killed, its node was lost, or it ran out of memory"
    return re.sub(r"^[\w.]+: ", "", last)  # the class of the exception


def is_out_of_memory(reason: str) -> bool:
    return "OutOfMemoryError" in reason or "out of memory" in reason.lower()


def resources(gpus: float) -> tune.PlacementGroupFactory:
    """The resources of a trial."""
    return tune.PlacementGroupFactory([{"CPU": 1.0, **({"GPU": gpus} if gpus else {})}])


@dataclasses.dataclass(frozen=True)
class Execution:
    """How to execute training runs: the place of their checkpoints; `capacity`, the number of concurrent
    runs; the GPUs per run, a fraction or several (0: none); and the number of retries of a failed run."""

    checkpoints: Checkpoints
    capacity: Callable[[], int]
    gpus_per_trial: float
    retries: int


def run(
    core: TrialScheduler,
    configure: Callable[[Candidate], TrialConfig],
    changed: Callable[[], None],
    limits: Limits,
    execution: Execution,
    subfolder: str = TRIALS_FOLDER,
    trainable: type[tune.Trainable] = RayTrial,
) -> None:
    """Train until the core has nothing more to suggest or a limit is reached; first the training runs that an
    interrupted session left unfinished, from their checkpoints below `subfolder`, or those of another seed
    than the plan's from below the confirmation's.

    `changed` is called in the driver's loop after every proposal, result and end, and must be quick. A failed
    training run is retried from its last checkpoint, with twice its share of a GPU if it ran out of memory.
    Ray must be connected (search.engine.cluster). Raises RayDiedError, and exceptions of the core and its
    storage."""
    bridge = TuneBridge(core, changed, limits)

    def details(candidate: Candidate) -> dict[str, Any]:
        fresh = candidate.seed != core.plan.seed
        own = f"{folder_of(candidate, core.plan, subfolder)}/{candidate.name}"
        baseline, fork = f"{subfolder}/{baseline_name(candidate.quality)}", 0 if fresh else core.plan.fork
        return {"trial": configure(candidate), "checkpoints": execution.checkpoints, "training": own,
                "fork": Fork(fork, "" if not fork or candidate.role == BASELINE else baseline),
                "chained": starts_from(candidate, core.plan, subfolder),
                "gpus": execution.gpus_per_trial}  # fmt: skip

    _tuner(bridge, details, execution, subfolder, trainable).fit()
    if bridge.fault is not None:
        raise bridge.fault
    if not limits.interrupted:
        core.close()


def _tuner(
    bridge: TuneBridge,
    details: Callable[[Candidate], dict[str, Any]],
    execution: Execution,
    subfolder: str,
    trainable: type[tune.Trainable],
) -> tune.Tuner:
    """Ray Tune, with the bridge as its search algorithm and its scheduler."""
    health, (place, search) = cluster.RayHealthCheck(), posixpath.split(execution.checkpoints.root)
    return tune.Tuner(
        tune.with_resources(trainable, resources(execution.gpus_per_trial)),
        tune_config=tune.TuneConfig(
            search_alg=CoreSearcher(bridge, details, execution.capacity),
            scheduler=CoreScheduler(bridge, functools.partial(health, at_once=True)),
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
            storage_filesystem=execution.checkpoints.filesystem,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=execution.retries),
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_at_end=False
            ),  # trials write their checkpoints themselves
            callbacks=[StopWithoutRay(health)],
        ),
    )


def _folder_name(trial: Any) -> str:
    return str(trial.config["name"])


def training_config_of(candidate: Candidate, template: TrialConfig) -> TrialConfig:
    """The template with the candidate's point filled in. Without a learning rate of its own, a tuned
    optimizer's is the template's in proportion to the defaults of the two optimizers."""
    tuned: dict[str, Any] = dict(candidate.tuned)
    if "optimizer" in tuned and "lr" not in tuned and tuned["optimizer"] != template.training.optimizer:
        start = "scratch" if template.start is None else template.start
        own, usual = (
            learning_rate(name, start) for name in (tuned["optimizer"], template.training.optimizer)
        )
        tuned["lr"] = template.training.lr * own / usual
    training = dataclasses.replace(
        template.training,
        **tuned,
        lmbda=candidate.lmbda,
        alpha=candidate.alpha,
        strategy=candidate.strategy or "y",
        seed=candidate.seed,
    )
    # Only baselines are checked for convergence.
    rest = template.rest_epoch if candidate.point.is_baseline else None
    return dataclasses.replace(template, training=training, rest_epoch=rest)
