from __future__ import annotations

import dataclasses
import html
import re
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import pytest

from dashboards import plots, report
from dashboards.page import _effort, _times
from search.base.formats import percent
from search.base.space import SearchPoint
from search.records.folder import open_search
from search.records.results import OVERALL, bd_rate_text, best_per_rate, strategy_results
from search.records.search_records import FAILED, FINISHED, RUNNING, STOPPED, SearchRecords, TrialRecord
from search.session import summary
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
    found = {row[0]: row[1:] for row in cells(page, "Comparison with the baselines")}
    for result in strategy_results(records, search.plan.strategies):
        rates = f"{result.tuned} of {len(records.baselines)}"
        assert found[result.strategy][0] == bd_rate_text(result, result.bd_rate_psnr)
        assert found[result.strategy][2] == bd_rate_text(result, result.bd_rate_msssim)
        assert found[result.strategy][4] == rates
    assert found["best (paper)"][0] == "-1.17 %" and OVERALL in found
    told = summary.convergence(records)
    assert told and all(f"{sentence[1:]}.</p>" in html.unescape(page) for sentence in told)
    by_quality = {row[0]: row for row in cells(page, "Best point per quality")}
    for quality, record in best_per_rate(records).items():
        figures = record.readings[records.epochs]
        row = by_quality[str(quality)]
        assert row[4] == record.name
        assert row[5] == f"{figures[f'{records.test_set}/bpp']:.4f}"
        assert row[6] == f"{figures[f'{records.test_set}/psnr']:.2f}"
        change = percent(records.rate_change(record, records.epochs, records.test_set))
        assert row[8] == (change if record.alpha else "-")


def test_training_times_are_the_recorded_ones(real: Real, page: str) -> None:
    records = open_search("real", real[0]).records
    fastest = [
        min(figures["time/train_seconds"] for figures in baseline.readings.values())
        for baseline in records.baselines.values()
    ]
    rows = {row[0]: row for row in cells(page, "Training time")}
    assert rows["baseline"] == ["baseline", str(len(fastest)), f"{statistics.median(fastest):.4g}", ""]


def trained(name: str, quality: int, strategy: str, seconds: list[float], source: str = "") -> TrialRecord:
    """A training whose epochs took so long."""
    readings = {epoch: {"time/train_seconds": taken} for epoch, taken in enumerate(seconds, 1)}
    role, alpha = ("trial", 1e-6) if strategy else ("baseline", 0.0)
    state = FINISHED if len(seconds) == EPOCHS else STOPPED
    return TrialRecord(
        name, role, SearchPoint(quality, strategy or None, alpha), 0, state, "", readings, {}, source
    )


EPOCHS = 4


def times_of(trials: list[TrialRecord], baselines: list[TrialRecord]) -> dict[str, list[str]]:
    """The rows of Table III by strategy."""
    by_quality = {baseline.quality: baseline for baseline in baselines}
    records = SearchRecords("s", tuple(by_quality), EPOCHS, "val", "kodak", by_quality, trials)
    made = made_of("s")
    search = dataclasses.replace(made, records=records, plan=dataclasses.replace(made.plan, epochs=EPOCHS))
    return {row[0]: row[1:] for row in _times(search)}


#: Some trainings are a little quicker than others.
PACES = [1.0, 1.01, 1.03, 1.04]


def test_a_busy_machine_lengthens_no_training() -> None:
    """Every epoch of the trials but one ran beside other work."""
    baselines = [trained(f"baseline-q{q}", q, "", [pace] * EPOCHS) for q, pace in enumerate(PACES, 1)]
    busy = [2.4, 2.4, 1.0, 2.4]
    trials = [
        trained(f"trial-{n:04d}", 1, "y", [pace * load for load in busy]) for n, pace in enumerate(PACES)
    ]
    trials.append(trained("trial-0009", 1, "y", [9.0]))  # stopped: of one epoch the fastest says little
    rows = times_of(trials, baselines)
    assert rows["baseline"] == ["4", "1.02", ""]
    assert rows["y"][:2] == ["4", "1.02"]
    assert rows["y"][2].startswith("+0.0 % [-") and rows["y"][2].endswith("], not distinguishable from 0")


def test_an_increase_beyond_the_noise_is_told_with_its_interval() -> None:
    baselines = [trained(f"baseline-q{q}", q, "", [pace] * EPOCHS) for q, pace in enumerate(PACES, 1)]
    trials = [trained(f"trial-{n:04d}", 1, "y", [1.08 * pace] * EPOCHS) for n, pace in enumerate(PACES)]
    found = re.fullmatch(r"\+8\.0 % \[\+(.+), \+(.+)\]", times_of(trials, baselines)["y"][2])
    assert found is not None and 4 < float(found[1]) < 8 < float(found[2]) < 12


def test_baselines_of_another_search_never_count_for_training_time() -> None:
    own = [trained(f"baseline-q{q}", q, "", [pace] * EPOCHS) for q, pace in enumerate(PACES, 1)]
    taken = [trained(f"baseline-q{q}", q, "", [0.1] * EPOCHS, "another") for q in (5, 6)]
    trials = [trained(f"trial-{n:04d}", 1, "y", [pace] * EPOCHS) for n, pace in enumerate(PACES)]
    assert times_of(trials, [*own, *taken]) == times_of(trials, own)
    assert times_of(trials, taken)["y"][2] == "too few training runs"
    assert times_of([], taken) == {}


def test_epochs_that_a_search_has_not_trained_yet_are_not_saved() -> None:
    trials = [
        trained("trial-0000", 1, "y", [1.0] * EPOCHS),
        trained("trial-0001", 1, "y", [1.0]),
        dataclasses.replace(trained("trial-0002", 1, "y", [1.0] * 2), state=RUNNING),
        dataclasses.replace(trained("trial-0003", 1, "y", [1.0]), state=FAILED),
    ]
    records = SearchRecords("s", (1,), EPOCHS, "val", "kodak", {}, trials)
    said = _effort(dataclasses.replace(made_of("s"), records=records))
    assert "trained 8 epochs in total" in said and "saved 3 of 8 epochs" in said and "(38 %)" in said
    assert "8 s of worker time" in said


def test_a_change_beyond_the_axis_is_told_as_it_is() -> None:
    search = made_of("s")
    figures = search.records.trials[0].readings[1]
    figures["val/bpp"] *= 40
    texts = [text for trace in plots.rungs(search).data for text in trace.text or ()]
    change = search.records.rate_change(search.records.trials[0], 1, "val")
    assert change is not None and change > 1000 and f"{change:+.2f} %" in texts


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
    assert f"links to {precious}, outside the search's folder; remove it" in capsys.readouterr().err
    assert precious.read_text() == "mine"


def test_a_search_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["nothing", "--results", str(tmp_path)]) == 2
    assert "there is no search 'nothing'" in capsys.readouterr().err
