"""MLflow's views and the report as a browser with a fresh profile shows them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed; it is in the extra dev")

from playwright.sync_api import Browser, Page

from dashboards.links import serve
from dashboards.servers import Servers
from search.records.folder import OpenedSearch, open_search
from search.records.search_records import TrialRecord
from tests.support.browser import MISSING, chromium, fresh_page

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

Real = tuple[Path, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def search(real: Real) -> OpenedSearch:
    return open_search("real", real[0])


@pytest.fixture(scope="module")
def links(search: OpenedSearch) -> Iterator[dict[str, str]]:
    with Servers() as servers:
        yield serve(search, servers, 5000, 8080)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def test_the_leaderboard_shows_every_trial_with_its_figures(
    search: OpenedSearch, links: dict[str, str], browser: Browser
) -> None:
    page, _ = fresh_page(browser)
    page.goto(links["leaderboard"])
    shown = table(page)
    records = search.records
    change, bd_rate = (
        f"metrics.`{records.selection}/rate_change`",
        f"metrics.`{records.test_set}/bd_rate_psnr`",
    )
    headers = page.locator(".ag-header-cell-sortable").all_inner_texts()
    assert {f"{records.selection}/rate_change", f"{records.test_set}/bd_rate_msssim", "alpha"} <= set(headers)
    expected = [row(search, trial) for trial in records.trials]
    assert len(shown) == len(expected) == 8
    for found in shown:
        like = [known for known in expected if known["point"] == point(found)]
        assert like, point(found)
        for column in (change, bd_rate):
            values = [pytest.approx(known[column], abs=5e-4) for known in like]
            assert number(found[column]) in values, (column, found)
        assert found["tags.`lictune.state`"] in [known["state"] for known in like]
        assert found["tags.`lictune.epochs`"] in [known["epochs"] for known in like]
    finals = [found[f"metrics.`{records.selection}/final_rate_change`"] for found in shown]
    best = [number(text) for text in finals[: len(records.finished())]]
    assert best and best == sorted(best)
    assert set(finals[len(best) :]) <= {"-"}  # those that were stopped are below


def point(shown: dict[str, str]) -> tuple[str, ...]:
    return tuple(shown[f"params.`{name}`"] for name in ("alpha", "strategy", "lambda", "quality"))


def row(search: OpenedSearch, trial: TrialRecord) -> dict[str, object]:
    """What the leaderboard should show of a trial: of every figure the last there is."""
    figures: dict[str, object] = {}
    for epoch in sorted(trial.readings):
        derived = search.records.derived(trial, epoch)
        figures |= {f"metrics.`{name}`": value for name, value in derived.items()}
    return {
        **figures,
        "point": (f"{trial.alpha:.3g}", trial.strategy, f"{trial.lmbda:.3g}", str(trial.quality)),
        "state": trial.state,
        "epochs": str(trial.last_epoch),
    }


def number(text: str) -> float:
    return float(text.replace("\u2212", "-"))


def table(page: Page) -> list[dict[str, str]]:
    """The rows of MLflow's table from the top, by column."""
    page.wait_for_selector(".ag-center-cols-container .ag-row [col-id^='metrics.']")
    rows = page.evaluate(
        """() => [...document.querySelectorAll('.ag-center-cols-container .ag-row')].map(row => [
            Number(row.getAttribute('row-index')),
            Object.fromEntries([...row.querySelectorAll('.ag-cell')].map(
                cell => [cell.getAttribute('col-id'), cell.innerText.trim()])),
        ])"""
    )
    return [cells for _, cells in sorted(rows, key=lambda row: row[0])]


def test_the_chart_views_draw(search: OpenedSearch, links: dict[str, str], browser: Browser) -> None:
    quality = search.records.trials[0].quality
    runs = sum(record.quality == quality for record in search.records.everything())
    count = "plot => new Set(plot.data.map(trace => trace.name)).size"  # a run has two traces, one of a name
    page, _ = fresh_page(browser)
    page.goto(links[f"learning curves, q{quality}"])
    charts = page.locator(".js-plotly-plot", has=page.locator(".scatterlayer .trace"))
    charts.nth(3).wait_for()
    assert [chart.evaluate(count) for chart in charts.all()] == [runs] * 4
    page, _ = fresh_page(browser)
    page.goto(links["parallel coordinates"])
    axes = page.locator(".dimension text.label")
    axes.first.wait_for()
    assert axes.all_text_contents()[:3] == ["quality", "strategy", "log10_alpha"]


def test_the_report_draws_every_plot_without_the_network(links: dict[str, str], browser: Browser) -> None:
    page, seen = fresh_page(browser)
    page.goto(links["report"])
    page.wait_for_load_state("networkidle")
    drawn = page.eval_on_selector_all(
        ".js-plotly-plot",
        "plots => plots.map(plot => plot.querySelectorAll('.points path, path.js-line').length)",
    )
    assert len(drawn) >= 3 and min(drawn) > 0
    assert seen.errors == [] and seen.requests == []


def test_errors_and_requests_would_be_seen(tmp_path: Path, browser: Browser) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text("<img src='http://127.0.0.1:9/plot.png'><script>missing()</script>")
    page, seen = fresh_page(browser)
    page.goto(broken.as_uri())
    page.wait_for_load_state("networkidle")
    assert seen.requests == ["http://127.0.0.1:9/plot.png"]
    assert any("missing is not defined" in error for error in seen.errors)


def test_hovering_over_a_point_names_its_trial(
    search: OpenedSearch, links: dict[str, str], browser: Browser
) -> None:
    page, _ = fresh_page(browser)
    page.goto(links["report"])
    page.wait_for_selector("#response .points path")
    page.locator("#response").scroll_into_view_if_needed()
    # Of the points that the plot gives a trial's name, the one farthest from all others.
    name, x, y = page.evaluate(
        """() => {
            const all = [...document.querySelectorAll('#response .points path')].map(point => {
                const box = point.getBoundingClientRect();
                const name = (point.__data__.tx || '').match(/trial-[0-9]+/);
                return [name && name[0], box.x + box.width / 2, box.y + box.height / 2];
            });
            const room = ([, x, y]) => all.map(p => Math.hypot(p[1] - x, p[2] - y)).sort((a, b) => a - b)[1];
            return all.filter(p => p[0]).sort((a, b) => room(b) - room(a))[0];
        }"""
    )
    assert name in {trial.name for trial in search.records.trials}
    assert page.locator("#response .hovertext").count() == 0
    page.mouse.move(x, y)
    assert name in (page.locator("#response .hovertext").first.text_content() or "")
