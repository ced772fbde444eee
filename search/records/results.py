"""The results of a search: the best point per quality, and Bjontegaard deltas per strategy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from lic import atomic_io
from lic.evaluation.bdrate import CurveError, Interval, bd_quality, bd_rate, bd_rate_interval
from search.base.dimensions import Value
from search.base.formats import NONE_BETTER, interval
from search.base.space import BASELINE
from search.records.confirmed import BETTER, WORSE
from search.records.search_records import MS_SSIM, PSNR, SearchRecords, TrialRecord

OVERALL = "best of all"


@dataclass(frozen=True)
class StrategyResult:
    """A codec of one checkpoint per quality, compared with the baselines after full training.

    `tuned` counts the qualities whose checkpoint is a trial; the others use the baseline (alpha 0). BD-rates
    are in percent with a 95 % interval over images, BD-PSNR and BD-MS-SSIM in dB; None if undefined.
    `refused` says which values are undefined and why, or is empty.
    """

    strategy: str
    tuned: int
    bd_rate_psnr: Interval | None
    bd_psnr: float | None
    bd_rate_msssim: Interval | None
    bd_msssim: float | None
    refused: str


def best_per_rate(records: SearchRecords) -> dict[int, TrialRecord]:
    """The selected record per quality: the best finished trial (SearchRecords.best) that saves bits on fresh
    seeds, if it was confirmed; else the best of those that do not cost bits there if it probably saves bits
    (Prediction.is_probable; without predictions, if it did on the selection images); else the baseline (alpha
    0). Omits qualities without a baseline."""
    chosen = {}
    for quality, baseline in records.baselines.items():
        if baseline.last_epoch < records.epochs:
            continue
        chosen[quality] = selected(records, [*records.finished(quality), baseline])
    return dict(sorted(chosen.items()))


def selected(records: SearchRecords, candidates: Sequence[TrialRecord]) -> TrialRecord:
    """Which of a quality's trials and its baseline, last, is selected; of trials alone the best."""
    better = [record for record in candidates if records.outcomes.get(record.name) == BETTER]
    if better:
        return records.best(better) or better[0]
    candidates = [r for r in candidates if records.outcomes.get(r.name) != WORSE] or candidates
    best = records.best(candidates) or candidates[-1]
    expected = records.expected.get(best.name)
    baseline = next((record for record in candidates if record.role == BASELINE), best)
    return baseline if expected and not expected.is_probable else best


def best_trial_per_rate(records: SearchRecords, strategy: str) -> dict[int, TrialRecord]:
    """The best finished trial of a strategy per quality that has one."""
    found = {}
    for quality in records.qualities:
        rivals = [record for record in records.finished(quality) if record.strategy == strategy]
        if (best := records.best(rivals)) is not None:
            found[quality] = best
    return found


def strategy_results(
    records: SearchRecords, strategies: tuple[str, ...], intervals: bool = True
) -> list[StrategyResult]:
    """Results per strategy, and for the best of all, as in the paper's Table I. Without `intervals`, which
    take seconds to compute, their ends are NaN."""
    chosen = {strategy: best_trial_per_rate(records, strategy) for strategy in strategies}
    chosen[OVERALL] = best_per_rate(records)
    return [_strategy_result(records, strategy, points, intervals) for strategy, points in chosen.items()]


def _strategy_result(
    records: SearchRecords, strategy: str, chosen: dict[int, TrialRecord], intervals: bool
) -> StrategyResult:
    tested = f"{records.test_set}/bpp"
    sorted_baselines = (baseline for _, baseline in sorted(records.baselines.items()))
    anchors = [b for b in sorted_baselines if tested in b.images.get(records.epochs, {})]
    points = [chosen.get(anchor.quality, anchor) for anchor in anchors]
    tuned = sum(point is not anchor for point, anchor in zip(points, anchors, strict=True))
    nothing = ""
    if not tuned and strategy != OVERALL:  # which falls back on the baselines
        nothing = "no trial of it was trained at full length"
    if not anchors:
        nothing = "no baseline was trained at full length"
    if nothing:
        return StrategyResult(strategy, tuned, None, None, None, None, nothing)
    psnr, ms_ssim = (_bjontegaard(records, anchors, points, m, intervals) for m in (PSNR, MS_SSIM))
    reasons: dict[str, list[str]] = {}
    for figure, reason in {**psnr.refused, **ms_ssim.refused}.items():
        reasons.setdefault(reason, []).append(figure)
    refused = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
    return StrategyResult(strategy, tuned, psnr.rate, psnr.quality, ms_ssim.rate, ms_ssim.quality, refused)


@dataclass
class _Bjontegaard:
    """BD-rate and BD-quality by one metric; `refused`: name of an undefined value -> reason."""

    rate: Interval | None = None
    quality: float | None = None
    refused: dict[str, str] = field(default_factory=dict)


def _bjontegaard(
    records: SearchRecords,
    anchors: list[TrialRecord],
    points: list[TrialRecord],
    metric: str,
    intervals: bool,
) -> _Bjontegaard:
    label = "PSNR" if metric == PSNR else "MS-SSIM"
    rate, quality, found = f"BD-rate ({label})", f"BD-{label}", _Bjontegaard()
    try:
        first, second = (records.curve(part, metric) for part in (anchors, points))
        anchor, test = (curve.over(slice(None)) for curve in (first, second))
    except CurveError as error:
        found.refused |= {rate: str(error), quality: str(error)}
        return found
    try:
        found.quality = bd_quality(anchor, test)
    except CurveError as error:
        found.refused[quality] = str(error)
    try:
        found.rate = Interval(bd_rate(anchor, test), math.nan, math.nan)
        if intervals:
            found.rate = bd_rate_interval(first, second)
    except CurveError as error:
        found.refused[rate if found.rate is None else f"the interval of {rate}"] = str(error)
    return found


