"""Writes the report of a search, its figures and its tables (`python -m dashboards.report`)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import plotly.io
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from dashboards import plots, png
from dashboards.examples import Examples, ExamplesError, examples
from dashboards.images import gradient, map_uri, picture_uri
from lic import atomic_io
from lic.evaluation.bdrate import Interval
from lic.evaluation.example import Example
from lic.evaluation.latents import correlation_sum
from lic.models.architectures import architecture
from lic.paper import BD_RATES, TRAINING_TIME
from search.base.formats import fixed, interval, percent
from search.base.space import BASELINE
from search.records.confirmed import BETTER, ConfirmedResults
from search.records.figures import DIVERGING, SEQUENTIAL, STRONG, scale_of
from search.records.folder import OpenedSearch, open_search
from search.records.results import OVERALL, StrategyResult, bd_rate_text, strategy_results, write_tables
from search.records.search_records import FAILED, FINISHED, RUNNING, STOPPED
from search.reproduction.training_time import TrainingTime, training_times
from search.session import summary
from search.session.terminal import duration
from search.store.find import check_inside

#: The quality metrics of a BD-rate, as the cards name them.
_METRICS = ("PSNR", "MS-SSIM")


def write(args: argparse.Namespace) -> None:
    """Write what the command line asks for and print the paths. Raises FolderError, OSError."""
    search = open_search(args.search, args.results)
    target = args.out or search.folder / "report.html"
    if not args.out:
        check_inside(search.folder, "figures", "tables")
    found, why_none = _examples(search)
    figures, by_strategy = (
        _figures(search, found),
        strategy_results(search.records, search.plan.strategies),
    )
    atomic_io.write(target, page(search, by_strategy, figures, found, why_none))
    folder = args.png or (None if args.out else search.folder / "figures")
    pictures = png.write(figures, found, folder) if folder else []
    if not args.out:
        write_tables(search.records, by_strategy, search.folder / "tables")
    print(f"wrote {target} ({target.stat().st_size / 2**20:.1f} MiB); open it in any browser")
    if pictures:
        print(f"wrote {', '.join(path.name for path in pictures)} to {folder}")


def _examples(search: OpenedSearch) -> tuple[Examples | None, str]:
    """The example images, or the reason why there are none."""
    try:
        return examples(search), ""
    except ExamplesError as error:
        return None, str(error)


def _figures(search: OpenedSearch, found: Examples | None) -> dict[str, go.Figure]:
    """The interactive figures by name."""
    figures = {
        "rd": plots.rd_curves(search),
        **({"response": plots.response(search)} if search.plan.strategies else {}),
        **{f"response_{d.name}": plots.response(search, d) for d in search.plan.dimensions},
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
    """The report as HTML; `why_none` is the reason if there are no example images."""
    records = search.records
    count = {s: sum(t.state == s for t in records.trials) for s in (FINISHED, STOPPED, FAILED, RUNNING)}
    settings, fresh = search.settings, search.fresh
    facts: dict[str, Any] = {
        "name": architecture(settings.model),
        "steps": settings.epochs * settings.steps_per_epoch,
        "cards": _cards(by_strategy, count, records.test_set, bool(fresh.points)),
        "confirmed_cards": _confirmed_cards(fresh, records.test_set),
        "confirmed_table": summary.confirmation(fresh.points, records.test_set),
        "confirmed_findings": summary.confirmed_findings(fresh),
        "strategy_table": summary.strategies(records, by_strategy),
        "paper": _of_the_paper(search),
        "refused": _refused(by_strategy),
        "rate_table": summary.rates(records),
        "convergence": [*summary.findings(records), *summary.convergence(records)],
        "times": _times(search),
        "paper_times": TRAINING_TIME,
        "effort": _effort(search),
        "importances": [(name, f"{100 * value:.0f} %") for name, value in search.importances.items()],
        "plots": {name: _div(figure, name) for name, figure in figures.items()},
        "examples": found,
        "examples_change": percent(found.rate_change) if found else "",
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
    """Feature maps, correlation matrices and crops of an image for the page, each as caption and data URI."""
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
        "ratio": fixed(example.ratio, 2),
        "paper": fixed(example.paper_ratio, 2),
        "crops": [(caption, picture_uri(pixels)) for caption, pixels in example.captioned()],
        "place": f"columns {columns.start} to {columns.stop - 1}, rows {rows.start} to {rows.stop - 1}",
    }


def _refused(found: list[StrategyResult]) -> list[str]:
    """Why Bjontegaard values are missing: each reason once, with the strategies concerned."""
    reasons: dict[str, list[str]] = {}
    for result in found:
        if result.refused:
            reasons.setdefault(result.refused, []).append(result.strategy)
    return [f"{', '.join(strategies)}: {reason}" for reason, strategies in reasons.items()]


def _div(figure: Any, name: str) -> str:
    config = {"displaylogo": False, "responsive": True}
    html: str = plotly.io.to_html(figure, config, include_plotlyjs=False, full_html=False, div_id=name)
    return html


def _confirmed_cards(fresh: ConfirmedResults, test_set: str) -> list[tuple[str, str]]:
    if not fresh.points:
        return []
    better = sum(item.outcome == BETTER for item in fresh.points)
    rates = fresh.bd_rates
    figures = [interval(figure if isinstance(figure, Interval) else None) for figure in rates.values()]
    return [
        *(
            (f"confirmed BD-rate on {test_set}, {by}", text)
            for by, text in zip(_METRICS, figures, strict=True)
        ),
        ("confirmed better than the baseline", f"{better} of {len(fresh.points)} points"),
    ]


def _cards(
    found: list[StrategyResult], count: dict[str, int], test_set: str, has_confirmation: bool
) -> list[tuple[str, str]]:
    overall = next(result for result in found if result.strategy == OVERALL)
    own = ", selection seed" if has_confirmation else ""
    return [
        (f"BD-rate on {test_set}, PSNR{own}", bd_rate_text(overall, overall.bd_rate_psnr)),
        (f"BD-rate on {test_set}, MS-SSIM{own}", bd_rate_text(overall, overall.bd_rate_msssim)),
        ("trials trained in full", str(count[FINISHED])),
        ("trials stopped early", str(count[STOPPED])),
        ("trials failed", str(count[FAILED])),
        ("trials running", str(count[RUNNING])),
    ]


def _of_the_paper(search: OpenedSearch) -> list[list[str]]:
    """The paper's values, as rows of the strategy table."""
    return [
        [f"{strategy} (paper)", percent(psnr), "", percent(ms_ssim), "", ""]
        for strategy, (psnr, ms_ssim) in BD_RATES.get(architecture(search.settings.model), {}).items()
    ]


