"""Progress of a search, computed from its records: ended runs, pace, time left."""

from __future__ import annotations

from dataclasses import dataclass, field

from search.base.space import Plan
from search.records.search_records import RUNNING, SearchRecords, TrialRecord

#: Average fraction of its epochs that a trial trains with early stopping.
_EXPECTED_SHARE = 0.45

#: Weight of this prior in trials: the trials that end first are poor ones.
_PRIOR_TRIALS = 8


@dataclass(frozen=True)
class Progress:
    """`groups` are the records of the search and of each confirmation seed; `planned` is the number of their
    training runs; `pace` is in epochs per second, `elapsed` and `left` in seconds (None until a pace is
    known). `news` are the training runs that ended since the last update; `trouble` says why MLflow cannot be
    written to."""

    groups: list[SearchRecords]
    planned: int
    rungs: tuple[int, ...]
    elapsed: float
    pace: float | None
    left: float | None
    trouble: str = ""
    news: list[TrialRecord] = field(default_factory=list)

    @property
    def search(self) -> SearchRecords:
        return self.groups[0]

    @property
    def trainings(self) -> list[TrialRecord]:
        return [record for group in self.groups for record in group.everything()]

    @property
    def over(self) -> int:
        """The number of training runs that have ended."""
        return sum(record.state != RUNNING for record in self.trainings)

    def group(self, record: TrialRecord) -> SearchRecords:
        """The group of records that a training run belongs to."""
        return next(group for group in self.groups if record in group.everything())


def progress_of(
    groups: list[SearchRecords],
    plan: Plan,
    confirming: int,
    workers: int,
    since: float,
    now: float,
) -> Progress:
    """The progress at `now` of a search that started at `since` (seconds since 1970) with `workers`
    concurrent training runs, followed by `confirming` full training runs."""
    reported = sorted(
        moment
        for group in groups
        for record in group.trained_here()
        for moment in map(record.measured_at, record.readings)
        if moment >= since
    )
    pace = None
    if len(reported) > workers and now > reported[0]:
        # The first report of each worker ends an epoch that began before the measurement.
        pace = (len(reported) - min(workers, len(reported) - 1)) / (now - reported[0])
    left = None if pace is None else _epochs_left(groups, plan, confirming) / pace
    planned = plan.budget + len(plan.qualities) + confirming
    rungs = (*plan.rungs, plan.epochs)
    return Progress(groups, planned, rungs, now - since, pace, left)


def _epochs_left(groups: list[SearchRecords], plan: Plan, confirming: int) -> float:
    search, epochs = groups[0], plan.epochs
    ended = [trial.trained for trial in search.trials if trial.state != RUNNING]
    share = _EXPECTED_SHARE if plan.rungs else 1.0
    expected = share * (epochs - plan.fork)
    typical = (sum(ended) + _PRIOR_TRIALS * expected) / (len(ended) + _PRIOR_TRIALS)
    left = typical * max(0, plan.budget - len(ended))
    left -= sum(min(trial.trained, typical) for trial in search.trials if trial.state == RUNNING)
    whole = [*search.baselines.values(), *(r for group in groups[1:] for r in group.everything())]
    done = sum(epochs if record.state != RUNNING else record.last_epoch for record in whole)
    return max(0.0, left + epochs * (len(plan.qualities) + confirming) - done)
