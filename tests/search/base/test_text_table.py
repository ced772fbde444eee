"""No figure of a table is cut, however narrow the terminal, nor where there is none."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from lic.evaluation.bdrate import Interval
from search.base.space import Plan, SearchPoint
from search.base.text_table import TextTable, text_console
from search.decide.belief import Prediction
from search.decide.recommend import Recommendation
from search.records.confirmed import Confirmed, table_of
from search.records.progress import Progress
from search.records.results import OVERALL, StrategyResult, rate_table, strategy_results, strategy_table
from search.records.search_records import FAILED, STOPPED, SearchRecords
from search.reproduction import report
from search.session import summary, terminal
from search.simulation import simulator as simulation
from tests.search.records.test_results import QUALITIES, record, search
from tests.search.reproduction.test_reproduction import PROTOCOL, everything

WIDTHS = [60, 80, 100, 120, 200, None]

#: Standard output as each width has it; None: it is no terminal.
Screen = Callable[[int | None], tuple[Console, io.StringIO]]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    def made(width: int | None) -> tuple[Console, io.StringIO]:
        file = io.StringIO()
        monkeypatch.setattr("sys.stdout", file)
        if width is not None:
            monkeypatch.setattr(file, "isatty", lambda: True, raising=False)
            monkeypatch.setenv("COLUMNS", str(width))
            monkeypatch.setenv("TERM", "xterm")
            monkeypatch.setenv("NO_COLOR", "1")
        return text_console(), file

    return made


def of_a_search() -> SearchRecords:
    """Figures as long as they get: six-digit harm, weights far from 1."""
    kept = [
        dataclasses.replace(
            record(f"trial-{60 + q:04d}", q, 3987.12, "y+z"), point=SearchPoint(q, "y+z", 8.14e-6)
        )
        for q in QUALITIES[:5]
    ]
    lucky = [record(f"trial-{160 + q:04d}", q, -99.87, "y") for q in QUALITIES]
    expected = {t.name: Prediction(-82.34, 56.78) for t in kept}
    expected |= {t.name: Prediction(43.21, 56.78) for t in lucky}
    return dataclasses.replace(search(*kept, *lucky), expected=expected)


PSNR, MS_SSIM = Interval(-123.45, -678.91, +3987.12), Interval(-1.23, -45.67, +89.01)
RESULTS = [
    StrategyResult(name, 5, PSNR, -82.345, MS_SSIM, +67.891, "") for name in ("y", "z", "y+z", OVERALL)
]
CONFIRMED = [
    Confirmed(SearchPoint(q, "y+z", 8.14e-6), f"trial-{63 + q:04d}", 12, Interval(-82.34, -56.78, 3987.12))
    for q in QUALITIES
]


def shown(screen: Screen, width: int | None, table: TextTable) -> str:
    console, file = screen(width)
    console.print(table)
    return checked(file, width)


def printed(file: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())


def checked(file: io.StringIO, width: int | None) -> str:
    """What was printed; a terminal has no line to break."""
    text = printed(file)
    assert "…" not in text and "..." not in text
    if width is not None:
        longest = max(text.splitlines(), key=len)
        assert len(longest) <= width, longest
    return text


@pytest.mark.parametrize("width", WIDTHS)
def test_the_best_per_rate(screen: Screen, width: int | None) -> None:
    records = of_a_search()
    text = shown(screen, width, summary.rates(records))
    rows = rate_table(records).to_dict("records")
    assert [row["trial"] for row in rows] == [*(f"trial-{60 + q:04d}" for q in QUALITIES[:5]), "baseline-q6"]
    for row in rows:
        for figure in (
            f"{row['lambda']:g}", f"{row['bpp']:.4f}", f"{row['psnr']:.2f}", f"{row['ms_ssim']:.4f}",
            row["trial"], f"{row['best_observed_rate_change']:+.2f} % ({row['best_observed_trial']})",
        ):  # fmt: skip
            assert figure in text, figure
    assert text.count("8.14e-06") == text.count("y+z") == text.count("+3987.12 %") == 5
    assert text.count("-82.34 ± 56.78 %") == 5 and text.count("0 (baseline)") == 1


@pytest.mark.parametrize("width", WIDTHS)
def test_the_strategies(screen: Screen, width: int | None) -> None:
    text = shown(screen, width, summary.strategies(of_a_search(), RESULTS))
    for row in strategy_table(RESULTS).to_dict("records"):
        for key in ("bd_rate_psnr", "bd_rate_msssim"):
            figure = f"{row[key]:+.2f} % [{row[f'{key}_low']:+.2f}, {row[f'{key}_high']:+.2f}]"
            assert text.count(figure) == 4, figure
        for key in ("bd_psnr", "bd_msssim"):
            assert text.count(f"{row[key]:+.3f} dB") == 4
        assert row["strategy"] in text
    assert text.count("5 of 6") == 4


@pytest.mark.parametrize("width", WIDTHS)
def test_the_confirmation(screen: Screen, width: int | None) -> None:
    text = shown(screen, width, summary.confirmation(CONFIRMED, "a-rather-long-name"))
    for row in table_of(CONFIRMED).to_dict("records"):
        assert row["trial"] in text
    assert text.count("8.14e-06") == text.count("y+z") == 6
    assert text.count("-82.34 % [-56.78, +3987.12]") == 6 and "rate change, a-rather-long-name" in text


def progress(records: SearchRecords) -> Progress:
    return Progress([records], 128, (11, 33, 100), 12_345.0, 0.002, 67_890.0)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_live_table(screen: Screen, width: int | None) -> None:
    records = of_a_search()
    changed = (
        dataclasses.replace(records.trials[0], state=STOPPED),
        dataclasses.replace(records.trials[1], state=FAILED),
    )
    records = dataclasses.replace(records, trials=[*changed, *records.trials[2:]])
    text = shown(screen, width, terminal._table(progress(records)))
    for quality in QUALITIES[2:5]:
        assert f"y+z 8.14e-06 (trial-{60 + quality:04d})" in text
    assert text.count("+3987.12 %") == 3 and text.count("9 of 9") == 6
    assert text.count("11: 0  33: 0  100: 0") == 6
    for (
        quality
    ) in QUALITIES:  # what counts most is in the first of the parts, on the screen even if it is low
        assert any(line.startswith(f"{quality} ") and "9 of 9" in line for line in text.splitlines()[:9])


@pytest.mark.parametrize("width", WIDTHS)
def test_the_plain_lines(screen: Screen, width: int | None) -> None:
    records = of_a_search()
    console, file = screen(width)
    view = terminal.PlainView(console)
    view.show(dataclasses.replace(progress(records), news=records.everything()))
    lines = printed(file).splitlines()
    assert len(lines) == len(records.everything())
    for training, line in zip(records.everything(), lines, strict=True):
        assert training.name in line and "18 h 52 min left" in line
        if training.strategy == "y+z":
            assert "y+z alpha 8.14e-06" in line and "+3987.12 %" in line


@pytest.mark.parametrize("width", WIDTHS)
def test_the_simulation(screen: Screen, width: int | None) -> None:
    found = [
        Recommendation(SearchPoint(q, "y+z", 8.14e-6), 63, 9, -82.34, 56.78, -3987.12) for q in QUALITIES[:5]
    ]
    found.append(Recommendation(SearchPoint(6), None, 9, 0.0, 0.0, None))
    outcome = simulation.Outcome(found, 64, 40, 1, 300, 333.3, 1.0, [0.0004])
    plan = Plan(
        qualities=QUALITIES, strategies=("y+z",), alpha_min=1e-8, alpha_max=1e-5, epochs=9, rungs=(), eta=3,
        budget=64, seed=0, sampler="random", selection="simulated",
    )  # fmt: skip
    _, file = screen(width)
    simulation._show(outcome, plan)
    text = printed(file)
    table = io.StringIO(text[: text.index("64 trials")])
    table.seek(0, io.SEEK_END)
    checked(table, width)
    assert all(f"{SearchPoint(quality).lmbda:g}" in text for quality in QUALITIES)
    for figure in ("8.14e-06", "y+z", "-82.34 ± 56.78 %", "-3987.12 %"):
        assert text.count(figure) >= 5, figure
    assert "0.4 ms a suggestion" in text


@pytest.fixture(scope="module")
def reproduced() -> report.Parts:
    return report.tables(PROTOCOL, everything(0.5))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_reproduction(screen: Screen, width: int | None, reproduced: report.Parts) -> None:
    _, file = screen(width)
    parts = reproduced
    report.show(parts)
    text = printed(file)
    for part in parts:
        if isinstance(part, str):
            assert part in " ".join(text.split())
            continue
        for row in part.rows:
            for cell in row:
                assert cell in text, cell
    if width is None:
        assert text == report.markdown(parts) + "\n"  # as tables.md
    else:
        checked(file, width)


def test_a_search_without_results_says_so(screen: Screen) -> None:
    records = dataclasses.replace(search(), baselines={})
    text = shown(screen, 80, summary.rates(records))
    assert text.splitlines()[1:] == ["no results yet", ""]


def test_where_nothing_was_found_there_is_no_measured_zero(screen: Screen) -> None:
    records = dataclasses.replace(search(record("trial-000", 3, +6.0, "y")), expected={})
    text = shown(screen, None, summary.rates(records))
    assert "0.00" not in text.replace("0.0018", "").replace("0.0035", "").replace("0.0067", "")
    text = shown(screen, None, summary.strategies(records, strategy_results(records, ("y",))))
    overall = next(line for line in text.splitlines() if line.startswith(OVERALL))
    assert overall.split("  ")[0] == OVERALL and overall.count("0 (baseline)") == 4 and "[" not in overall


def test_a_figure_that_there_is_not_is_a_dash(screen: Screen) -> None:
    records = of_a_search()
    small = records.trials[0].readings[9] | {"kodak/ms_ssim": float("nan")}  # images too small for it
    records.trials[0] = dataclasses.replace(records.trials[0], readings={9: small})
    assert "nan" not in shown(screen, None, summary.rates(records))
    running = dataclasses.replace(records.baselines[1], state=FAILED, readings={})
    assert "nan" not in terminal.line(records, running)


def test_an_encoding_without_box_characters_has_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    console = text_console()
    console.print(summary.rates(of_a_search()))
    console.file.flush()
    assert b"-82.34 +- 56.78 %" in raw.getvalue()


def test_a_cell_is_text_and_no_markup(screen: Screen) -> None:
    text = shown(screen, 80, TextTable("[b]t[/b]", ("a", "[red]b"), [("[bold]", "[/]")]))
    for part in ("[b]t[/b]", "[red]b", "[bold]", "[/]"):
        assert part in text


def test_why_a_figure_is_missing_is_text_and_no_markup(screen: Screen) -> None:
    console, file = screen(None)
    refused = StrategyResult("y", 0, None, None, None, None, "[/of] no curve")
    summary.show(of_a_search(), [refused], console)
    assert "no value for y: [/of] no curve" in printed(file)


@pytest.mark.parametrize(
    ("pace", "said"), [(2.5, "2.5 epochs/s"), (0.002, "7.2 epochs/h"), (0.05, "3.0 epochs/min")]
)
def test_a_slow_pace_is_no_zero(pace: float, said: str) -> None:
    assert terminal.speed(pace) == said
