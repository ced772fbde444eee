"""One sitting of a search: from its open folder to its last line, or to the point where it can go on."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from lic import atomic_io
from lic.cli import command
from lic.training.trial import TrialConfig
from search.base.formats import interval
from search.base.limits import Limits
from search.base.secrets import PublicFormatter
from search.base.signals import ends_on_signal
from search.base.space import CONFIRMATION, Plan, trial_name
from search.decide.core import SETUP, Core, make_studies
from search.decide.recommend import predictions
from search.engine import cluster
from search.engine import tune as engine
from search.engine.cluster import RayDiedError
from search.records import confirm, results
from search.records.confirm import Confirmation, points_to_confirm
from search.records.folder import SearchFolder
from search.records.search_records import FAILED, SearchRecords, read_records
from search.session import summary
from search.session.metrics import Gauges
from search.session.monitor import Monitor, start_report
from search.session.reuse import reuse_baselines
from search.session.terminal import View, view_for
from search.settings.complaints import ConfigError
from search.settings.config import Settings
from search.store import disk
from search.store.checkpoints import Checkpoints, refusal
from search.store.find import TRIALS_FOLDER, find_folder
from search.store.lock import is_running, signs_of_life
from search.store.provenance import TEST_SET, WITHOUT_MS_SSIM
from search.store.storage import sqlite_file
from search.tracking.publishing import Publisher
from search.tracking.tracker import Tracker

DONE, ALL_FAILED, HALTED, INTERRUPTED = 0, 1, 2, 130

#: How often a Ray on this machine that died is started again.
_RAYS = 10

_MLFLOW_STATUS = {DONE: "FINISHED", INTERRUPTED: "KILLED"}


@dataclass(frozen=True)
class Session:
    """What a sitting needs. `setup` is the fingerprint of the training (search.session.reuse)."""

    settings: Settings
    plan: Plan
    template: TrialConfig
    setup: str
    test_set: str
    workers: int
    gpus: int
    folder: Path
    tracker: Tracker
    console: Console
    need: disk.Need
    opened: SearchFolder

    def run(self) -> int:
        """Train what is left to train, and conclude; the exit status. Raises ConfigError if the search cannot
        go on with this training, FolderError if there is no search to start warm from."""
        for name in self.tracker.sweep_others(self._broken_off):
            self._say(f"{'MLflow':<12} the runs of {name}, which was broken off, are KILLED now")
        limits = Limits(self.settings.max_hours, self.settings.max_gpu_hours, self.settings.gpus_per_trial)
        with self._sole_driver(limits):
            return self._run(limits)

    def _train(self, decisions: engine.TrialScheduler, limits: Limits, **options: Any) -> None:
        """Train, also if the Ray that was started here dies on the way; a few times."""
        for left in range(_RAYS, -1, -1):
            try:
                engine.run(decisions, limits=limits, **options)
                return
            except RayDiedError as error:
                if limits.interrupted:  # the signal that ended the search has ended Ray as well
                    return
                if self.settings.address or not left:
                    hint = f"to go on: {command('search.run', '--resume', self.folder)}"
                    raise RayDiedError(f"{error}; {hint}") from error
                self._say(f"{error}; it is started again, and the search goes on from its last epochs")
                cluster.disconnect()
                cluster.connect(None, self.workers, self.gpus)

    @contextlib.contextmanager
    def _sole_driver(self, limits: Limits) -> Iterator[None]:
        """Be the only driver on all machines if others reach the trials; else the folder's lock is enough."""
        if self.settings.study is None or sqlite_file(self.settings.study) is not None:
            yield
            return
        study = make_studies(self.opened.storage(say=self._say), self.folder.name)[0]
        with signs_of_life(study, self._say, limits.halt):
            yield

    def _run(self, limits: Limits) -> int:
        core = self._open_core()
        cluster.connect(self.settings.address, self.workers, self.gpus)
        settings, checkpoints = self.settings, self.opened.checkpoints
        before = read_records((core.trials, core.baselines), self.plan, self.test_set)
        limits.spent(before.seconds("train") + before.seconds("eval"))
        view = view_for(self.console)
        publisher = Publisher(self.tracker, self.plan.strategies, view.say)
        monitor = self._monitor(publisher, view, limits)
        train = functools.partial(
            self._train,
            configure=functools.partial(engine.training_config_of, template=self.template),
            changed=monitor.changed,
            limits=limits,
            checkpoints=checkpoints,
            room=self._room,
            gpus_per_trial=settings.gpus_per_trial,
            retries=settings.retries,
        )
        confirmation, started = None, time.monotonic()
        try:
            try:
                with ends_on_signal(limits, view.say):
                    train(core)
                    wall = time.monotonic() - started  # without what is confirmed after it
                    records = self._with_expectations(core, monitor.records())
                    if settings.confirm and len(records.trials) == self.plan.budget and not limits.reached():
                        confirmation = self._confirmation(records)
                        monitor.confirming = len(confirmation.candidates)
                        seeds = f"{settings.seeds} fresh seeds"
                        view.say(f"{'confirming':<12} {monitor.confirming} trainings on {seeds}")
                        train(confirmation, subfolder=CONFIRMATION)
            finally:
                cluster.disconnect()
            monitor.close()
            if limits.interrupted:
                publisher.close(monitor.groups(), {}, "KILLED")
                why = f"ended because {limits.trouble}" if limits.trouble else "interrupted"
                self._say(f"{why}; to go on: {command('search.run', '--resume', self.folder)}")
                return HALTED if limits.trouble else INTERRUPTED
            effort = summary.effort(records, wall, self.workers, monitor.peak_memory, monitor.since)
            by_strategy, status = self._say_what_was_found(records, checkpoints, effort, limits.reached())
            if confirmation is not None:
                self._conclude_confirmation(confirmation, records)
            made = self._make_report()
            figures = results.parent_figures(by_strategy, self.test_set)
            self._end_tracking(publisher, monitor, figures, _MLFLOW_STATUS.get(status, "FAILED"))
            self._say_what_is_next(made)
            return status
        except BaseException as error:
            killed = isinstance(error, KeyboardInterrupt)
            with contextlib.suppress(Exception):  # what went wrong first is what is to be said
                monitor.close()
                publisher.close(monitor.groups(), {}, "KILLED" if killed else "FAILED")
            raise

    def _monitor(self, publisher: Publisher, view: View, limits: Limits) -> Monitor:
        """What follows the search from now on; it ends the search in time when a disk fills."""
        gauges = Gauges(self.folder.name, self.settings.batch * self.settings.steps_per_epoch)
        if gauges.label != self.folder.name:
            view.say(
                f"{'metrics':<12} the search is called {gauges.label} there, since Ray takes ASCII alone"
            )
        checkpoints = self.opened.checkpoints
        places = [self.folder, *([Path(checkpoints.root)] if checkpoints.is_local else [])]
        watch = disk.watch(places, self.need, limits.halt)
        return Monitor(self.opened, self.plan, self.test_set, self.workers, publisher, view, gauges, watch)

    def _say_what_was_found(
        self, records: SearchRecords, checkpoints: Checkpoints, effort: str, ended_by: str
    ) -> tuple[list[results.StrategyResult], int]:
        """Write and print the tables, and keep the best checkpoints; the figures by strategy, and the exit
        status."""
        by_strategy = results.strategy_results(records, self.plan.strategies)
        results.write_tables(records, by_strategy, self.folder / "tables")
        lacking = keep_best(records, checkpoints, self.folder / "best")
        status = self._say_results(records, by_strategy, effort, ended_by)
        for sentence in lacking:
            self._say(sentence)
        return by_strategy, status

    def _make_report(self) -> bool:
        """Make the report, and put all that was found beside the checkpoints; whether there is a report."""
        self._say("making the report ...")
        with start_report(self.folder) as process:
            try:
                made = process.wait() == DONE
            except BaseException:
                process.kill()
                raise
        self._store_results()
        return made

    def _say_what_is_next(self, has_report: bool) -> None:
        report = f"report in {self.folder / 'report.html'}, its figures in {self.folder / 'figures'}"
        lacking = f"the report could not be made; see {self.folder / 'search.log'}"
        self._say(
            f"{report if has_report else lacking}\n"
            f"next: {command('dashboards.open', self.folder)}\n"
            f"      {command('search.export', self.folder, '--verify')}"
        )

    @property
    def _room(self) -> Callable[[], int]:
        """How many trainings may run at once: on a cluster as many as there is room for, unless told."""
        if self.settings.address:
            return cluster.TrialCapacity(self.settings.gpus_per_trial, self.settings.workers)
        return lambda: self.workers

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def _broken_off(self, name: str) -> bool:
        """Whether a search of this name is in the same results folder, and no process is at work on it."""
        folder = self.folder.parent / name
        return folder.is_dir() and folder != self.folder and not is_running(folder)

    def _open_core(self) -> Core:
        storage = self.opened.storage(say=self._say)
        core = Core(storage, self.folder.name, self.plan, self.setup)
        setups = {trial.user_attrs.get(SETUP) for trial in core.baselines.get_trials(deepcopy=False)}
        test_set = self.opened.environment.get(TEST_SET, self.test_set)
        if not setups <= {self.setup} or test_set != self.test_set:
            raise ConfigError(
                f"{self.folder} cannot go on: its images, the weights it starts from, or the versions of "
                "torch or compressai are not those it began with; start a new search with --warm-start"
            )
        if self.settings.reuse_baselines:
            for quality, source in reuse_baselines(core, self.opened).items():
                self._say(
                    f"{'reused':<12} the baseline of quality {quality}, trained the same way in {source}"
                )
        if self.settings.warm_start is not None:
            if not core.has_learnt:
                earlier = find_folder(self.settings.warm_start, Path(self.settings.results))
                core.learn_from(SearchFolder.read(earlier).trials(), earlier.resolve().name)
            known = len(core.earlier())
            self._say(f"{'warm start':<12} {known} trials of {self.settings.warm_start} inform the sampler")
        return core

    def _with_expectations(self, core: Core, records: SearchRecords) -> SearchRecords:
        expected = predictions(core.trials, self.plan, core.earlier())
        by_name = {trial_name(number): value for number, value in expected.items()}
        without_ms_ssim = self.opened.environment.get(WITHOUT_MS_SSIM, "")
        return dataclasses.replace(records, expected=by_name, without_ms_ssim=without_ms_ssim)

    def _confirmation(self, records: SearchRecords) -> Confirmation:
        points = points_to_confirm(records, self.plan, self.settings.confirm or 0, self.settings.seeds)
        return Confirmation(self.opened.storage(), self.folder.name, self.plan, points)

    def _say_results(
        self, records: SearchRecords, by_strategy: list[results.StrategyResult], effort: str, ended_by: str
    ) -> int:
        """The tables in the terminal; the exit status."""
        self._say("")
        for kind, trained in (("trial", records.trials), ("baseline", [*records.baselines.values()])):
            if trained and all(record.state == FAILED for record in trained):
                self._say(f"every {kind} failed; the first said: {trained[0].reason}")
                return ALL_FAILED
        summary.show(records, by_strategy, self.console)
        self._say(effort)
        started, budget = len(records.trials), self.plan.budget
        if ended_by:
            self._say(f"ended because {ended_by}: {started} of {budget} trials were started")
        self._say(f"best checkpoints in {self.folder / 'best'}, tables in {self.folder / 'tables'}")
        return INTERRUPTED if started < budget and not ended_by else DONE

    def _store_results(self) -> None:
        """Put what the search found beside its checkpoints, if those are elsewhere."""
        place = self.opened.checkpoints
        try:
            place.keep(self.folder, "tables", "best", "report.html")
        except OSError as error:
            why = refusal(place.storage, error)
            self._say(f"tables, best checkpoints and report are only in {self.folder}, not at {place}: {why}")

    def _conclude_confirmation(self, confirmation: Confirmation, records: SearchRecords) -> None:
        """The confirmed points: table, file, and BD-rates over seeds and images."""
        found = confirm.confirmed(confirmation, records.test_set)
        table = confirm.table_of(found).to_csv(index=False)
        atomic_io.write(self.folder / "tables" / "confirmation.csv", table)
        self.console.print(summary.confirmation(found, records.test_set))
        for label, figure in confirm.bd_rates(confirmation, records).items():
            text = figure if isinstance(figure, str) else interval(figure)
            self._say(f"{label} of the search's choice on fresh seeds: {text}")

    def _end_tracking(
        self, publisher: Publisher, monitor: Monitor, figures: dict[str, float], status: str
    ) -> None:
        if not publisher.close(monitor.groups(), figures, status):
            self._say(
                f"MLflow does not answer and lacks the last records; once it does: "
                f"{command('search.track', self.folder, '--rebuild')}"
            )
        for name, reason in self.tracker.refused.items():
            self._say(f"MLflow refuses {name} ({reason}); the results folder has it")


