"""Tables and sentences that summarize a search in the terminal and in the report."""

from __future__ import annotations

from collections.abc import Hashable
from statistics import NormalDist
from typing import Any

from rich.console import Console

from lic.evaluation.bdrate import Interval
from search.base.dimensions import shown_value
from search.base.formats import MISSING, NONE_BETTER, fixed, format_db, interval, percent, signed, weight
from search.base.space import BASELINE, WITHOUT_TERM, AtPoint, baseline_name
from search.base.text_table import TextTable
from search.decide.belief import RUINOUS, SURE, Prediction
from search.decide.objective import LEAST_POINTS
from search.decide.sampler import STARTUP
from search.records.confirmed import BETTER, UNDECIDED, WORSE, Confirmed, ConfirmedResults
from search.records.convergence import statement
from search.records.results import StrategyResult, bd_rate_text, best_per_rate, rate_table
from search.records.search_records import FAILED, FINISHED, STOPPED, SearchRecords, TrialRecord


def rates(records: SearchRecords) -> TextTable:
    """The selected point per quality; trials have rate changes in percent, the baseline has none."""
    head = (
        "quality", "lambda", "alpha", "strategy", *records.defaults, "trial", "bpp", "PSNR", "MS-SSIM",
        f"rate change, {records.test_set}", f"predicted, {records.selection}", "best observed",
    )  # fmt: skip
    rows = [
        (
            str(row["quality"]), f"{row['lambda']:g}", _alpha(row), _strategy(row),
            *(shown_value(row[name]) for name in records.defaults), str(row["trial"]),
            fixed(row["bpp"], 4), fixed(row["psnr"], 2), fixed(row["ms_ssim"], 4),
            percent(row["rate_change"]) if _is_trial(row) else MISSING, _expected(row), _best_observed(row),
        )
        for row in rate_table(records).to_dict("records")
    ]  # fmt: skip
    title = f"Best point per quality, measured on {records.test_set} after {records.epochs} epochs"
    return TextTable(title, head, rows)


def _is_trial(row: dict[Hashable, Any]) -> bool:
    """Whether the selected point is a trial, not the baseline."""
    return bool(row["trial"] != baseline_name(row["quality"]))


def _alpha(row: dict[Hashable, Any]) -> str:
    return weight(row["alpha"]) if row["alpha"] or not _is_trial(row) else "0"


def _strategy(row: dict[Hashable, Any]) -> str:
    if row["strategy"] != MISSING:
        return str(row["strategy"])
    return WITHOUT_TERM if _is_trial(row) else BASELINE


def _expected(row: dict[Hashable, Any]) -> str:
    """The surrogate model's prediction for a trial, with its standard deviation."""
    if not _is_trial(row) or not row["expected_sigma"]:
        return MISSING
    return f"{signed(row['expected_rate_change'])} ± {row['expected_sigma']:.2f} %"


def _best_observed(row: dict[Hashable, Any]) -> str:
    """The best measured rate change, with the trial's name if it is not the selected one."""
    if row["best_observed_trial"] == MISSING:
        return MISSING
    other = "" if row["best_observed_trial"] == row["trial"] else f" ({row['best_observed_trial']})"
    return f"{percent(row['best_observed_rate_change'])}{other}"


def convergence(records: SearchRecords) -> list[str]:
    """Convergence of the baselines, compared with the rate changes of the selected trials."""
    rows = rate_table(records).to_dict("records")
    kept = {row["quality"]: row["rate_change"] for row in rows if _is_trial(row)}
    return statement(records, {quality: change for quality, change in kept.items() if change is not None})


