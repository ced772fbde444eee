"""What a running search's monitor passes on, over records in memory and a clock that is set by hand."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from optuna.storages import InMemoryStorage

from search.base.space import Candidate
from search.decide.core import Core
from search.records.confirm import FixedSchedule, baselines_on
from search.records.progress import Progress
from search.records.search_records import RecordReader
from search.session import monitor
from search.session.monitor import Followed, Monitor, start_report, tree_memory
from search.store.optuna_internals import storage_of
from tests.search.decide.test_core import PLAN, figures

QUICK = replace(PLAN, qualities=(1,), epochs=2, rungs=(), budget=9, sampler="random")


class Seen:
    """A view, a publisher, a retention and gauges, which keep what they are given."""

    def __init__(self) -> None:
        self.shown: list[Progress] = []
        self.offered: list[list[Any]] = []
        self.gauges: list[float] = []
        self.trouble, self.behind, self.closed = "", 3.0, False

    def show(self, progress: Progress, behind: float | None = None) -> None:
        if behind is None:
            self.shown.append(progress)
        else:
            self.gauges.append(behind)

    def offer(self, groups: list[Any]) -> None:
        self.offered.append(groups)

    def close(self) -> None:
        self.closed = True

    def news(self) -> list[list[str]]:
        return [[record.name for record in progress.news] for progress in self.shown]


class Reports:
    """Processes that write reports, each at work until it is let."""

    def __init__(self) -> None:
        self.started: list[SimpleNamespace] = []

    def __call__(self, _: Path) -> SimpleNamespace:
        process = SimpleNamespace(pid=0, status=None, killed=False)
        process.poll = lambda: process.status
        process.kill = lambda: setattr(process, "killed", True)
        process.wait = lambda: process.killed
        self.started.append(process)
        return process


@pytest.fixture(autouse=True)
def reports(monkeypatch: pytest.MonkeyPatch) -> Reports:
    made = Reports()
    monkeypatch.setattr(monitor, "start_report", made)
    monkeypatch.setattr(monitor, "_LOOK_EVERY", 0.0)
    monkeypatch.setattr(monitor, "tree_memory", lambda: 7.0)
    return made


@pytest.fixture
def core() -> Core:
    return Core(InMemoryStorage(), "s", QUICK)


@pytest.fixture
def seen() -> Seen:
    return Seen()


#: What makes a monitor of a search, in which nothing is published elsewhere; all are closed at the end.
Started = Callable[..., Monitor]


@pytest.fixture
def started(core: Core, seen: Seen, tmp_path: Path) -> Iterator[Started]:
    made: list[Monitor] = []

    def start(**others: Any) -> Monitor:
        plan = others.pop("plan", QUICK)
        reader = lambda: RecordReader((core.trials, core.baselines), plan, "kodak")  # noqa: E731
        followed: Any = SimpleNamespace(
            opened=SimpleNamespace(path=tmp_path), plan=plan, workers=1, reader=reader
        )
        made.append(Monitor(followed, seen, seen, **others))  # type: ignore[arg-type]
        return made[-1]

    yield start
    for each in made:
        each.close()


def begin(core: Core) -> Candidate:
    candidate = core.suggest()
    assert candidate is not None
    return candidate


def end(core: Core, candidate: Candidate) -> str:
    for epoch in range(1, QUICK.epochs + 1):
        core.observe(candidate.name, epoch, figures(candidate, epoch))
        core.decide(candidate.name, epoch)
    return candidate.name


def until(happened: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_it_looks_when_something_has_changed_and_a_last_time_when_it_is_closed(
    core: Core, seen: Seen, started: Started
) -> None:
    follower = started()
    first = begin(core)
    follower.changed()
    until(lambda: seen.shown)
    assert [record.name for record in seen.shown[-1].trainings] == [first.name] and seen.news() == [[]]
    end(core, first)
    follower.close()
    assert seen.closed and seen.shown[-1].over == 1


def test_what_ended_is_news_once_in_the_order_of_ending(core: Core, seen: Seen, started: Started) -> None:
    end(core, begin(core))
    slow, quick = begin(core), begin(core)
    follower = started()  # for which the baseline is no news
    names = [end(core, quick), end(core, slow)]
    follower.close()
    follower._look()
    assert [names_of for names_of in seen.news() if names_of] == [names]


def test_the_records_are_passed_to_all_that_follow_them(core: Core, seen: Seen, started: Started) -> None:
    retention = Seen()
    end(core, begin(core))
    follower = started(retention=retention, gauges=seen)
    assert len(retention.offered) == 1  # before the search goes on: what ended in an earlier session
    follower.close()
    assert retention.offered[-1] == seen.offered[-1] == follower.groups()
    assert [record.name for record in seen.offered[-1][0].everything()] == ["baseline-q1"]
    assert seen.gauges[-1] == 3.0 and follower.peak_memory == 7.0


def test_the_trouble_of_the_publisher_is_shown(seen: Seen, started: Started) -> None:
    seen.trouble = "the server is away"
    started().close()
    assert {progress.trouble for progress in seen.shown} == {"the server is away"}


def test_trainings_on_fresh_seeds_are_read_where_some_are_planned(
    core: Core, seen: Seen, started: Started
) -> None:
    seeds = FixedSchedule(storage_of(core.trials), "s", QUICK, baselines_on(QUICK, 1))
    assert seeds.suggest() is not None
    started().close()
    assert len(seen.offered[-1]) == 1
    follower = started(plan=replace(QUICK, noise_seeds=2))
    assert follower.confirming == 2
    follower.close()
    assert [record.name for record in seen.offered[-1][1].everything()] == ["baseline-q1-s1"]
    assert seen.shown[-1].planned == 9 + 1 + 2


def test_it_watches_before_it_begins_and_whenever_it_looks(seen: Seen, started: Started) -> None:
    watched: list[int] = []
    follower = started(watch=lambda: watched.append(len(seen.shown)))
    assert watched[0] == 0
    follower.close()
    assert watched[1:] == list(range(len(seen.shown)))


def test_a_failure_is_logged_and_the_next_look_tells_what_it_missed(
    core: Core, seen: Seen, started: Started, caplog: pytest.LogCaptureFixture
) -> None:
    follower = started()
    name = end(core, begin(core))
    failed = threading.Event()

    def broken(*_: Any) -> None:
        failed.set()
        raise OSError("no terminal")

    with caplog.at_level(logging.ERROR), pytest.MonkeyPatch.context() as patch:
        patch.setattr(seen, "show", broken)
        follower.changed()
        assert failed.wait(30)
    follower.close()
    assert "the monitor failed" in caplog.text and "no terminal" in caplog.text
    assert [names for names in seen.news() if names] == [[name]]


def test_a_failure_before_it_begins_is_raised(started: Started) -> None:
    def broken() -> None:
        raise OSError("the folder is gone")

    with pytest.raises(OSError, match="the folder is gone"):
        started(watch=broken)


class Clock(SimpleNamespace):
    """The time module of the monitor, with a clock that stands still."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(monitor, "time", made)
    monkeypatch.setattr(monitor, "processors", lambda: 2)
    monkeypatch.setattr(
        "search.session.monitor.psutil.Process", lambda *_: SimpleNamespace(nice=lambda _: None)
    )
    return made


