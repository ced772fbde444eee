"""What MLflow lacks of a search, told or written: `python -m search.track`."""

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
    """Do what the command line asks for; 1 if MLflow lacks something, else 0. Raises FolderError,
    TrackingError."""
    search = open_search(args.search, args.results)
    given = args.tracking_uri or search.settings.tracking_uri
    uri = tracking_address(given, search.folder.resolve().parent)
    if args.rebuild:
        rebuild(search, uri)
    return _compare(search, uri)


def rebuild(search: OpenedSearch, uri: str) -> None:
    """Write everything that MLflow lacks of a search that no longer runs. Raises FolderError if it does,
    TrackingError if MLflow cannot be written to."""
    from mlflow.exceptions import MlflowException

    if is_running(search.folder):
        raise FolderError(f"{search.folder} is still running and writes MLflow itself; wait for its end")
    tracker, strategies = Tracker(uri, search.records.name, search.place), search.plan.strategies
    figures = parent_figures(strategy_results(search.records, strategies), search.records.test_set)
    try:
        status = "FINISHED" if search.complete else "KILLED"
        write_end(tracker, _groups(search), strategies, figures, status)
    except (MlflowException, OSError) as error:
        raise TrackingError(f"MLflow took only a part ({first_line(error)}); run this again") from error


def _groups(search: OpenedSearch) -> list[SearchRecords]:
    return [search.records, *search.confirmed]


def _compare(search: OpenedSearch, uri: str) -> int:
    """Say how far MLflow holds the trainings as they were recorded; the exit status."""
    runs, records = held_runs(uri, search.records.name), []
    for group in _groups(search):
        records += group.everything()
    missing = [record.name for record in records if record.name not in runs]
    other = [record.name for record in records if record.name in runs and not _as_recorded(record, runs)]
    print(f"MLflow holds {len(records) - len(missing)} of {len(records)} trainings of {search.records.name}")
    for names, what in ((missing, "missing"), (other, "not as recorded")):
        if names:
            print(f"{what}: {', '.join(names)}")
    if missing or other:
        print(f"{command('search.track', search.folder, '--rebuild')} writes what is missing")
    return LACKING if missing or other else 0


def _as_recorded(record: TrialRecord, runs: dict[str, Any]) -> bool:
    run = runs[record.name]
    if not record.readings:
        return bool(run.info.status == STATUS[record.state])
    last = record.readings[record.last_epoch]
    held = all(run.data.metrics.get(name) == value for name, value in last.items() if name != MEASURED_AT)
    return held and run.info.status == STATUS[record.state]