def join_cluster(settings: Settings, folder: Path) -> None:
    """Be on the cluster that the settings name, all of whose nodes must be fit for the search in this folder.
    Raises ClusterError."""
    cluster.connect(settings.address)
    given = (settings.data, settings.kodak, settings.test, settings.start)
    setting = "--storage" if settings.storage else "--results"
    place = Checkpoints(settings.storage or str(folder.resolve()))
    cluster.check_nodes(place, setting, [Path(path) for path in given if path and Path(path).exists()])


def log_to(path: Path) -> None:
    """Send what libraries have to say to a file: the terminal is for the search."""
    handler = logging.FileHandler(path)
    handler.setFormatter(PublicFormatter("%(asctime)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a log that cannot be written is no reason to fill the terminal


def keep_best(records: SearchRecords, checkpoints: Checkpoints, best: Path) -> list[str]:
    """Copy the last checkpoint of the kept point of every rate to best/qN.pt, with an index of them; of every
    rate that lacks one, a sentence. What an earlier sitting kept of the same point stays."""
    best.mkdir(exist_ok=True)
    listed = best / "index.json"
    try:
        earlier = json.loads(listed.read_text())
    except (OSError, ValueError):
        earlier = {}
    index, lacking = {}, []
    for quality, record in results.best_per_rate(records).items():
        target = best / f"q{quality}.pt"
        try:
            checkpoints.newest(f"{TRIALS_FOLDER}/{record.name}").copy_to(target)
        except OSError as error:
            if not target.is_file() or earlier.get(target.name, {}).get("trial") != record.name:
                target.unlink(missing_ok=True)
                lacking.append(
                    f"quality {quality} has no best checkpoint: {_cannot_copy(record.name, error)}"
                )
                continue
        index[target.name] = {"trial": record.name, "lambda": record.lmbda, "alpha": record.alpha,
                              "strategy": record.strategy, "seed": record.seed,
                              "figures": record.readings[records.epochs]}  # fmt: skip
    atomic_io.write(listed, json.dumps(index, indent=2) + "\n")
    return lacking


def _cannot_copy(name: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and error.errno is None:
        return str(error)  # what Checkpoints.newest says
    return f"that of {name} cannot be copied ({error})"