def test_a_report_takes_a_two_hundredth_of_the_machine(
    clock: Clock, reports: Reports, tmp_path: Path
) -> None:
    """The first, of 30 s at most, after 3000 s on two processors; then one as often as the last allows."""
    report = monitor._Report(tmp_path)

    def reports_at(moment: float) -> int:
        clock.now = moment
        report.refresh()
        return len(reports.started)

    assert [reports_at(moment) for moment in (0, 2999, 3000)] == [0, 0, 1]
    assert reports_at(90_000) == 1  # it is still at work
    reports.started[0].status = 0
    took = 90_010 - 3000
    assert reports_at(90_010) == 1
    assert [reports_at(took * 200 - 1), reports_at(took * 200)] == [1, 2]


def test_a_report_at_work_is_ended_with_the_search(clock: Clock, reports: Reports, tmp_path: Path) -> None:
    report = monitor._Report(tmp_path)
    report.stop()
    clock.now = 3000
    report.refresh()
    report.stop()
    assert reports.started[0].killed
    reports.started[0].status, reports.started[0].killed = 0, False
    report.stop()
    assert not reports.started[0].killed


def test_there_is_no_report_before_a_trial_is_trained_in_full(
    core: Core, started: Started, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "_REPORTING", 0)
    monkeypatch.setattr(
        "search.session.monitor.psutil.Process", lambda *_: SimpleNamespace(nice=lambda _: None)
    )
    end(core, begin(core))
    follower = started()
    follower.close()
    assert reports.started == []
    end(core, begin(core))
    follower._look()
    assert len(reports.started) == 1


def test_the_output_of_a_report_is_added_to_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", shutil.which("echo"))
    (tmp_path / "search.log").write_text("before\n")
    assert start_report(tmp_path).wait() == 0
    assert (tmp_path / "search.log").read_text() == f"before\n-m dashboards.report {tmp_path}\n"


def test_the_memory_of_a_process_that_has_ended_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        def __init__(self, mebibytes: float | None = 1.5) -> None:
            self.mebibytes = mebibytes

        def children(self, recursive: bool) -> list[Process]:
            assert recursive
            return [Process(None), Process(2.0)]

        def memory_full_info(self) -> SimpleNamespace:
            if self.mebibytes is None:
                raise psutil.NoSuchProcess(1)
            return SimpleNamespace(pss=self.mebibytes * 2**20)

    monkeypatch.setattr("search.session.monitor.psutil.Process", Process)
    assert tree_memory() == 3.5


def test_a_followed_search_is_read_from_its_folder(core: Core) -> None:
    opened: Any = SimpleNamespace(studies=lambda: (core.trials, core.baselines))
    end(core, begin(core))
    records = Followed(opened, QUICK, "leaves", 1).reader().read()
    assert (records.test_set, list(records.baselines)) == ("leaves", [1])