def tuned_columns(records: SearchRecords, record: TrialRecord) -> dict[str, Value]:
    """The values of the tuned settings by name, for tables; a baseline has the defaults."""
    return {**records.defaults, **dict(record.tuned)}


def rate_table(records: SearchRecords) -> pd.DataFrame:
    """The selected point per quality, with its metrics on the test set after full training."""
    rows = []
    for quality, record in best_per_rate(records).items():
        figures, epoch = record.readings[records.epochs], records.epochs
        expected, best_observed = records.expected.get(record.name), records.best_observed(quality)
        rows.append(
            {
                "quality": quality,
                "lambda": record.lmbda,
                "trial": record.name,
                "alpha": record.alpha,
                "strategy": record.strategy or "-",
                **tuned_columns(records, record),
                "bpp": figures[f"{records.test_set}/bpp"],
                "psnr": figures[f"{records.test_set}/psnr"],
                "ms_ssim": figures.get(f"{records.test_set}/ms_ssim", float("nan")),
                "rate_change": records.rate_change(record, epoch, records.test_set),
                "selection_rate_change": records.rate_change(record, epoch, records.selection),
                "expected_rate_change": expected.mean if expected else 0.0,
                "expected_sigma": expected.std if expected else 0.0,
                "best_observed_trial": best_observed.name if best_observed else "-",
                "best_observed_rate_change": (
                    records.rate_change(best_observed, epoch, records.selection) if best_observed else None
                ),
            }
        )
    return pd.DataFrame(rows)


def strategy_table(results: list[StrategyResult]) -> pd.DataFrame:
    """The Bjontegaard deltas as a flat table."""
    rows = []
    for result in results:
        row: dict[str, object] = {"strategy": result.strategy, "tuned_rates": result.tuned}
        for key in ("bd_rate_psnr", "bd_rate_msssim"):
            interval = getattr(result, key)
            row[key] = interval.value if interval else None
            row[f"{key}_low"] = interval.low if interval else None
            row[f"{key}_high"] = interval.high if interval else None
        row |= {"bd_psnr": result.bd_psnr, "bd_msssim": result.bd_msssim, "refused": result.refused}
        rows.append(row)
    return pd.DataFrame(rows)


def trial_table(records: SearchRecords) -> pd.DataFrame:
    """One row per training run, with the metrics of the last epoch evaluated on the test set, or of the last
    epoch if there is none."""
    rows = []
    for record in records.everything():
        measured = [e for e in record.readings if f"{records.test_set}/bpp" in record.readings[e]]
        epoch = max(measured, default=record.last_epoch)
        figures = record.readings.get(epoch, {})
        bd_rates = (f"{records.test_set}/{name}" for name in ("bd_rate_psnr", "bd_rate_msssim"))
        derived = records.derived(record, epoch)
        rows.append(
            {
                "trial": record.name,
                "quality": record.quality,
                "lambda": record.lmbda,
                "alpha": record.alpha,
                "strategy": record.strategy or "-",
                **tuned_columns(records, record),
                "state": record.state,
                "epochs": record.last_epoch,
                **{name: figures.get(f"{records.test_set}/{name}") for name in ("bpp", "psnr", "ms_ssim")},
                **derived,
                **{name: None for name in bd_rates if name not in derived},
                "reason": record.reason,
            }
        )
    return pd.DataFrame(rows)


def best_so_far(
    records: SearchRecords, finished: list[TrialRecord], strategies: tuple[str, ...]
) -> dict[str, float]:
    """The search's result, by metric name, at the time when the last of these trials finished: the lowest
    measured rate change per quality (0 for the baseline), and the Bjontegaard deltas if all baselines had
    ended. Depends only on what had ended by then."""
    moment = max(trial.ended or 0.0 for trial in finished)
    there = {q: b for q, b in records.baselines.items() if b.ended is not None and b.ended <= moment}
    then = replace(records, trials=finished, baselines=there, expected={})
    figures = {}
    for quality, record in best_per_rate(then).items():
        change = then.rate_change(record, then.epochs, then.selection)
        figures[f"best/rate_change_q{quality}"] = float(change or 0.0)
    if len(there) == len(records.qualities):
        whole = parent_figures(strategy_results(then, strategies, intervals=False), records.test_set)
        figures |= {f"best/{name.replace('/', '_')}": value for name, value in whole.items()}
    return figures


def write_tables(records: SearchRecords, by_strategy: list[StrategyResult], folder: Path) -> None:
    """Write the three tables as CSV files. Raises OSError."""
    tables = {"rates": rate_table(records), "strategies": strategy_table(by_strategy),
              "trials": trial_table(records)}  # fmt: skip
    for name, table in tables.items():
        atomic_io.write(folder / f"{name}.csv", table.to_csv(index=False))


def parent_figures(results: list[StrategyResult], test_set: str) -> dict[str, float]:
    """The Bjontegaard deltas of the whole search, by metric name."""
    figures = {}
    for result in results:
        name = "best" if result.strategy == OVERALL else result.strategy.replace("+", "_")
        for key in ("bd_rate_psnr", "bd_rate_msssim"):
            if (interval := getattr(result, key)) is not None:
                figures[f"{test_set}/{key}_{name}"] = interval.value
    return figures


def bd_rate_text(row: StrategyResult, figure: Interval | None) -> str:
    """A BD-rate with its interval; '0 (baseline)' if the strategy consists of baselines only."""
    return interval(figure) if row.tuned or figure is None else NONE_BETTER
