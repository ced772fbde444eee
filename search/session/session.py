"""A driver session: from the search's opened folder to the last line, or to where it can be resumed.

Its phases, in the order of `Session.run`: prepare the decision core, observe, train, and either suspend (it
was interrupted) or conclude."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from lic.cli import INTERRUPTED, command
from lic.models.architectures import is_own
from lic.training.trial import TrialConfig
from search.base.limits import Limits
from search.base.signals import ends_on_signal
from search.base.space import CONFIRMATION, Plan, trial_name
from search.decide.core import SETUP, Core, make_studies
from search.decide.noise import measured_noise
from search.decide.recommend import believe, expected_of
from search.engine import cluster
from search.engine import tune as engine
from search.engine.cluster import RayDiedError
from search.records import results
from search.records.confirm import Confirmation, points_to_confirm
from search.records.confirmed import ConfirmedResults, confirmed_results
from search.records.folder import SearchFolder
from search.records.noise import WithNoise
from search.records.search_records import SearchRecords
from search.session import conclusion, summary
from search.session.confirming import Followup, announced
from search.session.metrics import Gauges
from search.session.monitor import Followed, Monitor
from search.session.retention import Retention
from search.session.reuse import reuse_baselines
from search.session.terminal import View, view_for
from search.settings.complaints import ConfigError
from search.settings.config import Settings
from search.store import disk
from search.store.find import TRIALS_FOLDER, find_folder
from search.store.lock import is_running, signs_of_life
from search.store.provenance import TEST_SET, WITHOUT_MS_SSIM
from search.store.storage import sqlite_file
from search.tracking.logs import open_logs
from search.tracking.publishing import Publisher
from search.tracking.tracker import Tracker

DONE, ALL_FAILED, HALTED = 0, 1, 2

#: How often Ray on this machine is restarted after it died.
_RAYS = 10

_MLFLOW_STATUS = {DONE: "FINISHED", INTERRUPTED: "KILLED"}


@dataclass(frozen=True)
class Experiment:
    """What to train: the search's plan, the configuration that all its training runs share, the fingerprint
    of the training setup (search.session.reuse), and the name of the test set."""

    plan: Plan
    template: TrialConfig
    setup: str
    test_set: str


@dataclass(frozen=True)
class Resources:
    """The resources of a session: concurrent training runs, GPUs of this machine, and required disk space."""

    workers: int
    gpus: int
    need: disk.Need


@dataclass(frozen=True)
class Observers:
    """The observers of a session's training runs."""

    view: View
    publisher: Publisher
    retention: Retention
    monitor: Monitor

    def close(self) -> None:
        """Read the records a last time, and stop; the publisher stays open for the final status."""
        self.monitor.close()
        self.retention.close()

    @contextlib.contextmanager
    def ends_tracking_on_failure(self) -> Iterator[None]:
        """On any exception in the context, end the search's MLflow run as failed or killed."""
        try:
            yield
        except BaseException as error:
            killed = isinstance(error, KeyboardInterrupt)
            with contextlib.suppress(Exception):  # what went wrong first is what is to be said
                self.close()
                self.publisher.close(self.monitor.groups(), {}, "KILLED" if killed else "FAILED")
            raise


@dataclass(frozen=True)
class Trained:
    """The result of the training phase: the search's records with the model's predictions, the confirmation,
    if any, and the seconds that the search took without it."""

    records: SearchRecords
    confirmation: Confirmation | None
    wall: float


