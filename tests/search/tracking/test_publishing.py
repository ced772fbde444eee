"""Snapshots brought to a tracker by a thread of its own; the tracker is made up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from search.tracking import publishing
from search.tracking.publishing import Publisher


class MadeUp:
    """A tracker that notes what it is told; it can be held back, and made to fail."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.let, self.failing = threading.Event(), 0
        self.ended: list[str] = []
        self.let.set()

    def write(self, groups: list[Any], strategies: tuple[str, ...], live: bool) -> None:
        assert self.let.wait(30)
        if self.failing:
            self.failing -= 1
            raise OSError("no\nanswer")
        self.written.append((groups, strategies, live))

    def artifacts(self) -> None:
        pass

    def conclude(self, figures: dict[str, float], _: Any) -> None:
        self.ended.append(f"{figures}")

    def close(self, status: str) -> None:
        self.ended.append(status)


def until(holds: Any) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Iterator[MadeUp]:
    monkeypatch.setattr(publishing, "_AGAIN", 0.02)
    made = MadeUp()
    yield made
    made.let.set()


def publisher_of(tracker: MadeUp, said: list[str]) -> Publisher:
    return Publisher(tracker, ("y",), said.append)  # type: ignore[arg-type]


def offer(publisher: Publisher, number: int) -> None:
    publisher.offer([number])  # type: ignore[list-item]


def test_while_it_is_slow_only_the_newest_snapshot_waits(tracker: MadeUp) -> None:
    publisher = publisher_of(tracker, [])
    assert publisher.behind == 0
    tracker.let.clear()
    offer(publisher, 0)
    until(lambda: publisher._queue.empty())  # it is at work on the first
    for number in range(1, 50):
        offer(publisher, number)
    time.sleep(0.05)
    assert publisher.behind >= 0.05
    tracker.let.set()
    until(lambda: publisher.behind == 0)
    assert [groups for groups, *_ in tracker.written] == [[0], [49]]
    assert publisher.close([50], {"bd": -1.0}, "FINISHED")  # type: ignore[list-item]
    assert tracker.written[-1] == ([50], ("y",), False)
    assert tracker.ended == ["{'bd': -1.0}", "FINISHED"]


def test_a_failure_is_said_once_and_made_good(tracker: MadeUp) -> None:
    said: list[str] = []
    publisher = publisher_of(tracker, said)
    tracker.failing = 5
    offer(publisher, 1)
    until(lambda: publisher.trouble)
    assert publisher.trouble == "no answer" or "\n" not in publisher.trouble
    until(lambda: not publisher.trouble)
    assert len(said) == 2 and tracker.written == [([1], ("y",), True)]
    assert publisher.close([2], {}, "KILLED") and tracker.ended[-1] == "KILLED"  # type: ignore[list-item]


def test_the_end_does_not_wait_for_ever(tracker: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_PATIENCE", 0.05)
    publisher = publisher_of(tracker, [])
    tracker.let.clear()
    began = time.monotonic()
    assert not publisher.close([1], {}, "FINISHED")  # type: ignore[list-item]
    assert time.monotonic() - began < 10
