"""Names and texts from outside are shown in the report and on a model card, and are never a part of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import markdown_it
import numpy as np
import pytest
from plotly.offline import get_plotlyjs

import dashboards.page
from dashboards.examples import Examples
from lic.evaluation.example import Example
from lic.evaluation.latents import Examined
from search.base.space import SearchPoint
from search.records.folder import OpenedSearch
from search.records.results import strategy_results
from search.records.search_records import FAILED, FINISHED, SearchRecords, TrialRecord
from search.settings.config import Settings
from search.settings.plan import plan_of
from search.zoo import card
from tests.support import browser

if TYPE_CHECKING:
    from playwright.sync_api import Page

HARMLESS = "harmless"
HOSTILE = (
    "</script><script>window.ran=1</script>\"'><img src=x onerror=window.ran=1>`<svg onload=window.ran=1>`"
    "</pre></code><a href='https://evil.example'>x</a>\n\n<b onmouseover=window.ran=1>![x](https://evil.example/x)"
)


def record(text: str, role: str, number: int, quality: int, alpha: float) -> TrialRecord:
    gain = 0.99**number
    figures = {
        f"{name}/{key}": value
        for name in ("val", text)
        for key, value in {
            "bpp": 0.1 * quality * gain, "mse": 60.0 / quality, "psnr": 28.0 + quality,
            "ms_ssim": 0.9 + 0.01 * quality, "ms_ssim_db": 10.0 + quality,
        }.items()
    }  # fmt: skip
    images = {f"{text}/{key}": [figures[f"{text}/{key}"]] * 3 for key in ("bpp", "mse", "psnr", "ms_ssim")}
    name = f"{text}{number}" if alpha else f"baseline-q{quality}"
    state = FAILED if number == 3 else FINISHED
    return TrialRecord(
        name, role, SearchPoint(quality, "y" if alpha else None, alpha), 0, state, text,
        {1: figures, 2: figures}, {1: images, 2: images}, text,
    )  # fmt: skip


def made_of(text: str) -> OpenedSearch:
    """A search in which everything that can come from outside is this text."""
    folder = Path("/results") / text.replace("/", "\\")
    settings = Settings(model="hyperprior", rates=(1, 2, 3, 4), strategies=("y",), epochs=2, budget=4)
    # Not checked: what is shown is to be safe whatever comes by.
    settings = settings.model_copy(update={"data": f"/data/{text}", "start": f"/{text}"})
    baselines = {quality: record(text, "baseline", 0, quality, 0.0) for quality in settings.rates}
    trials = [record(text, "trial", number, number + 1, 1e-6) for number in range(4)]
    records = SearchRecords(text, settings.rates, 2, "val", text, baselines, trials)
    known = ("command", "git_commit", "machine", "train_fingerprint", "version_torch", "version_compressai",
             "version_ray", "version_optuna")  # fmt: skip
    return OpenedSearch(folder, settings, plan_of(settings), records, dict.fromkeys(known, text))


def page_of(text: str, with_examples: bool = True) -> str:
    search, draw = made_of(text), np.random.default_rng(0)
    pixels = draw.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    measured = {"bpp": 0.5, "psnr": 30.0, "ms_ssim": 0.9}
    seen = Examined(pixels, measured, np.ones((8, 8), np.float32), np.eye(4), np.arange(1.0, 5.0))
    example = Example(text, pixels, seen, seen, (slice(0, 64), slice(0, 64)))
    trials, baselines = search.records.trials, search.records.baselines
    found = Examples(trials[0], baselines[1], -1.0, [example]) if with_examples else None
    by_strategy = strategy_results(search.records, search.plan.strategies)
    return dashboards.page.page(search, by_strategy, dashboards.page._figures(search, found), found, text)


class Elements(HTMLParser):
    """The elements of a page with the names of their attributes, counted, and where its links lead."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.links: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found[" ".join([tag, *sorted(name for name, _ in attrs)])] += 1
        self.links += [value for name, value in attrs if name == "href"]


@pytest.mark.parametrize("with_examples", [True, False])
def test_a_report_has_the_same_elements_whatever_the_names(with_examples: bool) -> None:
    # Without Plotly's own code, which takes seconds to parse.
    pages = [page_of(text, with_examples).replace(get_plotlyjs(), "") for text in (HARMLESS, HOSTILE)]
    harmless, hostile = map(Elements, pages)
    assert hostile.found == harmless.found
    assert not any(" on" in element for element in hostile.found)
    assert hostile.links == []


@pytest.fixture
def page(tmp_path: Path) -> Iterator[tuple[Page, browser.Seen]]:
    """The hostile report in a browser."""
    if browser.MISSING:
        pytest.skip(browser.MISSING)
    target = tmp_path / "report.html"
    target.write_text(page_of(HOSTILE))
    with browser.chromium() as started:
        page, seen = browser.fresh_page(started, 1200, 900)
        page.goto(target.as_uri())
        page.wait_for_load_state("networkidle")
        yield page, seen


def test_nothing_of_the_names_runs_in_a_browser(page: tuple[Page, browser.Seen]) -> None:
    shown, seen = page
    plots = shown.locator(".js-plotly-plot")
    assert plots.count() >= 4
    assert "<img src=x" in (shown.locator("#rd .xtitle").first.text_content() or "")  # as it is, and dead
    for plot in ("#rd", "#rungs"):
        shown.locator(plot).scroll_into_view_if_needed()
        for point in shown.locator(f"{plot} .points path").all()[:3]:
            box = point.bounding_box()
            assert box is not None
            shown.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert shown.evaluate("window.ran") is None
    assert shown.locator("a[*|href*='evil'], .js-plotly-plot img, svg[onload]").count() == 0
    assert seen.errors == [] and seen.requests == []


def card_of(text: str, tmp_path: Path) -> str:
    """The model card as HTML."""
    search = made_of(text)
    chosen = dict.fromkeys((1, 2), search.records.trials[0])
    choices = {quality: card.Choice(record, {}, (text,)) for quality, record in chosen.items()}
    figures = card.ZooMetrics.of(search, chosen, None, text)
    return (
        markdown_it.MarkdownIt("commonmark", {"html": True})
        .enable("table")
        .render(card.readme(search, figures, choices, tmp_path, card.About(text)))
    )


def test_a_model_card_has_the_same_elements_whatever_the_names(tmp_path: Path) -> None:
    harmless, hostile = Elements(card_of(HARMLESS, tmp_path)), Elements(card_of(HOSTILE, tmp_path))
    assert hostile.found == harmless.found
    assert hostile.links == harmless.links