def findings(records: SearchRecords) -> list[str]:
    """Sentences on how sure the gains are, by the model's predictions, and on the share of ruinous trials."""
    found = []
    if records.expected:
        best = {q: records.best(records.finished(q)) for q in records.qualities}
        sure = [q for q, record in best.items() if record and records.expected[record.name].is_sure]
        none = f"no trial is better than its baseline beyond noise (95 % probability){_fitted_noise(records)}"
        better = f"better than the baseline with 95 % probability: quality {', '.join(map(str, sure))}"
        found.append(better if sure else none)
        doubtful = [_doubtful(records, record) for record in best.values() if record]
        if any(doubtful):
            found.append(
                f"baseline kept, as a gain is doubtful (below 92 %): {', '.join(filter(None, doubtful))}"
            )
    if 1 < len(records.baselines) < LEAST_POINTS:
        found.append(
            "BD-rates over two qualities are along a straight line, which flatters what spends fewer bits at "
            "a lower quality; search three qualities or more for a BD-rate"
        )
    if records.measured_noise:
        noise = _by_quality(records.measured_noise)
        found.append(f"seed noise: {noise} (measured by baselines on other seeds)")
    later = records.trials[STARTUP * len(records.qualities) :]
    first = [_first_change(records, record) for record in later]
    measured = [change for change in first if change is not None]
    if measured:
        ruinous = sum(change > RUINOUS for change in measured)
        found.append(
            f"first rate change above +{RUINOUS:.0f} %: {ruinous} of {len(measured)} trials after the "
            f"start-up trials ({100 * ruinous / len(measured):.0f} %)"
        )
    return found


def _doubtful(records: SearchRecords, record: TrialRecord) -> str:
    """The trial with its prediction if it is expected to save bits, but not sure enough to be kept."""
    expected = records.expected[record.name]
    confirmed = records.outcomes.get(record.name) == BETTER
    if confirmed or round(expected.mean, 2) >= 0 or expected.is_probable:
        return ""
    return f"{record.name} (quality {record.quality}, {signed(expected.mean)} ± {expected.std:.2f} %)"


def _fitted_noise(records: SearchRecords) -> str:
    """The model's noise, where none was measured."""
    if records.measured_noise or not records.fitted_noise:
        return ""
    return f"; seed noise: {_by_quality(records.fitted_noise)} (fitted by the model)"


def _by_quality(values: dict[int, float]) -> str:
    return ", ".join(f"{value:.2g} % at quality {quality}" for quality, value in sorted(values.items()))


def _first_change(records: SearchRecords, record: TrialRecord) -> float | None:
    changes = (records.rate_change(record, epoch, records.selection) for epoch in sorted(record.readings))
    return next((change for change in changes if change is not None), None)


def strategies(records: SearchRecords, results: list[StrategyResult]) -> TextTable:
    """Bjontegaard deltas per strategy, in the layout of the paper's Table I."""
    head = ("strategy", "BD-rate", "BD-PSNR", "BD-rate (MS-SSIM)", "BD-MS-SSIM", "tuned qualities")
    rows = [
        (
            row.strategy, bd_rate_text(row, row.bd_rate_psnr), _bd_quality(row, row.bd_psnr),
            bd_rate_text(row, row.bd_rate_msssim), _bd_quality(row, row.bd_msssim),
            f"{row.tuned} of {len(records.baselines)}",
        )
        for row in results
    ]  # fmt: skip
    title = f"Comparison with the baselines on {records.test_set}, with 95 % intervals over images"
    return TextTable(title, head, rows)


def _bd_quality(row: StrategyResult, figure: float | None) -> str:
    return format_db(figure) if row.tuned or figure is None else NONE_BETTER


def confirmation(found: list[Confirmed], test_set: str) -> TextTable:
    """The rate change of each confirmed point on fresh seeds."""
    names = dict(found[0].tuned) if found else ()
    head = ("quality", "trial", "alpha", "strategy", *names, "seeds", f"rate change, {test_set}", "outcome")
    rows = [
        (
            str(item.quality), item.trial, weight(item.alpha) if item.alpha else "0", item.strategy_name,
            *(shown_value(value) for _, value in item.tuned), str(item.seeds),
            interval(item.rate_change), item.outcome,
        )
        for item in found
    ]  # fmt: skip
    title = "Confirmed on fresh seeds, with 95 % intervals over seeds and images"
    return TextTable(title, head, rows, names=2)


