"""A search as one page that can be sent: interactive, self-contained, made from its folder.

    python -m dashboards.report SEARCH

writes report.html into the folder of a search that is finished, still runs or was broken off, its figures
as PNG to figures/ and its tables as CSV to tables/; --out FILE writes the page alone, elsewhere. Two images
are coded by the models of one rate, if their checkpoints and the images are still there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from dashboards import plots, png
from dashboards.examples import Examples, ExamplesError, examples
from dashboards.images import gradient, map_uri, picture_uri
from lic import durable
from lic.architectures import architecture
from lic.example import Example
from lic.files import path_argument
from lic.latents import correlation_sum
from lic.paper import BD_RATES
from search import summary
from search.figures import DIVERGING, SEQUENTIAL, STRONG, scale_of
from search.folder import FolderError, OpenedSearch, check_inside, open_search
from search.records import FAILED, FINISHED, RUNNING, STOPPED
from search.results import OVERALL, StrategyResult, rate_table, strategy_results, write_tables

USER_ERROR = 2


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dashboards.report", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("search", metavar="SEARCH", help="its name, or its folder")
    parser.add_argument(
        "--results", type=path_argument, default=Path("results"), help="folder of all searches"
    )
    parser.add_argument(
        "--out", type=path_argument, metavar="FILE", help="write the page here (default: its folder)"
    )
    parser.add_argument("--png", type=path_argument, metavar="DIR", help="write the figures as PNG here")
    args = parser.parse_args(argv)
    try:
        search = open_search(args.search, args.results)
        target = args.out or search.folder / "report.html"
        if not args.out:
            check_inside(search.folder, "figures", "tables")
        found, why_none = _examples(search)
        figures, by_strategy = (
            _figures(search, found),
            strategy_results(search.records, search.plan.strategies),
        )
        durable.write(target, page(search, by_strategy, figures, found, why_none))
        folder = args.png or (None if args.out else search.folder / "figures")
        pictures = png.write(figures, found, folder) if folder else []
        if not args.out:
            write_tables(search.records, by_strategy, search.folder / "tables")
    except FolderError as error:
        print(f"lictune: {error}", file=sys.stderr)
        return USER_ERROR
    except OSError as error:
        print(f"lictune: the report could not be written ({error})", file=sys.stderr)
        return USER_ERROR
    print(f"wrote {target} ({target.stat().st_size / 2**20:.1f} MiB); open it in any browser")
    if pictures:
        print(f"wrote {', '.join(path.name for path in pictures)} to {folder}")
    return 0


def _examples(search: OpenedSearch) -> tuple[Examples | None, str]:
    """The examples, or why there are none."""
    try:
        return examples(search), ""
    except ExamplesError as error:
        return None, str(error)


def _figures(search: OpenedSearch, found: Examples | None) -> dict[str, go.Figure]:
    """The interactive figures by name."""
    figures = {
        "rd": plots.rd_curves(search),
        "response": plots.response(search),
        "rungs": plots.rungs(search),
    }
    return figures if found is None else {**figures, "channel_bits": plots.channel_bits(found)}


def page(
    search: OpenedSearch,
    by_strategy: list[StrategyResult],
    figures: dict[str, go.Figure],
    found: Examples | None,
    why_none: str,
) -> str:
    """The report as HTML; `why_none` is the reason where no examples were found."""
    records = search.records
    count = {s: sum(t.state == s for t in records.trials) for s in (FINISHED, STOPPED, FAILED, RUNNING)}
    settings = search.settings
    facts: dict[str, Any] = {
        "name": architecture(settings.model),
        "steps": settings.epochs * settings.steps_per_epoch,
        "cards": _cards(by_strategy, count, records.test_set),
        "strategy_table": _strategy_table(search, by_strategy),
        "refused": _refused(by_strategy),
        "rate_table": _rate_table(search),
        "times": training_times(search),
        "effort": _effort(search),
        "plots": {name: _div(figure, name) for name, figure in figures.items()},
        "examples": found,
        "why_none": why_none,
        "pictures": [_pictures(example) for example in found.images] if found else [],
        "strong": STRONG,
        "sequential": gradient(SEQUENTIAL),
        "diverging": gradient(DIVERGING),
    }
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    template = environment.get_template("report.html.jinja")
    return template.render(search=search, records=records, plotly=get_plotlyjs(), **facts)


def _pictures(example: Example) -> dict[str, Any]:
    """An image's maps and crops for the page: caption and data URI each."""
    models = {"baseline": example.baseline, "tuned": example.tuned}
    low, high = scale_of(*(model.feature_map for model in models.values()))
    rows, columns = example.crop
    return {
        "name": example.name,
        "maps": [(k, map_uri(m.feature_map, low, high, SEQUENTIAL)) for k, m in models.items()],
        "matrices": [(k, map_uri(m.correlation, -STRONG, STRONG, DIVERGING)) for k, m in models.items()],
        "low": f"{low:.3g}",
        "high": f"{high:.3g}",
        "sums": [f"{correlation_sum(m.correlation):.1f}" for m in models.values()],
        "ratio": f"{example.ratio:.2f}",
        "paper": f"{example.paper_ratio:.2f}" if example.paper_ratio else "-",
        "crops": [(caption, picture_uri(pixels)) for caption, pixels in example.captioned()],
        "place": f"columns {columns.start} to {columns.stop - 1}, rows {rows.start} to {rows.stop - 1}",
    }


