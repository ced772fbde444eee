"""Confirmation: the best points of a search and the baselines, retrained on fresh seeds.

A search selects the best of many noisy measurements on one seed, which is optimistic. An unbiased result
needs seeds that were not used for the selection. Points get one seed after another until their interval
decides (search.records.confirmed), or a limit is reached.
"""

from __future__ import annotations

from dataclasses import replace

import optuna
from optuna.storages import BaseStorage, get_storage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.base.space import (
    BASELINE,
    CONFIRMATION,
    Candidate,
    Plan,
    baseline_name,
    confirmation_name,
    repeated_name,
)
from search.decide.objective import Columns
from search.decide.readings import attributes_of, images_of, readings_of
from search.records.confirmed import (
    UNDECIDED,
    Confirmed,
    Repetitions,
    baselines_needed,
    by_point,
)
from search.records.search_records import SearchRecords
from search.store.optuna_internals import id_of_trial, storage_of
from search.store.storage import Mirror


def points_to_confirm(records: SearchRecords, plan: Plan, best: int, seeds: int) -> list[Candidate]:
    """The training runs of a confirmation at most: for each of the next `seeds` seeds, the baselines and then
    the `best` finished trials of each quality, ordered by their predicted rate change."""
    found = []
    for seed in range(plan.seed + 1, plan.seed + 1 + seeds):
        found += baselines_on(plan, seed)
        for quality in records.qualities:
            rivals = records.finished(quality)
            for _ in range(best):
                record = records.best(rivals)
                if record is None:
                    break
                rivals.remove(record)
                name = repeated_name(record.name, seed)
                found.append(Candidate(name, CONFIRMATION, record.point, seed))
    return found


def baselines_on(plan: Plan, seed: int) -> list[Candidate]:
    """The baselines of all qualities on a fresh seed."""
    names = {quality: repeated_name(baseline_name(quality), seed) for quality in plan.qualities}
    return [Candidate(name, BASELINE, plan.point(q), seed) for q, name in names.items()]


class FixedSchedule:
    """A scheduler with the interface of the decision core for a fixed list of training runs on fresh seeds,
    which are neither stopped nor forked."""

    def __init__(
        self, storage: BaseStorage | str, name: str, plan: Plan, candidates: list[Candidate]
    ) -> None:
        self.plan, self.candidates = replace(plan, fork=0), candidates
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        mirror = storage if isinstance(storage, Mirror) else Mirror(get_storage(storage))
        self.study = optuna.create_study(
            storage=mirror, study_name=confirmation_name(name), load_if_exists=True
        )

    def suggest(self) -> Candidate | None:
        """The next training run that can start, or None."""
        states = self._states()
        candidate = next((c for c in self._left(states) if self._can_start(c, states)), None)
        if candidate is not None:
            attributes = {**candidate.as_row(), "lambda": candidate.lmbda}
            self.study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=attributes))
        return candidate

    def _due(self) -> list[Candidate]:
        """The training runs that are needed so far, or have started: all at once."""
        return self.candidates

    def _left(self, states: dict[str, TrialState]) -> list[Candidate]:
        return [candidate for candidate in self._due() if candidate.name not in states]

    def _can_start(self, candidate: Candidate, states: dict[str, TrialState]) -> bool:
        """Whether the baseline that a training run starts from, if any (Plan.above), has ended."""
        above = self.plan.above(candidate.quality)
        state = None if above is None else states.get(repeated_name(baseline_name(above), candidate.seed))
        return above is None or (state is not None and state.is_finished())

    def waits(self) -> bool:
        """Whether other training runs must end before one that is left can start, or before it is known
        whether one is left."""
        return self.plan.chain and bool(self._left(self._states()))

    def unfinished(self) -> list[Candidate]:
        """The training runs that have started and not ended."""
        running = {t.user_attrs["name"] for t in self._trials() if t.state == TrialState.RUNNING}
        return [candidate for candidate in self.candidates if candidate.name in running]

    def observe(
        self,
        name: str,
        epoch: int,
        figures: dict[str, float],
        images: dict[str, list[float]] | None = None,
    ) -> None:
        trial = self._find(name)
        if trial.state.is_finished() or epoch in readings_of(trial):
            return  # as the core's (search.decide.core.Core.observe)
        for key, value in attributes_of(epoch, figures, images).items():
            storage_of(self.study).set_trial_user_attr(id_of_trial(trial), key, value)

    def decide(self, name: str, epoch: int) -> bool:
        """Whether the training run continues: yes, until the last epoch."""
        trial = self._find(name)
        if trial.state.is_finished():
            return False
        if epoch < self.plan.epochs:
            return True
        self.study.tell(trial.number, 0.0)
        return False

    def fail(self, name: str, reason: str) -> None:
        """Record that a training run failed, and why."""
        trial = self._find(name)
        if trial.state == TrialState.RUNNING:
            storage_of(self.study).set_trial_user_attr(id_of_trial(trial), "reason", reason)
            self.study.tell(trial.number, state=TrialState.FAIL)

    end = fail

    def close(self) -> None:
        """Mark unfinished training runs as failed."""
        for trial in self._trials():
            if trial.state == TrialState.RUNNING:
                self.fail(trial.user_attrs["name"], "interrupted")

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _states(self) -> dict[str, TrialState]:
        return {trial.user_attrs["name"]: trial.state for trial in self._trials()}

    def _find(self, name: str) -> FrozenTrial:
        return next(trial for trial in self._trials() if trial.user_attrs["name"] == name)