@dataclass(frozen=True)
class Session:
    """A driver session."""

    opened: SearchFolder
    experiment: Experiment
    resources: Resources
    tracker: Tracker
    console: Console

    @property
    def settings(self) -> Settings:
        return self.opened.settings

    @property
    def folder(self) -> Path:
        return self.opened.path

    @property
    def plan(self) -> Plan:
        return self.experiment.plan

    def run(self) -> int:
        """Run the session; returns the exit status. Raises ConfigError if the search cannot be resumed with
        this training setup, FolderError if the search to warm-start from is missing."""
        for name in self.tracker.sweep_others(self._broken_off):
            self._say(f"{'MLflow':<12} marked the runs of the interrupted search {name} as KILLED")
        settings = self.settings
        limits = Limits(settings.max_hours, settings.max_gpu_hours, settings.trial_gpus)
        with self._sole_driver(limits):
            core = self.prepare()
            cluster.connect(settings.address, self.resources.workers, self.resources.gpus)
            observers = self.observe(limits)
            with observers.ends_tracking_on_failure():
                trained = self.train(core, observers, limits)
                observers.close()
                if limits.interrupted:
                    return self.suspend(observers, limits.trouble)
                return self.conclude(trained, observers, limits.reached())

    def prepare(self) -> Core:
        """Open the decision core on the search's storage; reuse baselines and warm-start trials of earlier
        searches."""
        core = Core(self.opened.storage(say=self._say), self.folder.name, self.plan, self.experiment.setup)
        self._check_same_training(core)
        if self.settings.reuse_baselines:
            for quality, source in reuse_baselines(core, self.opened).items():
                self._say(f"{'reused':<12} baseline of quality {quality} from {source}")
        if self.settings.warm_start is not None:
            if not core.has_learnt:
                earlier = find_folder(self.settings.warm_start, Path(self.settings.results))
                core.learn_from(SearchFolder.read(earlier).trials(), earlier.resolve().name)
            known = len(core.earlier())
            self._say(f"{'warm start':<12} the sampler uses {known} trials of {self.settings.warm_start}")
        return core

    def _check_same_training(self, core: Core) -> None:
        """Raises ConfigError if the search was started with another training setup."""
        own, test_set = self.experiment.setup, self.experiment.test_set
        setups = {trial.user_attrs.get(SETUP) for trial in core.baselines.get_trials(deepcopy=False)}
        if not setups <= {own} or self.opened.environment.get(TEST_SET, test_set) != test_set:
            source = "the source file of its model, " if is_own(self.settings.model) else ""
            raise ConfigError(
                f"cannot resume {self.folder}: its images, its initial weights, {source}or the versions of "
                "torch or compressai have changed; start a new search with --warm-start"
            )

    def observe(self, limits: Limits) -> Observers:
        """Start the observers, which also stop the search before a disk is full. Training time of earlier
        sessions counts towards the limits."""
        followed = Followed(self.opened, self.plan, self.experiment.test_set, self.resources.workers)
        before = followed.reader().read()
        limits.spent(before.seconds("train") + before.seconds("eval"))
        view = view_for(self.console)
        publisher = Publisher(self.tracker, self.plan.strategies, view.say, open_logs(self.opened, view.say))
        gauges = Gauges(self.folder.name, self.settings.batch * self.settings.steps_per_epoch)
        if gauges.label != self.folder.name:
            view.say(
                f"{'metrics':<12} Prometheus label of this search: {gauges.label} (Ray allows only ASCII)"
            )
        checkpoints = self.opened.checkpoints
        places = [self.folder, *([Path(checkpoints.root)] if checkpoints.is_local else [])]
        watch = disk.watch(places, self.resources.need, limits.halt)
        retention = Retention(checkpoints, self.plan.fork)
        monitor = Monitor(followed, publisher, view, retention, gauges, watch)
        return Observers(view, publisher, retention, monitor)

    def train(self, core: Core, observers: Observers, limits: Limits) -> Trained:
        """Train baselines and trials; then, with --confirm and if the budget is spent, confirm the best
        points. Disconnects from Ray at the end."""
        view, monitor, started = observers.view, observers.monitor, time.monotonic()
        try:
            with ends_on_signal(limits, view.say):
                scheduler: engine.TrialScheduler = WithNoise(core) if self.plan.noise_seeds else core
                self._execute(scheduler, monitor.changed, limits, TRIALS_FOLDER)
                wall = time.monotonic() - started
                records, confirmation = self._with_expectations(core, monitor.records()), None
                spent = len(records.trials) == self.plan.budget
                if self.settings.confirm and spent and not limits.reached():
                    confirmation = self._confirmation(records)
                    followup = Followup(confirmation, monitor, view.say)
                    what = announced(self.settings.confirm, self.settings.seeds, monitor.confirming)
                    view.say(f"{'confirming':<12} {what}")
                    self._execute(confirmation, followup.changed, limits, CONFIRMATION)
                return Trained(records, confirmation, wall)
        finally:
            cluster.disconnect()

    def _execute(
        self, scheduler: engine.TrialScheduler, changed: Callable[[], None], limits: Limits, subfolder: str
    ) -> None:
        """Train what a scheduler suggests; restarts a local Ray that dies, a few times. Raises
        RayDiedError."""
        settings, resources = self.settings, self.resources
        configure = functools.partial(engine.training_config_of, template=self.experiment.template)
        execution = engine.Execution(
            self.opened.checkpoints, self._capacity, settings.trial_gpus, settings.retries
        )
        for left in range(_RAYS, -1, -1):
            try:
                engine.run(scheduler, configure, changed, limits, execution, subfolder)
                return
            except RayDiedError as error:
                if limits.interrupted:  # the signal that ended the search has ended Ray as well
                    return
                if settings.address or not left:
                    raise RayDiedError(f"{error}; {self._how_to_resume()}") from error
                self._say(f"{error}; restarting it, the search continues from its last epochs")
                cluster.disconnect()
                cluster.connect(None, resources.workers, resources.gpus)

    @property
    def _capacity(self) -> Callable[[], int]:
        """The number of concurrent training runs; on a cluster its capacity, limited by --workers."""
        if self.settings.address:
            return cluster.TrialCapacity(self.settings.trial_gpus, self.settings.workers)
        return lambda: self.resources.workers

    def _with_expectations(self, core: Core, records: SearchRecords) -> SearchRecords:
        noise = core.noise()
        model = believe(core.trials, self.plan, core.earlier(), noise)
        expected = expected_of(model, core.trials)
        return dataclasses.replace(
            records,
            expected={trial_name(number): value for number, value in expected.items()},
            without_ms_ssim=self.opened.environment.get(WITHOUT_MS_SSIM, ""),
            measured_noise=measured_noise(noise),
            fitted_noise={} if model is None else model.seed_noise(),
        )

    def _confirmation(self, records: SearchRecords) -> Confirmation:
        points = points_to_confirm(records, self.plan, self.settings.confirm or 0, self.settings.seeds)
        storage, test_set = self.opened.storage(), self.experiment.test_set
        return Confirmation(storage, self.folder.name, self.plan, points, test_set)

    def suspend(self, observers: Observers, trouble: str) -> int:
        """End the session of an interrupted search, or of one stopped by `trouble`; print how to resume it
        and return the exit status."""
        observers.publisher.close(observers.monitor.groups(), {}, "KILLED")
        self._say(f"{f'stopped: {trouble}' if trouble else 'interrupted'}; {self._how_to_resume()}")
        return HALTED if trouble else INTERRUPTED

    def conclude(self, trained: Trained, observers: Observers, ended_by: str) -> int:
        """Write and print the results, save the best checkpoints, write the report, and end the MLflow run;
        returns the exit status. `ended_by`: the limit that ended the search, or empty."""
        records, monitor, fresh = trained.records, observers.monitor, ConfirmedResults()
        if trained.confirmation is not None:
            fresh = confirmed_results(trained.confirmation.repetitions(), records)
            records = replace(records, outcomes=fresh.outcomes)
        by_strategy = results.strategy_results(records, self.plan.strategies)
        results.write_tables(records, by_strategy, self.folder / "tables")
        lacking = conclusion.keep_best(records, self.opened.checkpoints, self.folder / "best")
        effort = summary.effort(
            records, trained.wall, self.resources.workers, monitor.peak_memory, monitor.since
        )
        status = self._show_results(records, by_strategy, effort, ended_by)
        for sentence in lacking:
            self._say(sentence)
        if trained.confirmation is not None:
            conclusion.conclude_confirmation(self.folder, fresh, records.test_set, self.console)
        self._say("writing the report ...")
        made = conclusion.make_report(self.folder)
        conclusion.store_results(self.opened, self._say)
        figures = results.parent_figures(by_strategy, records.test_set)
        self._end_tracking(observers, figures, _MLFLOW_STATUS.get(status, "FAILED"))
        conclusion.closing(self.opened, records, fresh, made, self.console)
        return status

    def _show_results(
        self, records: SearchRecords, by_strategy: list[results.StrategyResult], effort: str, ended_by: str
    ) -> int:
        """Print the tables; returns the exit status."""
        self._say("")
        if failure := conclusion.all_failed(records):
            self._say(failure)
            return ALL_FAILED
        summary.show(records, by_strategy, self.console)
        self._say(effort)
        started, budget = len(records.trials), self.plan.budget
        if ended_by:
            self._say(f"stopped: {ended_by}; {started} of {budget} trials were started")
        self._say(f"best checkpoints: {self.folder / 'best'}, tables: {self.folder / 'tables'}")
        return INTERRUPTED if started < budget and not ended_by else DONE

    def _end_tracking(self, observers: Observers, figures: dict[str, float], status: str) -> None:
        """End the search's MLflow run, and report what MLflow lacks."""
        if not observers.publisher.close(observers.monitor.groups(), figures, status):
            self._say(
                f"MLflow is unreachable and lacks the last records; to add them later: "
                f"{command('search.track', self.folder, '--rebuild')}"
            )
        for name, reason in self.tracker.refused.items():
            self._say(f"MLflow rejects {name} ({reason}); it is recorded in the results folder")

    @contextlib.contextmanager
    def _sole_driver(self, limits: Limits) -> Iterator[None]:
        """Ensure that this is the only driver on all machines if the trials are in a shared database;
        otherwise the folder's lock is enough."""
        if self.settings.study is None or sqlite_file(self.settings.study) is not None:
            yield
            return
        study = make_studies(self.opened.storage(say=self._say), self.folder.name)[0]
        with signs_of_life(study, self._say, limits.halt):
            yield

    def _broken_off(self, name: str) -> bool:
        """Whether a search with this name is in the same results folder and not running."""
        folder = self.folder.parent / name
        return folder.is_dir() and folder != self.folder and not is_running(folder)

    def _how_to_resume(self) -> str:
        return f"to resume: {command('search.run', '--resume', self.folder)}"

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False)
