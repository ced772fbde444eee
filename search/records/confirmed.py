"""What a confirmation found: the rate changes and BD-rates of the confirmed points, over seeds and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from lic.evaluation.bdrate import CurveError, Interval
from search.base.space import (
    BASELINE,
    CONFIRMATION,
    AtPoint,
    Candidate,
    Plan,
    SearchPoint,
    baseline_name,
    repeated_name,
)
from search.decide.objective import Columns, compared_qualities
from search.records.curves import bd_rate_over_seeds, rate_change_over_seeds
from search.records.search_records import FINISHED, MS_SSIM, PSNR, QUALITY_COLUMNS, SearchRecords

#: What a point's interval says: it is below 0, above 0, or neither.
BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"


def repeated_trial(candidate: Candidate) -> str:
    """The name of the training that a candidate of the confirmation trains again."""
    return candidate.name.removesuffix(repeated_name("", candidate.seed))


def baselines_needed(plan: Plan, candidate: Candidate) -> list[str]:
    """The names of the baselines that a training of the confirmation is compared with."""
    qualities = compared_qualities(plan.objective, candidate.quality, plan.qualities)
    return [repeated_name(baseline_name(quality), candidate.seed) for quality in qualities]


def by_point(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """The trainings of every point, without the baselines, by the trial that they repeat."""
    points: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        if candidate.role == CONFIRMATION:
            points.setdefault(repeated_trial(candidate), []).append(candidate)
    return points


@dataclass(frozen=True)
class Confirmed(AtPoint):
    """The result of one point on fresh seeds: its rate change on the test set in percent, as mean and 95 %
    interval over seeds and images. `seeds` counts the seeds that are complete, with their baseline, of at
    most `limit`; with a single seed the interval is over images only."""

    point: SearchPoint
    trial: str
    seeds: int
    rate_change: Interval
    limit: int = 1

    @property
    def outcome(self) -> str:
        """BETTER or WORSE than the baseline if the interval excludes 0, else UNDECIDED; so is a point of a
        single seed where more were to come."""
        if self.seeds > 1 or self.limit == 1:
            if self.rate_change.high < 0:
                return BETTER
            if self.rate_change.low > 0:
                return WORSE
        return UNDECIDED


@dataclass(frozen=True)
class Repetitions:
    """The trainings of a confirmation so far: `columns` has the per-image metrics at full length of those
    that are complete, by name; a point gets `limit` seeds at most."""

    plan: Plan
    candidates: Sequence[Candidate]
    columns: Mapping[str, Columns]
    limit: int

    @property
    def looks(self) -> int:
        """How many intervals of a point may be looked at: one after each seed from the second on."""
        return max(1, self.limit - 1)

    def complete(self, runs: Sequence[Candidate]) -> list[Candidate]:
        """Those of a point's trainings that are complete, with the baseline of their quality."""
        return [run for run in runs if {run.name, _baseline_of(run)} <= self.columns.keys()]

    def result(self, trial: str, runs: Sequence[Candidate], test_set: str) -> Confirmed | None:
        """What these trainings of a point say; None if none is complete."""
        there = self.complete(runs)
        if not there:
            return None
        seeds = [(self.columns[run.name], self._baselines(run)) for run in there]
        point, objective, distortion = there[0].point, self.plan.objective, self.plan.distortion
        interval = rate_change_over_seeds(objective, point, seeds, test_set, self.looks, distortion)
        return Confirmed(point, trial, len(there), interval, self.limit)

    def _baselines(self, run: Candidate) -> dict[int, Columns]:
        """The columns of the baselines of the training's seed, by quality, as far as they got to their
        end."""
        names = {q: repeated_name(baseline_name(q), run.seed) for q in self.plan.qualities}
        return {quality: self.columns[name] for quality, name in names.items() if name in self.columns}


def _baseline_of(candidate: Candidate) -> str:
    """The name of the baseline of a training's quality and seed."""
    return repeated_name(baseline_name(candidate.quality), candidate.seed)


def repetitions_of(groups: Sequence[SearchRecords], plan: Plan, limit: int) -> Repetitions:
    """The same from the records of a confirmation, one group per seed, as far as the seeds are among the
    first `limit`."""
    last = plan.seed + limit
    records = [r for group in groups for r in group.everything() if plan.seed < r.seed <= last]
    records.sort(key=lambda record: record.quality)
    finished = {r.name: r.images.get(plan.epochs, {}) for r in records if r.state == FINISHED}
    columns = {name: images for name, images in finished.items() if images}
    return Repetitions(plan, [Candidate(r.name, r.role, r.point, r.seed) for r in records], columns, limit)


def confirmed(repetitions: Repetitions, test_set: str) -> list[Confirmed]:
    """One per point that has a complete seed, in the order of the candidates."""
    points = by_point(repetitions.candidates).items()
    results = (repetitions.result(trial, runs, test_set) for trial, runs in points)
    return [result for result in results if result is not None]


def confirmed_bd_rate(repetitions: Repetitions, records: SearchRecords, metric: str) -> Interval:
    """BD-rate in percent of the points that the search expects to save bits (the best of each quality, sure
    or not; the baseline where there is none) over the seeds on which all of them are complete, with its
    interval over seeds and images: what the fresh seeds themselves say has no part in the choice. `metric` is
    PSNR or MS_SSIM of search.records.search_records. Raises CurveError."""
    columns = repetitions.columns
    kept = {q: records.best([*records.finished(q), b]) for q, b in sorted(records.baselines.items())}
    seeds = []
    for seed in sorted({candidate.seed for candidate in repetitions.candidates}):
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
    return bd_rate_over_seeds(seeds, records.test_set, QUALITY_COLUMNS[metric], repetitions.looks)


@dataclass(frozen=True)
class ConfirmedResults:
    """What a confirmation says: its points that are complete on a seed, and BD-rates by label, each over
    seeds and images, or why there is none."""

    points: list[Confirmed] = field(default_factory=list)
    bd_rates: dict[str, Interval | str] = field(default_factory=dict)

    @property
    def outcomes(self) -> dict[str, str]:
        """What is said of each point, by the trial that it repeats (SearchRecords.outcomes)."""
        return {item.trial: item.outcome for item in self.points}


def confirmed_results(repetitions: Repetitions, records: SearchRecords) -> ConfirmedResults:
    """Both."""
    return ConfirmedResults(confirmed(repetitions, records.test_set), bd_rates(repetitions, records))


def bd_rates(repetitions: Repetitions, records: SearchRecords) -> dict[str, Interval | str]:
    """BD-rate by metric, or why there is none."""
    found: dict[str, Interval | str] = {}
    for metric, label in ((PSNR, "BD-rate"), (MS_SSIM, "BD-rate (MS-SSIM)")):
        try:
            found[label] = confirmed_bd_rate(repetitions, records, metric)
        except CurveError as error:
            found[label] = str(error)
    return found


def table_of(found: list[Confirmed]) -> pd.DataFrame:
    """The confirmed points as a flat table."""
    rows = [
        {
            "quality": item.quality, "trial": item.trial, "alpha": item.alpha, "strategy": item.strategy,
            **dict(item.tuned), "seeds": item.seeds, "rate_change": item.rate_change.value,
            "rate_change_low": item.rate_change.low, "rate_change_high": item.rate_change.high,
            "outcome": item.outcome,
        }
        for item in found
    ]  # fmt: skip
    return pd.DataFrame(rows)
