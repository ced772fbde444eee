"""Confirmation: the best points of a search and the baselines, retrained on fresh seeds.

A search selects the best of many noisy measurements on one seed, which is optimistic. An unbiased result
needs seeds that were not used for the selection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import optuna
import pandas as pd
from optuna.storages import BaseStorage, get_storage
from optuna.trial import FrozenTrial, TrialState, create_trial

from lic.evaluation.bdrate import CurveError, Interval, bd_rate_interval
from search.base.space import (
    BASELINE,
    CONFIRMATION,
    AtPoint,
    Candidate,
    Plan,
    SearchPoint,
    baseline_name,
    confirmation_name,
)
from search.decide.core import attributes_of, images_of, readings_of
from search.decide.objective import Columns
from search.records.curves import curves_over_seeds, rate_change_over_seeds
from search.records.search_records import MS_SSIM, PSNR, QUALITY_COLUMNS, SearchRecords
from search.store.optuna_internals import id_of_trial, storage_of
from search.store.storage import Mirror


def repeated_name(name: str, seed: int) -> str:
    """The name of a search's training when it is trained again on a fresh seed."""
    return f"{name}-s{seed}"


def repeated_trial(candidate: Candidate) -> str:
    """The name of the training that a candidate of the confirmation trains again."""
    return candidate.name.removesuffix(repeated_name("", candidate.seed))


def points_to_confirm(records: SearchRecords, plan: Plan, best: int, seeds: int) -> list[Candidate]:
    """The training runs of a confirmation: for each of the next `seeds` seeds, the baselines and then the
    `best` finished trials of each quality, ordered by their predicted rate change."""
    found = []
    for seed in range(plan.seed + 1, plan.seed + 1 + seeds):
        for quality in records.qualities:
            name = repeated_name(baseline_name(quality), seed)
            found.append(Candidate(name, BASELINE, SearchPoint(quality), seed))
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


class Confirmation:
    """A scheduler with the interface of the decision core for a fixed list of training runs, which are
    neither stopped nor forked."""

    def __init__(
        self, storage: BaseStorage | str, name: str, plan: Plan, candidates: list[Candidate]
    ) -> None:
        self.plan, self.candidates = replace(plan, fork=0), candidates
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            storage=Mirror(get_storage(storage)), study_name=confirmation_name(name), load_if_exists=True
        )

    def suggest(self) -> Candidate | None:
        """The next training run that has not started, or None."""
        started = {trial.user_attrs["name"] for trial in self._trials()}
        for candidate in self.candidates:
            if candidate.name not in started:
                attributes = {**candidate.as_row(), "lambda": candidate.lmbda}
                self.study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=attributes))
                return candidate
        return None

    def waits(self) -> bool:
        """False: all training runs can start at once."""
        return False

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
            return  # as the core's (search.core.Core.observe)
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

    def _find(self, name: str) -> FrozenTrial:
        return next(trial for trial in self._trials() if trial.user_attrs["name"] == name)

    def per_image(self) -> dict[str, dict[str, list[float]]]:
        """The final metrics per image of the complete training runs, by name."""
        done = [t for t in self._trials() if t.state == TrialState.COMPLETE]
        return {t.user_attrs["name"]: images_of(t)[self.plan.epochs] for t in done}


@dataclass(frozen=True)
class Confirmed(AtPoint):
    """The result of one point on fresh seeds: its rate change on the test set in percent, as mean and 95 %
    interval over seeds and images. `seeds` counts the seeds that are complete, with their baseline; with a
    single seed the interval is over images only."""

    point: SearchPoint
    trial: str
    seeds: int
    rate_change: Interval


def confirmed(confirmation: Confirmation, test_set: str) -> list[Confirmed]:
    """One per point, in the order of the candidates."""
    columns = confirmation.per_image()
    points: dict[str, list[Candidate]] = {}
    for candidate in confirmation.candidates:
        there = {candidate.name, _baseline_of(candidate)} <= columns.keys()
        if candidate.role == CONFIRMATION and there:
            points.setdefault(repeated_trial(candidate), []).append(candidate)
    found = []
    objective = confirmation.plan.objective
    for trial, runs in points.items():
        quality = runs[0].quality
        seeds = [(columns[run.name], _baselines_of(confirmation, run, columns)) for run in runs]
        interval = rate_change_over_seeds(objective, quality, seeds, test_set)
        found.append(Confirmed(runs[0].point, trial, len(runs), interval))
    return found


def _baselines_of(
    confirmation: Confirmation, candidate: Candidate, columns: Mapping[str, Columns]
) -> dict[int, Columns]:
    """The columns of the baselines of the candidate's seed, by quality, as far as they got to their end."""
    names = {q: repeated_name(baseline_name(q), candidate.seed) for q in confirmation.plan.qualities}
    return {quality: columns[name] for quality, name in names.items() if name in columns}


def _baseline_of(candidate: Candidate) -> str:
    """The name of the baseline that a training of the confirmation is compared with."""
    return repeated_name(baseline_name(candidate.quality), candidate.seed)


def confirmed_bd_rate(confirmation: Confirmation, records: SearchRecords, metric: str) -> Interval:
    """BD-rate in percent of the selected points (the first point per quality, or the baseline if that was
    selected) over the complete seeds, with its interval over seeds and images. `metric` is PSNR or MS_SSIM of
    search.records.search_records. Raises CurveError."""
    columns = confirmation.per_image()
    kept = {q: records.best([*records.finished(q), b]) for q, b in sorted(records.baselines.items())}
    seeds = []
    for seed in sorted({candidate.seed for candidate in confirmation.candidates}):
        anchors = [repeated_name(baseline_name(quality), seed) for quality in kept]
        tests = [
            anchor if record is None or record.role == BASELINE else repeated_name(record.name, seed)
            for anchor, record in zip(anchors, kept.values(), strict=True)
        ]
        if {*anchors, *tests} <= columns.keys():
            seeds.append(([columns[name] for name in anchors], [columns[name] for name in tests]))
    if not seeds:
        raise CurveError("no seed has all points of the curve")
    if metric == MS_SSIM and records.without_ms_ssim:
        raise CurveError(records.without_ms_ssim)
    anchor, test = curves_over_seeds(seeds, records.test_set, QUALITY_COLUMNS[metric])
    return bd_rate_interval(anchor, test, blocks=len(seeds))


def table_of(found: list[Confirmed]) -> pd.DataFrame:
    """The confirmed points as a flat table."""
    rows = [
        {
            "quality": item.quality, "trial": item.trial, "alpha": item.alpha, "strategy": item.strategy,
            "seeds": item.seeds, "rate_change": item.rate_change.value,
            "rate_change_low": item.rate_change.low, "rate_change_high": item.rate_change.high,
        }
        for item in found
    ]  # fmt: skip
    return pd.DataFrame(rows)


def bd_rates(confirmation: Confirmation, records: SearchRecords) -> dict[str, Interval | str]:
    """BD-rate by metric, or why there is none."""
    found: dict[str, Interval | str] = {}
    for metric, label in ((PSNR, "BD-rate"), (MS_SSIM, "BD-rate (MS-SSIM)")):
        try:
            found[label] = confirmed_bd_rate(confirmation, records, metric)
        except CurveError as error:
            found[label] = str(error)
    return found
