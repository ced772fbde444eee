"""The decision core: three verbs over Optuna's storage, and no other state.

`suggest()` gives the next training, `observe()` records what one measured, `decide()` says whether
it goes on. A new process that opens the storage decides as the old one would have.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import optuna
from optuna.storages import BaseStorage, get_storage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.base.space import (
    BASELINE,
    TRIAL,
    Candidate,
    Plan,
    baseline_name,
    trial_name,
)
from search.decide.belief import FORK, MOST_TRIALS, VARIANCE, SurrogateModel
from search.decide.noise import NoiseReading, noise_readings
from search.decide.objective import Reading, compared_baselines, has_value, rate_change
from search.decide.parameters import ask, is_inside
from search.decide.readings import attributes_of, baseline_at, has_reading, reading_at, readings_of
from search.decide.sampler import RateSampler, fitted, make_sampler
from search.decide.stopping import owed, should_stop, worth_finishing
from search.store.optuna_internals import id_of_study, id_of_trial, storage_of
from search.store.storage import Mirror

#: Prefix of the user attribute of a trial that is set for the epochs whose rate change is by lambda's slope,
#: since the baselines made no curve there.
BY_LAMBDA = "by_lambda:"

#: User attribute of a trial: the last rung that it passed.
_PASSED = "passed"

#: User attributes of a baseline: how it was trained, and the search it was taken from.
SETUP, SOURCE = "setup", "source"

#: User attribute of a trial that was copied from another search: its number there.
_NUMBER = "source_number"

#: User attribute of the study of copied trials, once all are there: the search they were copied from.
_LEARNT = "learnt_from"


def make_studies(storage: BaseStorage | str, name: str) -> tuple[optuna.Study, optuna.Study]:
    """The study of a search's trials, and the study of its baselines; they are made if they are not there.

    Baselines have no alpha, so they stay out of the trials' study: samplers would trip over them.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    make = functools.partial(optuna.create_study, storage=storage, load_if_exists=True)
    return make(study_name=name), make(study_name=_baselines_name(name))


