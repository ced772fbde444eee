"""The response plot at the end of a search: what stands where, and where it is left out."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from search.base.space import Plan, SearchPoint
from search.records.search_records import SearchRecords
from search.session.response_plot import response_plot
from search.settings.config import resolve
from search.settings.plan import plan_of
from tests.search.records.test_results import record
from tests.search.records.test_results import search as searched


@pytest.fixture
def records() -> SearchRecords:
    """Quality 1 saves bits at 1e-7, quality 5 costs some at 1e-6, quality 3 very many at 1e-5."""
    found = []
    for quality, gain, strategy, alpha in (
        (1, -3.0, "y", 1e-7),
        (5, 5.0, "z", 1e-6),
        (3, 300.0, "y+z", 1e-5),
    ):
        trial = record(f"trial-00{quality}", quality, gain, strategy)
        found.append(replace(trial, point=SearchPoint(quality, strategy, alpha)))
    return searched(*found)


def plan(**settings: str) -> Plan:
    given = {"model": "hyperprior", "width": "8", "start": "scratch", **settings}
    return plan_of(resolve(given, {}, lambda _: 0).settings)


def shown(records: SearchRecords, own: Plan | None = None, **console: Any) -> tuple[list[Text], str]:
    """The plot, and what is printed of it."""
    screen = Console(file=io.StringIO(), highlight=False, legacy_windows=False, **console)
    found = response_plot(records, own or plan(), screen)
    for text in found:
        screen.print(text, soft_wrap=False)
    assert isinstance(screen.file, io.StringIO)
    return found, screen.file.getvalue()


def place(lines: list[str], mark: str) -> tuple[int, int]:
    """Row and column of a trial's mark."""
    return next((row, line[3:].index(mark) + 3) for row, line in enumerate(lines[:-1]) if mark in line[3:])


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_trials_are_marked_by_quality_at_their_alpha_and_rate_change(
    records: SearchRecords, width: int
) -> None:
    (_, plot), _ = shown(records, force_terminal=True, color_system="256", width=width)
    lines = plot.plain.split("\n")
    assert max(map(len, lines)) <= min(width, 78)
    axis = lines[-1]
    for quality, label in (("1", "1e-7"), ("5", "1e-6"), ("3", "1e-5")):
        assert abs(place(lines, quality)[1] - axis.index(label) - 1) <= 2
    zero = next(row for row, line in enumerate(lines) if line.startswith(" 0"))
    assert place(lines, "1")[0] > zero > place(lines, "5")[0] > place(lines, "3")[0]
    assert place(lines, "3")[0] <= 1  # +300 %, at the upper edge


def test_a_terminal_gets_a_colour_per_strategy(records: SearchRecords) -> None:
    (key, _), printed = shown(records, force_terminal=True, color_system="256", width=80)
    assert "colours: y, z, y+z" in key.plain and "1 of 3 above +10 %" in key.plain
    for mark, colour in (("1", 4), ("5", 5), ("3", 2)):
        assert f"\x1b[3{colour}m{mark}\x1b[0m" in printed or f"\x1b[38;5;{colour}m{mark}\x1b[0m" in printed


@pytest.mark.parametrize(
    "console", [{"width": 100_000}, {"force_terminal": True, "no_color": True, "width": 80}]
)
def test_elsewhere_it_is_plain_ascii(records: SearchRecords, console: dict[str, Any]) -> None:
    (key, plot), printed = shown(records, **console)
    assert "\x1b" not in printed and printed.isascii()
    assert "colour" not in key.plain and max(map(len, plot.plain.split("\n"))) <= 78


def test_it_is_left_out_where_there_is_nothing_to_draw_or_no_room(records: SearchRecords) -> None:
    assert shown(records, width=39) == ([], "")
    assert shown(searched(), width=80) == ([], "")
    without_term = replace(records.trials[0], point=SearchPoint(1, tuned=(("lr", 1e-4),)))
    assert shown(searched(without_term), width=80) == ([], "")
    alone = replace(records, baselines={})  # nothing to compare with
    assert shown(alone, width=80) == ([], "")


def test_every_quality_has_a_mark_of_its_own() -> None:
    lambdas = [0.001 * 1.2**number for number in range(12)]
    own = plan(lambdas=",".join(map(str, lambdas)))
    twelfth = replace(record("trial-012", 1, 0.0, "y"), point=SearchPoint(12, "y", 1e-6, lmbda=lambdas[11]))
    baseline = replace(record("baseline-q12", 1, 0.0), point=SearchPoint(12, lmbda=lambdas[11]))
    there = replace(searched(twelfth), baselines={12: baseline}, qualities=own.qualities)
    (key, plot), _ = shown(there, own, width=80)
    assert "(a = 10, b = 11, c = 12)" in key.plain
    assert any("c" in line for line in plot.plain.split("\n"))
