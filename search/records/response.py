"""The response of the rate change to a setting, within the range in which the report and the terminal draw
it."""

from __future__ import annotations

from search.records.search_records import SearchRecords, TrialRecord

#: Rate changes above this (percent) are drawn at the edge: losses span hundreds of percent, gains a few.
CEILING = 10.0


def last_change(records: SearchRecords, trial: TrialRecord) -> float | None:
    """The rate change in percent of a trial on the selection images, after its last epoch; None if it cannot
    be compared with a baseline."""
    return records.rate_change(trial, trial.last_epoch, records.selection)


def axis_floor(records: SearchRecords) -> float:
    """Lower end of the rate-change axis in percent, from finished trials: early epochs can lie far below."""
    changes = [change for t in records.finished() if (change := last_change(records, t)) is not None]
    return min([-2.0, *changes]) * 1.4
