"""The result of a search in the terminal."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from lic.bdrate import Interval
from search.confirm import Confirmed
from search.records import FAILED, FINISHED, STOPPED, SearchRecords
from search.results import StrategyResult, rate_table


def rates(records: SearchRecords) -> Table:
    """Per rate the point that is kept."""
    table = Table(
        title=f"Best per rate, measured on {records.test_set} after {records.epochs} epochs",
        box=box.SIMPLE_HEAD, title_justify="left",
    )  # fmt: skip
    headers = ("quality", "lambda", "alpha", "strategy", "bpp", "PSNR", "MS-SSIM")
    last = ("rate change", f"expected ({records.selection})", "luckiest")
    for header in (*headers, *last):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rate_table(records).to_dict("records"):
        table.add_row(
            str(row["quality"]), f"{row['lambda']:g}",
            f"{row['alpha']:.2e}" if row["alpha"] else "0 (baseline)", str(row["strategy"]),
            f"{row['bpp']:.4f}", f"{row['psnr']:.2f}", format_ms_ssim(row["ms_ssim"]),
            f"{row['rate_change']:+.2f} %",
            _expected(row), _luckiest(row),
        )  # fmt: skip
    return table


def _expected(row: dict[Hashable, Any]) -> str:
    if not row["alpha"]:
        return "+0.00"
    return f"{row['expected_rate_change']:+.2f} ± {row['expected_sigma']:.2f}"


def _luckiest(row: dict[Hashable, Any]) -> str:
    """Where one reading would have chosen otherwise, which trial it is."""
    if row["luckiest_trial"] == "-":
        return "-"
    other = "" if row["luckiest_trial"] == row["trial"] else f" {row['luckiest_trial']}"
    return f"{row['luckiest_rate_change']:+.2f}{other}"


def strategies(records: SearchRecords, results: list[StrategyResult]) -> Table:
    """Per strategy the Bjontegaard figures, in the layout of the paper's Table I."""
    table = Table(
        title=f"Against the baselines on {records.test_set}, with 95 % intervals over images",
        box=box.SIMPLE_HEAD, title_justify="left",
    )  # fmt: skip
    for header in ("strategy", "BD-rate", "BD-PSNR", "BD-rate (MS-SSIM)", "BD-MS-SSIM", "tuned rates"):
        table.add_column(header, justify="left" if header == "strategy" else "right")
    for row in results:
        table.add_row(
            row.strategy, interval(row.bd_rate_psnr), format_db(row.bd_psnr),
            interval(row.bd_rate_msssim), format_db(row.bd_msssim),
            f"{row.tuned} of {len(records.baselines)}",
        )  # fmt: skip
    return table


def interval(figure: Interval | None) -> str:
    """A figure in percent with its interval, or a dash."""
    if figure is None:
        return "-"
    span = "" if math.isnan(figure.low) else f" [{figure.low:+.2f}, {figure.high:+.2f}]"
    return f"{figure.value:+.2f} %{span}"


def confirmation(found: list[Confirmed], test_set: str) -> Table:
    """Per confirmed point its rate change on fresh seeds."""
    table = Table(
        title="Confirmed on fresh seeds, with 95 % intervals over seeds and images",
        box=box.SIMPLE_HEAD, title_justify="left",
    )  # fmt: skip
    for header in ("quality", "trial", "alpha", "strategy", "seeds", f"rate change ({test_set})"):
        table.add_column(header, justify="right")
    for item in found:
        table.add_row(
            str(item.quality), item.trial, f"{item.alpha:.2e}", item.strategy, str(item.seeds),
            interval(item.rate_change),
        )  # fmt: skip
    return table


def format_ms_ssim(figure: float) -> str:
    """An MS-SSIM, or a dash where the images have none."""
    return "-" if math.isnan(figure) else f"{figure:.4f}"


def format_db(figure: float | None) -> str:
    """A figure in dB, or a dash."""
    return "-" if figure is None else f"{figure:+.3f} dB"


def effort(records: SearchRecords, wall: float, workers: int, memory: float, since: float) -> str:
    """What the search took: epochs, trials by end, share of the workers' time spent on work in the `wall`
    seconds `since` this moment (seconds since 1970); `memory` is the most that all its processes on this
    machine held together, MiB."""
    trials = records.trials
    count = {state: sum(t.state == state for t in trials) for state in (FINISHED, STOPPED, FAILED)}
    seconds = {kind: records.seconds(kind, since) for kind in ("train", "eval")}
    spent, full = sum(t.trained for t in trials), records.epochs * max(1, len(trials))
    measured = [f for record in records.trained_here() for f in record.readings.values()]
    peak = max((f.get("memory/peak_mib", 0) for f in measured), default=0)
    busy = 100 * sum(seconds.values()) / (wall * workers)
    return (
        f"{len(trials)} trials: {count[FINISHED]} trained in full, {count[STOPPED]} stopped early, "
        f"{count[FAILED]} failed; {100 * spent / full:.0f} % of the epochs of full training\n"
        f"{busy:.0f} % of {workers} x {wall / 60:.1f} min went into "
        f"training ({seconds['train'] / 60:.1f} min) and evaluation ({seconds['eval'] / 60:.1f} min); "
        f"largest worker {peak:.0f} MiB, all processes here {memory:.0f} MiB"
    )


def show(records: SearchRecords, results: list[StrategyResult], console: Console) -> None:
    """Print both tables, and why a figure is missing."""
    console.print(rates(records))
    console.print(strategies(records, results))
    for reason in dict.fromkeys(row.refused for row in results if row.refused):
        names = ", ".join(row.strategy for row in results if row.refused == reason)
        console.print(f"figures missing for {names}: {reason}", highlight=False, markup=False)
    beaten = [q for q, b in records.baselines.items() if b.state == FAILED]
    if beaten:
        console.print(f"no result for quality {beaten}: its baseline failed")
