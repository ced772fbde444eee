"""The gauges of a search, and whoever sets them."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from search.base.space import Plan
from search.decide.core import Core
from search.records.folder import SearchFolder
from search.records.progress import Progress
from search.records.search_records import SearchRecords
from search.session import monitor
from search.session.metrics import Gauges
from search.session.monitor import Followed, Monitor
from search.settings.config import Settings
from search.tracking.publishing import Publisher

PLAN = Plan((1,), ("y",), 1e-8, 1e-5, 2, (1,), 3, 4, 0, "lictune", "val")


class SlowTracker:
    """An MLflow that takes the records only when it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()

    def write(self, *_: Any, **__: Any) -> None:
        assert self.let.wait(30)

    def __getattr__(self, _: str) -> Any:
        return lambda *_: None


class Seen:
    """Gauges that keep what they were set to."""

    def __init__(self) -> None:
        self.behind: list[float] = []

    def show(self, _: Progress, behind: float) -> None:
        self.behind.append(behind)


def test_the_gauges_are_set_again_while_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray forgets them otherwise, and between two epochs lie minutes."""
    monkeypatch.setattr(monitor, "_GAUGES_EVERY", 0.05)
    folder = SearchFolder(tmp_path, Settings())
    Core(folder.storage(), tmp_path.name, PLAN)
    tracker, seen = SlowTracker(), Seen()
    publisher = Publisher(tracker, PLAN.strategies, lambda _: None)  # type: ignore[arg-type]
    follower = Monitor(Followed(folder, PLAN, "kodak", 1), publisher, _View(), gauges=seen)  # type: ignore[arg-type]
    follower.changed()
    _until(lambda: len(seen.behind) > 5)
    assert seen.behind == sorted(seen.behind) and seen.behind[-1] > seen.behind[0] > 0
    tracker.let.set()
    _until(lambda: seen.behind[-1] == 0)
    follower.close()
    assert publisher.close(follower.groups(), {}, "FINISHED")


@pytest.mark.parametrize(
    ("name", "label"),
    [("mine 2", "mine 2"), ("équipe", "equipe-8caf82"), ("結果é", "e-842ba3"), ("結果", "search-e3bf3a")],
)
def test_a_search_of_any_name_has_a_label_that_ray_takes(name: str, label: str) -> None:
    gauges = Gauges(name, 16)
    assert gauges.label == label
    gauges._set("epochs", 1.0)  # raises what Ray raises


def test_what_cannot_be_set_does_not_end_the_following(caplog: pytest.LogCaptureFixture) -> None:
    gauges, broken = Gauges("mine", 16), SearchRecords("mine", (1,), 2, "val", "kodak", {}, [])
    for _ in range(2):
        gauges.show(Progress([broken], "many", (1,), 0.0, None, None), 0.0)  # type: ignore[arg-type]
    assert caplog.text.count("cannot set the metrics") == 1


class _View:
    def show(self, progress: Progress) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


def _until(happened: Any) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)
