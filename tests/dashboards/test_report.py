from __future__ import annotations

import dataclasses
import html
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from dashboards import report
from search.folder import open_search
from search.results import OVERALL, best_per_rate, strategy_results
from search.summary import interval
from tests.dashboards.test_injection import made_of

Real = tuple[Path, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def page(real: Real) -> str:
    started = time.monotonic()
    assert report.main(["real", "--results", str(real[0])]) == 0
    assert time.monotonic() - started < 60
    target = real[0] / "real" / "report.html"
    assert target.stat().st_size < 6 * 2**20
    return target.read_text()


def cells(page: str, heading: str) -> list[list[str]]:
    """The rows of the table below a heading, as text."""
    part = page[page.index(f"<h2>{heading}</h2>") :]
    table = part[part.index("<table>") : part.index("</table>")]
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd]>(.*?)</t[hd]>", row)] for row in rows]


def test_the_tables_equal_the_records(real: Real, page: str) -> None:
    search = open_search("real", real[0])
    records = search.records
    found = {row[0]: row[1:] for row in cells(page, "Against the baselines")}
    for result in strategy_results(records, search.plan.strategies):
        rates = f"{result.tuned} of {len(records.baselines)}"
        assert found[result.strategy][0] == interval(result.bd_rate_psnr)
        assert found[result.strategy][2] == interval(result.bd_rate_msssim)
        assert found[result.strategy][4] == rates
    assert found["the paper's best"][0] == "-1.17 %" and OVERALL in found
    by_quality = {row[0]: row for row in cells(page, "Best per rate")}
    for quality, record in best_per_rate(records).items():
        figures = record.readings[records.epochs]
        row = by_quality[str(quality)]
        assert row[4] == record.name
        assert row[5] == f"{figures[f'{records.test_set}/bpp']:.4f}"
        assert row[6] == f"{figures[f'{records.test_set}/psnr']:.2f}"
        assert row[8] == f"{records.rate_change(record, records.epochs, records.test_set):+.2f} %"


def test_training_times_are_the_recorded_ones(real: Real, page: str) -> None:
    records = open_search("real", real[0]).records
    taken = sorted(
        figures["time/train_seconds"]
        for baseline in records.baselines.values()
        for figures in baseline.readings.values()
    )
    rows = {row[0]: row for row in cells(page, "Training time")}
    middle = (taken[(len(taken) - 1) // 2] + taken[len(taken) // 2]) / 2
    assert rows["baseline"][1] == f"{middle:.2f}" and rows["baseline"][3] == str(len(taken))


def test_the_page_needs_no_network_and_shows_every_trial(real: Real, page: str) -> None:
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?(?:https?:)?//", page)
    plots = page[page.index('id="response"') : page.index("<h2>Training time</h2>")]
    for trial in open_search("real", real[0]).records.trials:
        # In the response to alpha and among the learning curves; Plotly's JSON escapes the tags around it.
        assert plots.count(f"{trial.name}\\u003c") >= (2 if trial.readings else 1), trial.name


def test_what_it_shows_is_escaped(real: Real, tmp_path: Path) -> None:
    shutil.copytree(real[0] / "real", tmp_path / "real", ignore=shutil.ignore_patterns("trials", "artifacts"))
    environment = tmp_path / "real" / "environment.json"
    environment.write_text(
        environment.read_text().replace("python -m", "<script>alert(1)</script> python -m")
    )
    assert report.main(["real", "--results", str(tmp_path)]) == 0
    assert "<script>alert(1)" not in (tmp_path / "real" / "report.html").read_text()


def test_a_link_in_its_folder_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "figures").symlink_to(precious)
    search = dataclasses.replace(made_of("search"), folder=tmp_path / "search")
    monkeypatch.setattr("dashboards.page.open_search", lambda *_: search)
    assert report.main(["search"]) == 2
    assert f"leads to {precious}, outside the search's folder; remove it" in capsys.readouterr().err
    assert precious.read_text() == "mine"


def test_a_search_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["nothing", "--results", str(tmp_path)]) == 2
    assert "there is no search 'nothing'" in capsys.readouterr().err
