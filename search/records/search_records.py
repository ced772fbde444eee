"""The records of a search, read from Optuna's storage, and metrics derived from them."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from optuna import Study, load_study
from optuna.trial import FrozenTrial, TrialState

from lic.evaluation.bdrate import Curve, CurveError, ImageCurve, point_bd_rate
from lic.files import shown
from lic.models.architectures import STRATEGIES
from lic.recipe import MSE, Distortion
from search.base.dimensions import Value
from search.base.space import (
    BASELINE,
    CONFIRMATION,
    RD_COST,
    TRIAL,
    AtPoint,
    Plan,
    SearchPoint,
    baseline_name,
    confirmation_name,
    trial_name,
)
from search.decide.belief import FORK, VARIANCE, Prediction
from search.decide.core import BY_LAMBDA, SOURCE
from search.decide.objective import (
    LEAST_POINTS,
    Reading,
    compared_baselines,
    compared_qualities,
    has_value,
    rate_change,
)
from search.decide.readings import by_epoch, images_of, readings_of
from search.records.curves import image_curve
from search.settings.tuning import TUNABLE
from search.store.optuna_internals import id_of_trial, storage_of

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"

_STATES = {
    TrialState.RUNNING: RUNNING,
    TrialState.WAITING: RUNNING,
    TrialState.COMPLETE: FINISHED,
    TrialState.PRUNED: STOPPED,
    TrialState.FAIL: FAILED,
}

#: Names of the distortion metrics, in dB.
PSNR, MS_SSIM = "psnr", "ms_ssim_db"

#: Quality metric -> the per-image column that it is made of.
QUALITY_COLUMNS = {PSNR: "psnr", MS_SSIM: "ms_ssim"}

#: The metric with the time of measurement of an epoch, in seconds since 1970.
MEASURED_AT = "time/measured_at"

Images = dict[str, list[float]]


@dataclass(frozen=True)
class TrialRecord(AtPoint):
    """One training: what it was and what it measured."""

    name: str
    role: str
    point: SearchPoint
    seed: int
    state: str
    reason: str
    readings: dict[int, dict[str, float]] = field(repr=False)
    images: dict[int, Images] = field(repr=False)
    #: The search that a baseline was reused from; empty if it was trained in this one.
    source: str = ""
    #: When it was proposed and when it ended, in seconds since 1970.
    began: float = 0.0
    ended: float | None = None
    #: The epoch of its baseline whose checkpoint it started from; 0: it trained in full.
    fork: int = 0
    #: The variance of its objective over the selection images by epoch, in percent squared.
    variances: dict[int, float] = field(default_factory=dict, repr=False)
    #: The epochs whose objective used the slope that lambda gives (search.decide.objective), each true.
    by_lambda: dict[int, bool] = field(default_factory=dict, repr=False)

    @property
    def last_epoch(self) -> int:
        return max(self.readings, default=self.fork)

    @property
    def trained(self) -> int:
        """The number of epochs that it trained itself."""
        return self.last_epoch - self.fork

    def measured_at(self, epoch: int) -> float:
        """When an epoch was measured, in seconds since 1970."""
        return self.readings[epoch].get(MEASURED_AT, self.began)


@dataclass(frozen=True)
class SearchRecords:
    """All training runs of a search so far. `qualities` are the planned quality levels, `epochs` the number
    of epochs of full training; `selection` and `test_set` name the selection and test images. `expected` has
    the surrogate model's predictions for finished trials by name, if computed; `without_ms_ssim` says why
    MS-SSIM is undefined for the test set, if it is. `objective` defines the rate change
    (search.decide.objective)."""

    name: str
    qualities: tuple[int, ...]
    epochs: int
    selection: str
    test_set: str
    baselines: dict[int, TrialRecord]
    trials: list[TrialRecord]
    expected: dict[str, Prediction] = field(default_factory=dict)
    without_ms_ssim: str = ""
    objective: str = RD_COST
    #: That of the training, whose J the objective takes (search.decide.objective).
    distortion: Distortion = MSE
    #: The values of the tuned settings in the baselines, by name.
    defaults: dict[str, Value] = field(default_factory=dict)
    #: The standard deviation between training seeds in percent by quality: as baselines on other seeds
    #: measured it, and as the surrogate model has fitted it; empty if there are none, or no model.
    measured_noise: dict[int, float] = field(default_factory=dict)
    fitted_noise: dict[int, float] = field(default_factory=dict)
    #: What fresh seeds say of trials by name (search.records.confirmed), for those that were confirmed.
    outcomes: dict[str, str] = field(default_factory=dict)

    def everything(self) -> list[TrialRecord]:
        return [*self.baselines.values(), *self.trials]

    def running(self) -> list[TrialRecord]:
        """The training runs that have not ended."""
        return [record for record in self.everything() if record.state == RUNNING]

    def rate_change(self, record: TrialRecord, epoch: int, image_set: str) -> float | None:
        """The record's rate change in percent on an image set, by the search's objective; None unless it and
        all baselines that it is compared with were measured."""

        def reading(quality: int) -> tuple[Reading, bool]:
            baseline = self.baselines.get(quality)
            if baseline is None:
                return Reading({}, {}), False
            return Reading(baseline.readings.get(epoch, {}), {}), baseline.state == FAILED

        own = Reading(record.readings.get(epoch, {}), {})
        if not has_value(self.objective, own.metrics, image_set, self.distortion):
            return None
        compared = compared_baselines(
            self.objective, record.quality, self.qualities, reading, image_set, self.distortion
        )
        if compared is None:
            return None
        return rate_change(self.objective, record.point, own, compared, image_set, self.distortion).value

    def bd_rate(self, record: TrialRecord, epoch: int, metric: str) -> float | None:
        """The single-trial BD-rate in percent on the test set, against the baselines at the same epoch; None
        until all baselines that have not failed are measured.

        Early in training, the baselines' curve may not be monotone. Baselines that another one dominates in
        rate and distortion are dropped here (the BD-rate of a search is undefined in this case). Raises
        CurveError if those that are left make no curve (LEAST_POINTS).
        """
        own, points = self._point(record, epoch, metric), []
        for quality in self.qualities:
            baseline = self.baselines.get(quality)
            if baseline is not None and baseline.state == FAILED:
                continue
            points.append(self._point(baseline, epoch, metric) if baseline else None)
        there = [point for point in points if point is not None]
        if own is None or not there or len(there) < len(points):
            return None
        curve = Curve.front(*zip(*there, strict=True))
        if len(curve.rate) < LEAST_POINTS:
            raise CurveError("two baselines make a straight line")
        return point_bd_rate(curve, *own)

    def comparable(self, record: TrialRecord, epoch: int) -> bool:
        """Whether all baselines needed by `derived` are measured: that of the same quality and, if the test
        set was measured, all that have not failed. Then `derived` is final."""
        tested = f"{self.test_set}/bpp" in record.readings[epoch]
        compared = compared_qualities(self.objective, record.quality, self.qualities)
        qualities = self.qualities if tested else compared
        for quality in qualities:
            baseline = self.baselines.get(quality)
            if baseline is None or (epoch not in baseline.readings and baseline.state != FAILED):
                return False
        return True

    def _point(self, record: TrialRecord, epoch: int, metric: str) -> tuple[float, float] | None:
        figures = record.readings.get(epoch, {})
        rate, quality = f"{self.test_set}/bpp", f"{self.test_set}/{metric}"
        if rate not in figures or quality not in figures:
            return None
        return figures[rate], figures[quality]

    def derived(self, record: TrialRecord, epoch: int) -> dict[str, float]:
        """All metrics that compare this epoch with the baselines, as far as those are measured."""
        named = {
            f"{self.selection}/rate_change": self.rate_change(record, epoch, self.selection),
            f"{self.test_set}/rate_change": self.rate_change(record, epoch, self.test_set),
        }
        for metric, label in ((PSNR, "bd_rate_psnr"), (MS_SSIM, "bd_rate_msssim")):
            try:
                named[f"{self.test_set}/{label}"] = self.bd_rate(record, epoch, metric)
            except CurveError:
                continue  # no curve
        return {name: value for name, value in named.items() if value is not None}

    def trained_here(self) -> list[TrialRecord]:
        """The training runs of this search, without reused baselines."""
        return [record for record in self.everything() if not record.source]

    def seconds(self, kind: str, since: float = 0.0) -> float:
        """Total time of this search's training runs for 'train' or 'eval', over the epochs measured since a
        moment (seconds since 1970)."""
        return sum(
            figures.get(f"time/{kind}_seconds", 0.0)
            for record in self.trained_here()
            for epoch, figures in record.readings.items()
            if record.measured_at(epoch) >= since
        )

    def finished(self, quality: int | None = None) -> list[TrialRecord]:
        """The trials trained in full, of one quality or of all."""
        return [t for t in self.trials if t.state == FINISHED and quality in (None, t.quality)]

    def best(self, candidates: Iterable[TrialRecord]) -> TrialRecord | None:
        """The record with the lowest predicted rate change after full training; without predictions, the one
        with the lowest measured rate change on the selection images."""
        scored = [
            (value, record.name, record)
            for record in candidates
            if (value := self._score(record)) is not None
        ]
        return min(scored)[2] if scored else None

    def best_observed(self, quality: int) -> TrialRecord | None:
        """The finished trial of a quality with the lowest measured rate change on the selection images."""
        return replace(self, expected={}).best(self.finished(quality))

    def curve(self, points: list[TrialRecord], metric: str) -> ImageCurve:
        """The per-image curve through these fully trained points on the test set. Raises CurveError, also if
        MS-SSIM is undefined for the set."""
        if metric == MS_SSIM and self.without_ms_ssim:
            raise CurveError(self.without_ms_ssim)
        columns = [point.images[self.epochs] for point in points]
        return image_curve(columns, self.test_set, QUALITY_COLUMNS[metric])

    def _score(self, record: TrialRecord) -> float | None:
        if record.name in self.expected:
            return self.expected[record.name].mean
        return self.rate_change(record, self.epochs, self.selection)


class RecordReader:
    """Reads the records of a search's two studies and of its confirmation repeatedly; records of ended
    training runs are read only once. Read-only."""

    def __init__(self, studies: tuple[Study, Study], plan: Plan, test_set: str) -> None:
        self._studies, self._plan, self._test_set = studies, plan, test_set
        self._ended: dict[int, TrialRecord] = {}

    def read(self) -> SearchRecords:
        """Everything recorded so far."""
        trials, baselines = (self._all(study) for study in self._studies)
        return self._group(baselines, trials)

    def read_confirmation(self) -> list[SearchRecords]:
        """The confirmation runs of the search (search.records.confirm), if any, one group per seed."""
        trials = self._studies[0]
        try:
            # Reuse the connection: opening one for each read would be slow.
            study = load_study(study_name=confirmation_name(trials.study_name), storage=storage_of(trials))
        except KeyError:
            return []
        there = self._all(study)
        groups = []
        for seed in sorted({record.seed for record in there}):
            own = [record for record in there if record.seed == seed]
            baselines = [record for record in own if record.role == BASELINE]
            groups.append(self._group(baselines, [record for record in own if record.role != BASELINE]))
        return groups

    def _all(self, study: Study) -> list[TrialRecord]:
        return [self._record(trial) for trial in study.get_trials(deepcopy=False)]

    def _group(self, baselines: list[TrialRecord], trials: list[TrialRecord]) -> SearchRecords:
        plan = self._plan
        return SearchRecords(
            self._studies[0].study_name,
            plan.qualities,
            plan.epochs,
            plan.selection,
            self._test_set,
            {record.quality: record for record in baselines},
            trials,
            objective=plan.objective,
            distortion=plan.distortion,
            defaults=dict(plan.defaults),
        )

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        if id_of_trial(trial) in self._ended:
            return self._ended[id_of_trial(trial)]
        record = record_of(trial)
        if trial.state.is_finished():
            self._ended[id_of_trial(trial)] = record
        return record


def read_records(studies: tuple[Study, Study], plan: Plan, test_set: str) -> SearchRecords:
    """Read the records of a search's two studies once."""
    return RecordReader(studies, plan, test_set).read()