def open_studies(storage: BaseStorage | str, name: str) -> tuple[optuna.Study, optuna.Study]:
    """The same two of a search that has begun; nothing is made. Raises KeyError if one is not there."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    load = functools.partial(optuna.load_study, storage=storage)
    return load(study_name=name), load(study_name=_baselines_name(name))


def _baselines_name(name: str) -> str:
    return f"{name}/baselines"


def _earlier_name(name: str) -> str:
    return f"{name}/earlier"


def earlier_trials(trials: optuna.Study) -> list[FrozenTrial]:
    """The trials of another search that the one with this study of trials learnt from (Core.learn_from)."""
    try:
        return _all(
            optuna.load_study(storage=storage_of(trials), study_name=_earlier_name(trials.study_name))
        )
    except KeyError:
        return []


def _all(study: optuna.Study) -> list[FrozenTrial]:
    # Not copied: read only, and the per-image columns are long.
    return study.get_trials(deepcopy=False)


class Core:
    """The decisions of one search. `storage` is an Optuna storage or its URL; `setup` a fingerprint of
    how it trains (search.session.reuse), kept with its baselines."""

    def __init__(self, storage: BaseStorage | str, name: str, plan: Plan, setup: str = "") -> None:
        self.plan, self.setup = plan, setup
        self._storage = Mirror(get_storage(storage))
        self._earlier: list[FrozenTrial] | None = None
        self._noise: list[NoiseReading] = []
        #: The qualities of the trials, by number.
        self._rates: list[int] = []
        self.trials, self.baselines = make_studies(self._storage, name)
        self._finish_what_was_cut_short()

    def _finish_what_was_cut_short(self) -> None:
        """What follows from readings whose process was killed before it had drawn it."""
        for trial in _all(self.baselines):
            if trial.state == TrialState.RUNNING and self.plan.epochs in readings_of(trial):
                self._tell(baseline_name(trial.user_attrs["quality"]), TrialState.COMPLETE, 0.0)
        for trial in _all(self.trials):
            if trial.state == TrialState.RUNNING:
                self._settle(trial)

    def earlier(self) -> list[FrozenTrial]:
        """The trials of another search that inform the sampler (`learn_from`)."""
        if self._earlier is None:
            self._earlier = _all(self._study_of_earlier())
        return self._earlier

    @property
    def has_learnt(self) -> bool:
        """Whether the trials of an earlier search were copied, all that there were to copy then."""
        study = self._study_of_earlier()
        # Former versions copied without noting numbers; what they had copied by their end has to do.
        return _LEARNT in study.user_attrs or any(_NUMBER not in trial.user_attrs for trial in _all(study))

    def noise(self) -> list[NoiseReading]:
        """What the baselines on other seeds say of the noise between seeds, so far."""
        if len(self._noise) < self.plan.noise_baselines:
            self._noise = noise_readings(self.trials, self.baselines, self.plan)
        return self._noise

    def learn_from(self, trials: list[FrozenTrial], source: str) -> None:
        """Let the trials of an earlier search, called `source`, inform the sampler, as far as they have ended
        and their strategies, rates and tuned values are among this one's: they are copied into its storage,
        each once, and the earlier search is not needed any more. After that it does nothing."""
        if self.has_learnt:
            return
        study = self._study_of_earlier()
        copied = {trial.user_attrs[_NUMBER] for trial in _all(study)}
        for trial in trials:
            useful = trial.state.is_finished() and trial.intermediate_values and self._plans(trial)
            if useful and trial.number not in copied:
                twin = copy.copy(trial)
                twin.user_attrs = {**trial.user_attrs, SOURCE: source, _NUMBER: trial.number}
                study.add_trial(twin)
        study.set_user_attr(_LEARNT, source)
        self._earlier = None

    def _plans(self, trial: FrozenTrial) -> bool:
        same_rate = trial.user_attrs["quality"] in self.plan.qualities
        # How far one was that left its baseline after all of this search's epochs, nothing here can say.
        fits = same_rate and trial.user_attrs.get(FORK, 0) < self.plan.epochs
        return fits and is_inside(self.plan, trial)

    def _study_of_earlier(self) -> optuna.Study:
        name = _earlier_name(self.trials.study_name)
        return optuna.create_study(storage=self._storage, study_name=name, load_if_exists=True)

    def suggest(self) -> Candidate | None:
        """The next training: the baselines first, then trials; None once the budget is spent or no
        rate has a baseline to compare with, and while the next trial's is not at the fork, or the next
        baseline's of a chain has not ended (`waits`)."""
        if (quality := self._next_baseline()) is not None:
            above = self.plan.above(quality)
            ready = above is None or self._has_ended(above)
            return self._start_baseline(quality) if ready else None
        qualities = self._open()
        return None if not qualities or self._awaited(qualities) else self._start_trial(qualities)

    def waits(self) -> bool:
        """Whether a training is left to suggest that can only begin once a baseline is at the fork, or has
        ended."""
        chained = self.plan.chain and self._next_baseline() is not None
        return chained or bool(self._awaited(self._open()))

    def _next_baseline(self) -> int | None:
        """The rate of the next baseline to start, the highest first if each starts from the one before; None
        if all were started."""
        qualities = reversed(self.plan.qualities) if self.plan.chain else self.plan.qualities
        return next((quality for quality in qualities if self.baseline(quality) is None), None)

    def _has_ended(self, quality: int) -> bool:
        baseline = self.baseline(quality)
        return baseline is not None and baseline.state.is_finished()

    def _open(self) -> list[int]:
        """The rates that the next trial may be of: none once the budget is spent, else those whose baseline
        has not failed."""
        if len(_all(self.trials)) >= self.plan.budget:
            return []
        failed = {t.user_attrs["quality"] for t in _all(self.baselines) if t.state == TrialState.FAIL}
        return [quality for quality in self.plan.qualities if quality not in failed]

    def _awaited(self, qualities: list[int]) -> list[int]:
        """The rates whose baselines the next trial, of one of these, has to wait for. At first the rates take
        turns, so that what is proposed does not depend on which baseline is the quickest; then, or if an
        earlier search is known, any of them may be chosen."""
        if not self.plan.fork:
            return []
        number = len(_all(self.trials))
        if number < len(qualities) and not self.earlier():
            qualities = qualities[number : number + 1]
        found = {quality: self.baseline(quality) for quality in qualities}
        return [q for q, b in found.items() if b is None or self.plan.fork not in readings_of(b)]

    def unfinished(self) -> list[Candidate]:
        """The trainings that were started and have neither ended nor been trained to their full length."""
        found = []
        for study in (self.baselines, self.trials):
            for trial in _all(study):
                attrs = trial.user_attrs
                whole = max(readings_of(trial), default=0) >= self.plan.epochs
                if trial.state != TrialState.RUNNING or whole:
                    continue
                role, quality, seed = attrs["role"], attrs["quality"], attrs["seed"]
                name = baseline_name(quality) if role == BASELINE else trial_name(trial.number)
                point = self.plan.point_of(quality, trial.params)
                found.append(Candidate(name, role, point, seed))
        return found

    def _start_baseline(self, quality: int) -> Candidate:
        attributes = {**self._description(BASELINE, quality), SETUP: self.setup}
        self.baselines.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=attributes))
        return Candidate(baseline_name(quality), BASELINE, self.plan.point(quality), self.plan.seed)

    def _start_trial(self, qualities: list[int]) -> Candidate:
        plan, number = self.plan, len(_all(self.trials))
        self.trials.sampler = make_sampler(plan, number, qualities, self.earlier(), self.noise())
        trial = self.trials.ask()
        quality = qualities[number % len(qualities)]
        if isinstance(self.trials.sampler, RateSampler):
            quality = trial.suggest_categorical("quality", plan.qualities)
        point = ask(trial, plan, quality)
        fork = {FORK: plan.fork} if plan.fork else {}
        for key, value in {**self._description(TRIAL, quality), **fork}.items():
            trial.set_user_attr(key, value)
        self._storage.keep(id_of_study(self.trials))
        return Candidate(trial_name(number), TRIAL, point, plan.seed)

    def _description(self, role: str, quality: int) -> dict[str, Any]:
        lmbda = self.plan.point(quality).lmbda
        return {"role": role, "quality": quality, "lambda": lmbda, "seed": self.plan.seed}

    def observe(
        self,
        name: str,
        epoch: int,
        figures: dict[str, float],
        images: dict[str, list[float]] | None = None,
    ) -> None:
        """Record what the training measured after `epoch`, and whatever follows from it: its own
        rate change, or, if it is a baseline, those of the trials that were waiting for it. `images`
        are per-image columns named as the figures are. What is known is not recorded again: a training that
        goes on from its checkpoint tells all that it ever measured."""
        trial = self._find(name)
        if trial.state.is_finished() or has_reading(trial, epoch):
            return
        with self._storage.together():
            for key, value in attributes_of(epoch, figures, images).items():
                self._keep(trial, key, value)
            if trial.user_attrs["role"] == TRIAL:
                self._settle(trial)
                return
            if epoch == self.plan.epochs:
                self._tell(name, TrialState.COMPLETE, 0.0)
            self._settle_waiting()

    def _settle_waiting(self) -> None:
        for waiting in _all(self.trials):
            if waiting.state == TrialState.RUNNING:
                self._settle(waiting)

    def _keep(self, trial: FrozenTrial, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(id_of_trial(trial), key, value)

    def _settle(self, trial: FrozenTrial) -> None:
        """Give a running trial the rate changes that the readings so far allow, and its end."""
        values, objective, selection = trial.intermediate_values, self.plan.objective, self.plan.selection
        for epoch in readings_of(trial):
            own = reading_at(trial, epoch)
            if epoch in values or not has_value(objective, own.metrics, selection, self.plan.distortion):
                continue  # a sparse cadence leaves epochs out
            quality = trial.user_attrs["quality"]
            compared = self._compared(quality, epoch)
            if compared is None:
                continue
            point, distortion = self.plan.point(quality), self.plan.distortion
            change = rate_change(objective, point, own, compared, selection, distortion)
            if change.variance is not None:
                self._keep(trial, f"{VARIANCE}{epoch}", change.variance)
            if change.by_lambda:
                self._keep(trial, f"{BY_LAMBDA}{epoch}", True)
            self._storage.set_trial_intermediate_value(id_of_trial(trial), epoch, change.value)
        if self.plan.epochs in values:
            self._tell(trial_name(trial.number), TrialState.COMPLETE, values[self.plan.epochs])

    def _compared(self, quality: int, epoch: int) -> dict[int, Reading] | None:
        """The baselines' readings that a trial's of this quality and epoch is compared with, by quality; None
        while one is missing."""
        plan = self.plan

        def reading(other: int) -> tuple[Reading, bool]:
            return baseline_at(self.baseline(other), epoch)

        return compared_baselines(
            plan.objective, quality, plan.qualities, reading, plan.selection, plan.distortion
        )

    def decide(self, name: str, epoch: int) -> bool:
        """Whether the training goes on after `epoch`.

        A baseline always does. A trial is stopped, and pruned in Optuna, at a rung where it is not
        among the best of its rate, or not worth finishing (search.decide.stopping); never on a value that
        has no baseline of the same epoch. A rung that was passed is not decided again.
        """
        trial = self._find(name)
        if trial.state.is_finished() or epoch >= self.plan.epochs:
            return False
        if trial.user_attrs["role"] == BASELINE or epoch not in self.plan.rungs:
            return True
        if epoch > trial.user_attrs.get(_PASSED, 0):
            if epoch in trial.intermediate_values and not self._goes_on(trial, epoch):
                self._tell(name, TrialState.PRUNED)
                return False
            self._keep(trial, _PASSED, epoch)
        return True

    def _goes_on(self, trial: FrozenTrial, epoch: int) -> bool:
        """The rule at a rung: rank among the readings there, or, once there is a model, what finishing
        is worth. Of a long search the rank is enough, and quicker."""
        theta, everything = fitted(self.trials, self.plan), _all(self.trials)
        if self.plan.sampler != "surrogate" or theta is None or len(everything) > MOST_TRIALS:
            # Looking it up in every trial would take most of the time of a long search.
            self._rates += [t.user_attrs["quality"] for t in everything[len(self._rates) :]]
            value, quality = trial.intermediate_values[epoch], trial.user_attrs["quality"]
            rivals = [t for t, rate in zip(everything, self._rates, strict=True) if rate == quality]
            rung = [t.intermediate_values[epoch] for t in rivals if epoch in t.intermediate_values]
            rung.remove(value)
            return not should_stop(value, rung, self.plan.eta)
        model = SurrogateModel(self.plan, everything, theta, self.earlier(), self.noise())
        finished = [t.user_attrs["quality"] for t in everything if t.state == TrialState.COMPLETE]
        is_owed = owed(finished.count(trial.user_attrs["quality"]), len(finished), len(self.plan.qualities))
        own = everything[trial.number]
        expected = model.expect([own])[0]
        return worth_finishing(
            trial.intermediate_values[epoch],
            model.expected_improvement(own),
            expected.mean / expected.std,
            is_owed,
        )

    def fail(self, name: str, reason: str) -> None:
        """Record that a training broke off, and why."""
        trial = self._find(name)
        if trial.state == TrialState.RUNNING:
            self._keep(trial, "reason", reason)
            self._tell(name, TrialState.FAIL)
            if trial.user_attrs["role"] == BASELINE:
                self._settle_waiting()  # on the curve of the others

    def end(self, name: str, reason: str) -> None:
        """Record that a training was ended before its time for a reason that is not its own."""
        trial = self._find(name)
        if trial.user_attrs["role"] == BASELINE:
            self.fail(name, reason)
        elif trial.state == TrialState.RUNNING:
            self._keep(trial, "reason", reason)
            self._tell(name, TrialState.PRUNED)

    def close(self) -> None:
        """At the end of a search: fail, by name, the trainings that did not get to theirs."""
        for trial in _all(self.baselines):
            if trial.state == TrialState.RUNNING:
                self.fail(baseline_name(trial.user_attrs["quality"]), "interrupted")
        failed = {t.user_attrs["quality"]: t for t in _all(self.baselines) if t.state == TrialState.FAIL}
        for trial in _all(self.trials):
            if trial.state == TrialState.RUNNING:
                quality = trial.user_attrs.get("quality")
                reason = "interrupted"
                if quality in failed and failed[quality].user_attrs["reason"] != reason:
                    reason = f"the baseline of quality {quality} failed"
                self.fail(trial_name(trial.number), reason)

    def _tell(self, name: str, state: TrialState, value: float | None = None) -> None:
        trial = self._find(name)
        study = self.baselines if trial.user_attrs["role"] == BASELINE else self.trials
        study.tell(trial.number, value, state)

    def _find(self, name: str) -> FrozenTrial:
        role, _, number = name.partition("-")
        if role == TRIAL:
            return _all(self.trials)[int(number)]
        return next(t for t in _all(self.baselines) if baseline_name(t.user_attrs["quality"]) == name)

    def baseline(self, quality: int) -> FrozenTrial | None:
        """The baseline of a rate, if it was started."""
        return next((t for t in _all(self.baselines) if t.user_attrs["quality"] == quality), None)
