"""Checkpoints of ended trainings that nothing needs are deleted, and not by the thread of the display."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from lic import atomic_io
from search.records.search_records import FINISHED, RUNNING, STOPPED, SearchRecords
from search.session.retention import Retention
from search.store.checkpoints import Checkpoints
from tests.search.records.test_results import record, search


def saved(place: Checkpoints, training: str, epochs: int = 3) -> None:
    for epoch in range(1, epochs + 1):
        with place.saving(training, epoch, keep=1) as path:
            atomic_io.write(path, str(epoch))


def left(root: Path) -> dict[str, list[str]]:
    return {
        f"{path.parent.name}/{path.name}": sorted(file.name for file in path.iterdir())
        for path in sorted(root.glob("*/*"))
    }


def group(*trials: tuple[str, str]) -> SearchRecords:
    """One baseline, ended, and trials of these names and states."""
    found = search(*(record(name, 1, -1.0, "y", state) for name, state in trials))
    return replace(found, baselines={1: found.baselines[1]})


def test_what_ended_keeps_what_may_still_be_needed(tmp_path: Path) -> None:
    place = Checkpoints(str(tmp_path))
    searched = group(("trial-000", FINISHED), ("trial-001", STOPPED), ("trial-002", RUNNING))
    confirmed = group(("trial-000-s1", FINISHED))
    for name in ("trial-000", "trial-001", "trial-002", searched.baselines[1].name):
        saved(place, f"trials/{name}")
    for name in ("trial-000-s1", confirmed.baselines[1].name):
        saved(place, f"confirmation/{name}")
    baseline = searched.baselines[1].name
    before = left(tmp_path)

    retention = Retention(place, fork=1)
    retention.offer([searched, confirmed])
    retention.close()
    assert left(tmp_path) == {
        "confirmation/trial-000-s1": ["epoch-0003.pt"],
        f"confirmation/{baseline}": ["epoch-0003.pt"],  # nothing forks from it
        "trials/trial-000": ["epoch-0003.pt"],
        "trials/trial-001": [],
        "trials/trial-002": before["trials/trial-002"],
        f"trials/{baseline}": ["epoch-0001.pt", "epoch-0003.pt"],
    }


def test_deleting_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, goes_on, dropped = Checkpoints(str(tmp_path)), threading.Event(), []

    def slow(_: Checkpoints, training: str, **__: int) -> None:
        assert goes_on.wait(30)
        dropped.append(training)
        if len(dropped) == 1:
            raise ValueError("a storage that answers nonsense")  # the thread outlives it

    monkeypatch.setattr(Checkpoints, "drop", slow)
    retention, records = Retention(place, fork=0), group(("trial-000", FINISHED), ("trial-001", STOPPED))
    for _ in range(3):
        retention.offer([records])
    assert dropped == []
    goes_on.set()
    retention.close()
    assert dropped == [f"trials/{r.name}" for r in records.everything()]