def fastest_epochs(search: OpenedSearch) -> dict[str, list[float]]:
    """By strategy, and for the baselines, the seconds of the fastest epoch of each complete training run of
    this search. Epochs before the fork, which trials do not train, are not counted."""
    found: dict[str, list[float]] = {}
    for record in search.records.trained_here():
        taken = [
            metrics["time/train_seconds"]
            for epoch, metrics in record.readings.items()
            if epoch > search.plan.fork and "time/train_seconds" in metrics
        ]
        if taken and record.last_epoch == search.records.epochs:
            found.setdefault(record.strategy_name, []).append(min(taken))
    return found


def _times(search: OpenedSearch) -> list[list[str]]:
    """Rows in the layout of the paper's Table III."""
    found = training_times(fastest_epochs(search))
    order = (BASELINE, *search.plan.strategy_names)
    return [
        [row.strategy, str(row.trainings), f"{row.seconds:.4g}", _increase(row)]
        for row in sorted(found, key=lambda row: order.index(row.strategy))
    ]


def _increase(row: TrainingTime) -> str:
    if row.strategy == BASELINE:
        return ""
    if row.increase is None:
        return "too few training runs"
    note = "" if row.distinguishable else ", not distinguishable from 0"
    return f"{interval(row.increase, 1)}{note}"


def _effort(search: OpenedSearch) -> str:
    records = search.records
    spent = sum(trial.trained for trial in records.trials)
    ended = [trial for trial in records.trials if trial.state in (FINISHED, STOPPED)]
    full = records.epochs * len(ended)
    saved = full - sum(trial.trained for trial in ended)
    share = search.settings.trial_gpus
    seconds = (records.seconds("train") + records.seconds("eval")) * (share or 1)
    return (
        f"The trials trained {spent} epochs in total. Early stopping saved {saved} of {full} epochs "
        f"({100 * saved / max(1, full):.0f} %) in the {len(ended)} trials that did not fail. Training and "
        f"evaluation took {duration(seconds)} of {'GPU' if share else 'worker'} time, including baselines."
    )
