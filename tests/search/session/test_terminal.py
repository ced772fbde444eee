"""What a search shows while it runs."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from search.base.space import Plan
from search.records.folder import open_search
from search.records.progress import Progress, progress_of
from search.session.terminal import LiveView, PlainView, duration, line, speed, view_for
from tests.support.made_up import made_up_search


@pytest.fixture(scope="module")
def progress(tmp_path_factory: pytest.TempPathFactory) -> Progress:
    """Of a search that has ended, all of which is news."""
    root = tmp_path_factory.mktemp("made-up")
    made_up_search(root / "mine")
    search = open_search("mine", root, with_model=False)
    plan: Plan = search.plan
    found = progress_of([search.records], plan, 0, 1, 0.0, 60.0)
    return replace(found, news=found.trainings)


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=200, no_color=True)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_seconds_are_said_as_a_person_would() -> None:
    said = {0: "0 s", 89.4: "89 s", 90: "2 min", 3600: "60 min", 7140: "119 min", 7200: "2 h 00 min"}
    assert {seconds: duration(seconds) for seconds in said} == said
    assert duration(3 * 3600 + 20 * 60) == "3 h 20 min"


def test_a_pace_is_said_in_the_unit_that_makes_it_one_or_more() -> None:
    assert speed(2.5) == "2.5 epochs/s"
    assert speed(0.5) == "30.0 epochs/min"
    assert speed(1.2 / 3600) == "1.2 epochs/h"


def test_lines_are_numbered_one_for_each_training_that_ended(progress: Progress) -> None:
    assert len(progress.news) == progress.over == progress.planned == 6
    screen = console(terminal=False)
    view = view_for(screen)
    assert type(view) is PlainView
    view.show(progress)
    view.show(replace(progress, news=[]))
    view.say("[bold]as it is[/bold]")
    view.close()
    *lines, last = text_of(screen).splitlines()
    assert last == "[bold]as it is[/bold]"
    assert [told[:7] for told in lines] == [f"[  {number}/6]" for number in range(1, 7)]
    assert [told.split()[2] for told in lines] == [record.name for record in progress.news]
    for told, record in zip(lines, progress.news, strict=True):
        assert f" q{record.quality} " in told and record.state in told


def test_in_a_terminal_a_table_stays_in_place(progress: Progress) -> None:
    screen = console(terminal=True)
    view = view_for(screen)
    assert isinstance(view, LiveView)
    view.show(replace(progress, trouble="no answer from MLflow"))
    view._live.refresh()
    view.close()
    shown = text_of(screen)
    assert f"{progress.over} of {progress.planned}" in shown
    assert "no answer from MLflow" in shown
    assert "trials that reached epoch" in shown


def test_where_the_terminal_is_gone_lines_are_kept(
    progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = console(terminal=True)
    view = LiveView(screen)
    monkeypatch.setattr("search.session.terminal.output_is_gone", lambda: True)
    view.show(progress)
    assert len(text_of(screen).splitlines()) >= len(progress.news) and not view._live.is_started
    view.close()


def test_a_training_that_failed_says_why(progress: Progress) -> None:
    failed = replace(progress.search.trials[0], state="failed", reason="out of memory")
    told = line(progress.search, failed)
    assert f"after {failed.last_epoch} of {progress.search.epochs}" in told and "out of memory" in told