def _refused(found: list[StrategyResult]) -> list[str]:
    """Why there are no Bjontegaard figures, each reason once with the strategies it holds for."""
    reasons: dict[str, list[str]] = {}
    for result in found:
        if result.refused:
            reasons.setdefault(result.refused, []).append(result.strategy)
    return [f"{', '.join(strategies)}: {reason}" for reason, strategies in reasons.items()]


def _div(figure: Any, name: str) -> str:
    config = {"displaylogo": False, "responsive": True}
    return plotly.io.to_html(figure, config, include_plotlyjs=False, full_html=False, div_id=name)


def _cards(found: list[StrategyResult], count: dict[str, int], test_set: str) -> list[tuple[str, str]]:
    overall = next(result for result in found if result.strategy == OVERALL)
    return [
        (f"BD-rate on {test_set}, PSNR", summary.interval(overall.bd_rate_psnr)),
        (f"BD-rate on {test_set}, MS-SSIM", summary.interval(overall.bd_rate_msssim)),
        ("trained in full", str(count[FINISHED])),
        ("stopped early", str(count[STOPPED])),
        ("failed", str(count[FAILED])),
        ("running", str(count[RUNNING])),
    ]


def _strategy_table(search: OpenedSearch, found: list[StrategyResult]) -> dict[str, Any]:
    rates = len(search.records.baselines)
    rows = [
        [
            result.strategy, summary.interval(result.bd_rate_psnr), summary.format_db(result.bd_psnr),
            summary.interval(result.bd_rate_msssim), summary.format_db(result.bd_msssim),
            f"{result.tuned} of {rates}",
        ]
        for result in found
    ]  # fmt: skip
    paper = [
        [f"the paper's {strategy}", f"{psnr:+.2f} %", "", f"{ms_ssim:+.2f} %", "", ""]
        for strategy, (psnr, ms_ssim) in BD_RATES.get(architecture(search.settings.model), {}).items()
    ]
    head = ["strategy", "BD-rate (PSNR)", "BD-PSNR", "BD-rate (MS-SSIM)", "BD-MS-SSIM", "tuned rates"]
    return {"head": head, "rows": rows, "paper": paper}


def _rate_table(search: OpenedSearch) -> dict[str, Any]:
    records = search.records
    head = [
        "quality", "lambda", "alpha", "strategy", "trial", "bpp", "PSNR", "MS-SSIM",
        f"rate change, {records.test_set}", f"expected, {records.selection}", "luckiest reading",
    ]  # fmt: skip
    rows = [
        [
            str(row["quality"]), f"{row['lambda']:g}", f"{row['alpha']:.2e}" if row["alpha"] else "0",
            str(row["strategy"]), str(row["trial"]), f"{row['bpp']:.4f}", f"{row['psnr']:.2f}",
            summary.format_ms_ssim(row["ms_ssim"]), f"{row['rate_change']:+.2f} %",
            f"{row['expected_rate_change']:+.2f} ± {row['expected_sigma']:.2f} %",
            _luckiest(row["luckiest_rate_change"], str(row["luckiest_trial"])),
        ]
        for row in rate_table(records).to_dict("records")
    ]  # fmt: skip
    return {"head": head, "rows": rows}


def _luckiest(change: float | None, trial: str) -> str:
    return "-" if trial == "-" else f"{change:+.2f} % ({trial})"


def training_times(search: OpenedSearch) -> list[list[str]]:
    """Per strategy the median seconds of an epoch, and by how much that exceeds the baselines' (the
    paper's Table III)."""
    seconds: dict[str, list[float]] = {name: [] for name in ("baseline", *search.plan.strategies)}
    for record in search.records.everything():
        taken = [f["time/train_seconds"] for f in record.readings.values() if "time/train_seconds" in f]
        seconds[record.strategy or "baseline"] += taken
    plain = float(np.median(seconds["baseline"])) if seconds["baseline"] else None
    rows = []
    for strategy, values in seconds.items():
        if not values:
            continue
        median = float(np.median(values))
        increase = "" if plain is None or strategy == "baseline" else f"{100 * (median / plain - 1):+.1f} %"
        rows.append([strategy, f"{median:.2f}", increase, str(len(values))])
    return rows


def _effort(search: OpenedSearch) -> str:
    records = search.records
    trials = len(records.trials)
    spent, full = sum(t.trained for t in records.trials), records.epochs * trials
    seconds = records.seconds("train") + records.seconds("eval")
    on = "GPU" if search.settings.gpus_per_trial else "worker"
    return (
        f"{spent} epochs of trials were trained, {full - spent} of full training were saved "
        f"({100 * (full - spent) / max(1, full):.0f} %); {seconds / 3600:.2f} {on} hours of training and "
        "evaluation, baselines included."
    )


if __name__ == "__main__":
    sys.exit(main())
