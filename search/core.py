"""The decision core: three verbs over Optuna's storage, and no other state.

`suggest()` gives the next training, `observe()` records what one measured, `decide()` says whether
it goes on. A new process that opens the storage decides as the old one would have.
"""

from __future__ import annotations

from collections.abc import Iterator

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from lic.recipe import LAMBDAS
from search.objective import rate_change
from search.sampler import make_sampler
from search.space import BASELINE, TRIAL, Candidate, Plan
from search.stopping import should_stop

_READINGS, _IMAGES = "readings:", "images:"


def readings_of(trial: FrozenTrial) -> dict[int, dict[str, float]]:
    """The recorded figures of a trial by epoch."""
    return _by_epoch(trial, _READINGS)


def images_of(trial: FrozenTrial) -> dict[int, dict[str, list[float]]]:
    """The recorded per-image columns of the test set by epoch."""
    return _by_epoch(trial, _IMAGES)


def _by_epoch(trial: FrozenTrial, prefix: str) -> dict:
    found = {
        int(key.removeprefix(prefix)): value
        for key, value in trial.user_attrs.items()
        if key.startswith(prefix)
    }
    return dict(sorted(found.items()))


def studies(storage: BaseStorage | str, name: str) -> tuple[optuna.Study, optuna.Study]:
    """The study of a search's trials, and the study of its baselines.

    Baselines have no alpha, so they stay out of the trials' study: samplers would trip over them.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    open_study = optuna.create_study
    return (
        open_study(storage=storage, study_name=name, load_if_exists=True),
        open_study(storage=storage, study_name=f"{name}/baselines", load_if_exists=True),
    )


def _all(study: optuna.Study) -> list[FrozenTrial]:
    # Not copied: read only, and the per-image columns are long.
    return study.get_trials(deepcopy=False)


class Core:
    """The decisions of one search. `storage` is an Optuna storage or its URL."""

    def __init__(self, storage: BaseStorage | str, name: str, plan: Plan) -> None:
        self.plan = plan
        self.trials, self.baselines = studies(storage, name)

    def suggest(self) -> Candidate | None:
        """The next training: the baselines first, then trials with the rates in turn; None once
        the budget is spent or no rate has a baseline to compare with."""
        started = {trial.user_attrs["quality"] for trial in _all(self.baselines)}
        for quality in self.plan.qualities:
            if quality not in started:
                return self._start_baseline(quality)
        failed = {
            trial.user_attrs["quality"] for trial in _all(self.baselines) if trial.state == TrialState.FAIL
        }
        qualities = [quality for quality in self.plan.qualities if quality not in failed]
        number = len(_all(self.trials))
        if number >= self.plan.budget or not qualities:
            return None
        return self._start_trial(number, qualities[number % len(qualities)])

    def _start_baseline(self, quality: int) -> Candidate:
        trial = self.baselines.ask()
        self._describe(trial, BASELINE, quality)
        return Candidate(f"{BASELINE}-q{quality}", BASELINE, quality, 0.0, "", self.plan.seed)

    def _start_trial(self, number: int, quality: int) -> Candidate:
        plan = self.plan
        startup = max(10, 2 * len(plan.qualities))
        self.trials.sampler = make_sampler(plan.sampler, plan.seed, number, startup)
        trial = self.trials.ask()
        alpha = trial.suggest_float("alpha", plan.alpha_min, plan.alpha_max, log=True)
        strategy = trial.suggest_categorical("strategy", plan.strategies)
        self._describe(trial, TRIAL, quality)
        name = f"{TRIAL}-{trial.number:03d}"
        return Candidate(name, TRIAL, quality, alpha, strategy, plan.seed)

    def _describe(self, trial: optuna.Trial, role: str, quality: int) -> None:
        trial.set_user_attr("role", role)
        trial.set_user_attr("quality", quality)
        trial.set_user_attr("lambda", LAMBDAS[quality])
        trial.set_user_attr("seed", self.plan.seed)

    def observe(
        self,
        name: str,
        epoch: int,
        figures: dict[str, float],
        images: dict[str, list[float]] | None = None,
    ) -> None:
        """Record what the training measured after `epoch`, and whatever follows from it: its own
        rate change, or, if it is a baseline, those of the trials that were waiting for it."""
        study, trial = self._find(name)
        storage = study._storage
        if images:
            storage.set_trial_user_attr(trial._trial_id, f"{_IMAGES}{epoch}", images)
        storage.set_trial_user_attr(trial._trial_id, f"{_READINGS}{epoch}", figures)
        if trial.user_attrs["role"] == TRIAL:
            self._settle(self._find(name)[1])
            return
        if epoch == self.plan.epochs:
            study.tell(trial.number, 0.0)
        for waiting in self._of_quality(trial.user_attrs["quality"]):
            if waiting.state == TrialState.RUNNING:
                self._settle(waiting)

    def _settle(self, trial: FrozenTrial) -> None:
        """Give a running trial the rate changes that the readings so far allow, and its end."""
        baseline = self._baseline_readings(trial.user_attrs["quality"])
        values = dict(trial.intermediate_values)
        for epoch, figures in readings_of(trial).items():
            if epoch in values or epoch not in baseline:
                continue
            values[epoch] = rate_change(
                figures, baseline[epoch], self.plan.selection, trial.user_attrs["lambda"]
            )
            self.trials._storage.set_trial_intermediate_value(trial._trial_id, epoch, values[epoch])
        if self.plan.epochs in values:
            self.trials.tell(trial.number, values[self.plan.epochs])

    def decide(self, name: str, epoch: int) -> bool:
        """Whether the training goes on after `epoch`.

        A baseline always does. A trial is stopped, and pruned in Optuna, at a rung where it is not
        among the best of its rate; never on a value that has no baseline of the same epoch.
        """
        if epoch >= self.plan.epochs:
            return False
        _, trial = self._find(name)
        value = trial.intermediate_values.get(epoch)
        if trial.user_attrs["role"] == BASELINE or epoch not in self.plan.rungs or value is None:
            return True
        others = [
            other.intermediate_values[epoch]
            for other in self._of_quality(trial.user_attrs["quality"])
            if other.number != trial.number and epoch in other.intermediate_values
        ]
        if not should_stop(value, others, self.plan.eta):
            return True
        self.trials.tell(trial.number, state=TrialState.PRUNED)
        return False

    def fail(self, name: str, reason: str) -> None:
        """Record that a training broke off, and why."""
        study, trial = self._find(name)
        if trial.state == TrialState.RUNNING:
            study._storage.set_trial_user_attr(trial._trial_id, "reason", reason)
            study.tell(trial.number, state=TrialState.FAIL)

    def close(self) -> None:
        """At the end of a search: fail, by name, the trainings that did not get to theirs."""
        for trial in _all(self.baselines):
            if trial.state == TrialState.RUNNING:
                self.fail(f"{BASELINE}-q{trial.user_attrs['quality']}", "interrupted")
        failed = {t.user_attrs["quality"]: t for t in _all(self.baselines) if t.state == TrialState.FAIL}
        for trial in _all(self.trials):
            if trial.state == TrialState.RUNNING:
                quality = trial.user_attrs.get("quality")
                reason = "interrupted"
                if quality in failed and failed[quality].user_attrs["reason"] != reason:
                    reason = f"the baseline of quality {quality} failed"
                self.fail(f"{TRIAL}-{trial.number:03d}", reason)

    def _find(self, name: str) -> tuple[optuna.Study, FrozenTrial]:
        role, _, number = name.partition("-")
        if role == TRIAL:
            return self.trials, _all(self.trials)[int(number)]
        for trial in _all(self.baselines):
            if trial.user_attrs["quality"] == int(number.removeprefix("q")):
                return self.baselines, trial
        raise KeyError(name)

    def _of_quality(self, quality: int) -> Iterator[FrozenTrial]:
        return (t for t in _all(self.trials) if t.user_attrs.get("quality") == quality)

    def _baseline_readings(self, quality: int) -> dict[int, dict[str, float]]:
        for trial in _all(self.baselines):
            if trial.user_attrs["quality"] == quality:
                return readings_of(trial)
        return {}
