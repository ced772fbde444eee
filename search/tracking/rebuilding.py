"""Compares MLflow with the records of a search, and completes it (`python -m search.track`)."""

from __future__ import annotations

import argparse
from typing import Any

from lic.cli import command
from search.records.folder import OpenedSearch, open_search
from search.records.results import parent_figures, strategy_results
from search.records.search_records import MEASURED_AT, SearchRecords, TrialRecord
from search.store.find import FolderError
from search.store.lock import is_running
from search.tracking.publishing import write_end
from search.tracking.tracker import STATUS, Tracker, TrackingError, first_line, held_runs, tracking_address

LACKING = 1


def run(args: argparse.Namespace) -> int:
    """Run the command; returns 1 if MLflow lacks something, else 0. Raises FolderError, TrackingError."""
    search = open_search(args.search, args.results)
    given = args.tracking_uri or search.settings.tracking_uri
    uri = tracking_address(given, search.folder.resolve().parent)
    if args.rebuild:
        rebuild(search, uri)
    return _compare(search, uri)


def rebuild(search: OpenedSearch, uri: str) -> None:
    """Write everything that MLflow lacks of an ended search. Raises FolderError if it still runs,
    TrackingError if MLflow cannot be written to."""
    from mlflow.exceptions import MlflowException

    if is_running(search.folder):
        raise FolderError(
            f"the search in {search.folder} is running and writes to MLflow; wait until it ends"
        )
    tracker, strategies = Tracker(uri, search.records.name, search.place), search.plan.strategies
    figures = parent_figures(strategy_results(search.records, strategies), search.records.test_set)
    try:
        status = "FINISHED" if search.complete else "KILLED"
        write_end(tracker, _groups(search), strategies, figures, status)
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"MLflow is only partly complete ({first_line(error)}); run this again"
        ) from error


def _groups(search: OpenedSearch) -> list[SearchRecords]:
    return [search.records, *search.confirmed]


def _compare(search: OpenedSearch, uri: str) -> int:
    """Print how many training runs MLflow has as recorded; returns the exit status."""
    runs, records = held_runs(uri, search.records.name), []
    for group in _groups(search):
        records += group.everything()
    missing = [record.name for record in records if record.name not in runs]
    other = [record.name for record in records if record.name in runs and not _as_recorded(record, runs)]
    print(
        f"MLflow has {len(records) - len(missing)} of {len(records)} training runs of {search.records.name}"
    )
    for names, what in ((missing, "missing"), (other, "different from the records")):
        if names:
            print(f"{what}: {', '.join(names)}")
    if missing or other:
        print(f"to complete it: {command('search.track', search.folder, '--rebuild')}")
    return LACKING if missing or other else 0


def _as_recorded(record: TrialRecord, runs: dict[str, Any]) -> bool:
    run = runs[record.name]
    if not record.readings:
        return bool(run.info.status == STATUS[record.state])
    last = record.readings[record.last_epoch]
    held = all(run.data.metrics.get(name) == value for name, value in last.items() if name != MEASURED_AT)
    return held and run.info.status == STATUS[record.state]
