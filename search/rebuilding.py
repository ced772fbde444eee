"""Compare MLflow with what a search recorded, or bring it up to it.

python -m search.track SEARCH             what MLflow lacks
python -m search.track SEARCH --rebuild   writes it: every run, figure and table, from Optuna's
                                          storage and the results folder; what is there stays
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lic.files import path_argument
from search.folder import FolderError, OpenedSearch, open_search
from search.lock import is_running
from search.publishing import write_end
from search.records import MEASURED_AT, SearchRecords, TrialRecord
from search.results import parent_figures, strategy_results
from search.tracking import STATUS, Tracker, TrackingError, first_line, held_runs, tracking_address

USER_ERROR, LACKING = 2, 1


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status: 1 if MLflow lacks something."""
    parser = argparse.ArgumentParser(
        prog="python -m search.track", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("search", metavar="SEARCH", help="its name, or its folder")
    parser.add_argument(
        "--results", type=path_argument, default=Path("results"), help="folder of all searches"
    )
    parser.add_argument("--tracking-uri", metavar="URI", help="of MLflow (default: as the search had it)")
    parser.add_argument("--rebuild", action="store_true", help="write what MLflow lacks")
    args = parser.parse_args(argv)
    try:
        search = open_search(args.search, args.results)
        given = args.tracking_uri or search.settings.tracking_uri
        uri = tracking_address(given, search.folder.resolve().parent)
        if args.rebuild:
            rebuild(search, uri)
        return _compare(search, uri)
    except (FolderError, TrackingError) as error:
        print(f"lictune: {error}", file=sys.stderr)
        return USER_ERROR


def rebuild(search: OpenedSearch, uri: str) -> None:
    """Write everything that MLflow lacks of a search that no longer runs. Raises FolderError if it does,
    TrackingError if MLflow cannot be written to."""
    from mlflow.exceptions import MlflowException

    if is_running(search.folder):
        raise FolderError(f"{search.folder} is still running and writes MLflow itself; wait for its end")
    tracker, strategies = Tracker(uri, search.records.name, search.folder), search.plan.strategies
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
        print(f"python -m search.track {search.folder} --rebuild writes what is missing")
    return LACKING if missing or other else 0


def _as_recorded(record: TrialRecord, runs: dict[str, Any]) -> bool:
    run = runs[record.name]
    if not record.readings:
        return run.info.status == STATUS[record.state]
    last = record.readings[record.last_epoch]
    held = all(run.data.metrics.get(name) == value for name, value in last.items() if name != MEASURED_AT)
    return held and run.info.status == STATUS[record.state]


if __name__ == "__main__":
    sys.exit(main())