def confirmed_findings(fresh: ConfirmedResults) -> list[str]:
    """Sentences on what the confirmation says: BD-rates, or why there are none, and which points are better
    and worse than their baselines."""
    sentences = [
        f"{label} on fresh seeds of the points that were expected to save bits: {_or_reason(figure)}"
        for label, figure in fresh.bd_rates.items()
    ]
    if not (found := fresh.points):
        return [*sentences, "no point is complete on a fresh seed together with its baseline"]
    limit = max(item.limit for item in found)
    for outcome, text in (
        (BETTER, "better than the baseline on fresh seeds"),
        (WORSE, "worse than the baseline on fresh seeds"),
        (UNDECIDED, f"not distinguishable from the baseline on at most {_seeds(limit)}"),
    ):
        items = [f"quality {item.quality} ({item.trial})" for item in found if item.outcome == outcome]
        if items:
            sentences.append(f"{text}: {', '.join(items)}")
    return sentences


def verdict(records: SearchRecords, fresh: ConfirmedResults) -> str:
    """The result of a search in one sentence: what saves bits, or that nothing does, and how sure that is; by
    the confirmed points `found`, if there are any, else by the model's predictions."""
    if found := fresh.points:
        better = [f"{_place(item)}: {interval(item.rate_change)}" for item in found if item.outcome == BETTER]
        none = "none of the confirmed points is better than its baseline on fresh seeds"
        said = "fewer bits on fresh seeds at " + "; ".join(better) if better else none
        whole = next(iter(fresh.bd_rates.values()), None)
        over = f"; BD-rate over all qualities: {interval(whole)}" if isinstance(whole, Interval) else ""
        return f"result: {said}{over}"
    predicted = [(records.expected[t.name], t) for t in records.finished() if t.name in records.expected]
    if not predicted:
        return "result: no trial was trained in full, so nothing is known of a gain"
    kept = [record for record in best_per_rate(records).values() if record.name in records.expected]
    if kept:
        gains = "; ".join(_gain(records.expected[record.name], record) for record in kept)
        where = f"{len(kept)} of {len(records.qualities)} qualities"
        return f"result: fewer bits than the baseline at {where}, by the model, on one training seed: {gains}"
    nearest = min(predicted, key=lambda pair: pair[0].mean / pair[0].std)
    most = max(0.0, *(SURE * expected.std - expected.mean for expected, _ in predicted))
    return (
        f"result: nothing beats the baseline; most promising: {_gain(*nearest)}; each of the "
        f"{len(predicted)} trials trained in full saves less than {most:.1f} % with 95 % probability"
    )


def _place(item: AtPoint) -> str:
    return f"quality {item.quality} ({item.point.description})"


def _gain(expected: Prediction, record: TrialRecord) -> str:
    """What the model expects of a trial, and the probability of a gain."""
    chance = min(100 * NormalDist().cdf(-expected.mean / expected.std), 99.9)
    change = f"{signed(expected.mean)} ± {expected.std:.2f} %"
    return f"{_place(record)}, {change}, a gain with {chance:.3g} % probability"


def _or_reason(figure: Interval | str) -> str:
    return figure if isinstance(figure, str) else interval(figure)


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def effort(records: SearchRecords, wall: float, workers: int, memory: float, since: float) -> str:
    """The effort of a search: trials by outcome, epochs, and the fraction of the workers' time spent on
    training and evaluation in the `wall` seconds `since` a moment (seconds since 1970). `memory` is the peak
    of all its processes on this machine in MiB."""
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
        f"workers busy {busy:.0f} % of {workers} x {wall / 60:.1f} min: "
        f"training {seconds['train'] / 60:.1f} min, evaluation {seconds['eval'] / 60:.1f} min; "
        f"peak memory {peak:.0f} MiB per worker, {memory:.0f} MiB in all processes"
    )


def show(records: SearchRecords, results: list[StrategyResult], console: Console) -> None:
    """Print both tables, and why values are missing."""
    console.print(rates(records))
    console.print(strategies(records, results))
    for reason in dict.fromkeys(row.refused for row in results if row.refused):
        names = ", ".join(row.strategy for row in results if row.refused == reason)
        console.print(f"no value for {names}: {reason}", markup=False)
    for sentence in (*findings(records), *convergence(records)):
        console.print(sentence, markup=False)
    beaten = [q for q, b in records.baselines.items() if b.state == FAILED]
    if beaten:
        failed = ", ".join(map(str, beaten))
        console.print(f"no result for quality {failed}: the baseline failed", markup=False)