def record_of(trial: FrozenTrial) -> TrialRecord:
    """One Optuna trial, of either study, as a record."""
    attrs = trial.user_attrs
    role, quality = attrs["role"], attrs["quality"]
    return TrialRecord(
        name=attrs.get("name") or (trial_name(trial.number) if role == TRIAL else baseline_name(quality)),
        role=role,
        # A trial's are parameters of Optuna's, a confirmation's attributes.
        point=(
            SearchPoint.of_params(quality, trial.params, attrs.get("lambda", 0.0))
            if trial.params
            else SearchPoint.of_row(attrs)
        ),
        seed=attrs["seed"],
        state=_STATES[trial.state],
        reason=attrs.get("reason", ""),
        readings=readings_of(trial),
        images=images_of(trial),
        source=attrs.get(SOURCE, ""),
        began=_seconds(trial.datetime_start) or 0.0,
        ended=_seconds(trial.datetime_complete),
        fork=attrs.get(FORK, 0),
        variances=by_epoch(trial, VARIANCE),
        by_lambda=by_epoch(trial, BY_LAMBDA),
    )


def check(record: TrialRecord, lambdas: Mapping[int, float]) -> None:
    """Raise ValueError if the record, which may come from a foreign database, is invalid; `lambdas` is
    lambda_d of the search's qualities."""
    fits = {
        "name": re.fullmatch(r"[a-z][a-z0-9-]{0,99}", str(record.name)) is not None,
        "role": record.role in (BASELINE, TRIAL, CONFIRMATION),
        "quality": record.quality in lambdas,
        "lmbda": lambdas.get(record.quality) == record.lmbda,
        "alpha": _is_number(record.alpha) and record.alpha >= 0,
        "strategy": record.strategy in (None, *STRATEGIES),
        "tuned": all(n in TUNABLE and (isinstance(v, str) or _is_number(v)) for n, v in record.tuned),
        "seed": isinstance(record.seed, int) and record.seed >= 0,
        "fork": isinstance(record.fork, int) and 0 <= record.fork < min(record.readings, default=math.inf),
        "reason": isinstance(record.reason, str),
        "source": isinstance(record.source, str),
        "readings": all(map(_are_figures, record.readings.values())) and min(record.readings, default=1) > 0,
        "images": all(map(_are_columns, record.images.values())),
        "variances": _are_figures(record.variances) and min(record.variances.values(), default=0) >= 0,
        "by_lambda": all(value is True for value in record.by_lambda.values()),
    }
    for key, fit in fits.items():
        if not fit:
            raise ValueError(f"{shown(record.name)} has an invalid {key}: {shown(getattr(record, key))}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_figures(found: object) -> bool:
    return isinstance(found, dict) and all(map(_is_number, found.values()))


def _are_columns(found: object) -> bool:
    """Whether these are columns of numbers; values may be infinite (PSNR) or NaN (MS-SSIM)."""
    if not isinstance(found, dict) or not all(isinstance(column, list) for column in found.values()):
        return False
    numbers = all(isinstance(value, int | float) for column in found.values() for value in column)
    return numbers and len({len(column) for column in found.values()}) <= 2  # of one set of images or two


def _seconds(moment: datetime.datetime | None) -> float | None:
    # Optuna stores local times.
    return None if moment is None else moment.timestamp()