#: Seeds of a point that are trained before its interval is looked at.
_FIRST_LOOK = 2


class Confirmation(FixedSchedule):
    """The scheduler of a confirmation. A point gets another seed while its interval on the test set does not
    exclude 0, up to as many as the candidates have. All baselines are trained on the first two seeds, for the
    BD-rate, and then those that an undecided point is compared with. That depends on the recorded training
    runs alone."""

    def __init__(
        self, storage: BaseStorage | str, name: str, plan: Plan, candidates: list[Candidate], test_set: str
    ) -> None:
        super().__init__(storage, name, plan, candidates)
        self.test_set, self.limit = test_set, len({candidate.seed for candidate in candidates})
        self._points = by_point(candidates)
        #: Results by the names of the complete training runs that they are of: computing one takes a while.
        self._known: dict[tuple[str, ...], Confirmed] = {}
        self._columns: dict[str, Columns] = {}

    def _due(self) -> list[Candidate]:
        states = self._states()
        due = set()
        for trial, runs in self._points.items():
            started = [run for run in runs if run.name in states]
            more = [run for run in runs if run.name not in states][:1]
            if len(started) >= _FIRST_LOOK and not (self._over(started, states) and self._is_open(trial)):
                more = []
            for run in (*started, *more):
                due |= {run.name, *self._with_baselines(run)}
        return [candidate for candidate in self.candidates if candidate.name in due]

    def waits(self) -> bool:
        if super().waits():
            return True
        states = self._states()
        for runs in self._points.values():
            started = [run for run in runs if run.name in states]
            if len(started) < len(runs) and not self._over(started, states):
                return True
        return False

    def _over(self, runs: list[Candidate], states: dict[str, TrialState]) -> bool:
        """Whether these training runs have ended, and the baselines that they are compared with."""
        names = {name for run in runs for name in (run.name, *baselines_needed(self.plan, run))}
        return all(name in states and states[name].is_finished() for name in names)

    def _is_open(self, trial: str) -> bool:
        result = self._result(trial)
        return result is None or result.outcome == UNDECIDED

    def _result(self, trial: str) -> Confirmed | None:
        """What is known of a point."""
        repetitions = self.repetitions()
        runs = repetitions.complete(self._points[trial])
        names = {name for run in runs for name in (run.name, *baselines_needed(self.plan, run))}
        key = (trial, *sorted(names & repetitions.columns.keys()))
        if key not in self._known and runs:
            found = repetitions.result(trial, runs, self.test_set)
            assert found is not None
            self._known[key] = found
        return self._known.get(key)

    def decided(self) -> list[Confirmed]:
        """The points that are decided before they have all seeds."""
        states, found = self._states(), []
        for trial, runs in self._points.items():
            started = [run for run in runs if run.name in states]
            if _FIRST_LOOK <= len(started) < len(runs) and self._over(started, states):
                result = self._result(trial)
                if result is not None and result.outcome != UNDECIDED:
                    found.append(result)
        return found

    def most(self) -> int:
        """The number of training runs, those that have started and all that may still be needed."""
        names, decided = set(self._states()), {result.trial for result in self.decided()}
        for trial, runs in self._points.items():
            if trial not in decided:
                names |= {name for run in runs for name in (run.name, *self._with_baselines(run))}
        return len(names)

    def _with_baselines(self, run: Candidate) -> list[str]:
        """The names of the baselines that are trained along with a training run of a point: all of its seed
        at first, then those that it is compared with, and those that it or they start from (Plan.above)."""
        baselines = [c for c in self.candidates if c.seed == run.seed and c.role == BASELINE]
        if run.seed > self.plan.seed + _FIRST_LOOK:
            needed = baselines_needed(self.plan, run)
            lowest = min([run.quality, *(c.quality for c in baselines if c.name in needed)])
            chained = self.plan.chain
            baselines = [c for c in baselines if c.name in needed or (chained and c.quality > lowest)]
        return [c.name for c in baselines]

    def repetitions(self) -> Repetitions:
        """What the training runs measured."""
        for trial in self._trials():
            name = trial.user_attrs["name"]
            if trial.state == TrialState.COMPLETE and name not in self._columns:
                self._columns[name] = images_of(trial)[self.plan.epochs]
        return Repetitions(self.plan, self.candidates, self._columns, self.limit)
