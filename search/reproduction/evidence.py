"""Statistics from the records of a reproduction: the paper's tables, with intervals over seeds and images,
and supporting tables. All functions depend only on records and protocol."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from lic.evaluation.bdrate import CurveError, ImageCurve, Interval, bd_quality, bd_rate, bd_rate_interval
from lic.evaluation.decibels import ms_ssim_to_db
from search.base.space import BASELINE, CONFIRMATION, TRIAL, SearchPoint
from search.records.curves import costs_beyond, curves_over_seeds, image_curve, rd_cost_change_over_seeds
from search.reproduction.protocol import (
    CHOSEN_ON,
    LONGER,
    SELECTION,
    Protocol,
    Record,
    Records,
    baseline,
    best,
    choice,
    trial,
)
from search.reproduction.training_time import TrainingTime, training_times

#: The pseudo-strategy with the best point per quality, or the baseline where no point beats it.
BEST = "best"

METRICS = ("psnr", "ms_ssim")

_RESAMPLES = 1000

#: A point per quality; it may be the baseline.
Chosen = dict[int, SearchPoint]


@dataclass(frozen=True)
class Verdict:
    """The result of selected points on some seeds, by one metric: BD-rate in percent over seeds and images,
    BD-rate of each seed, and BD-PSNR (or BD-MS-SSIM) in dB of the mean curves; or why there is none."""

    interval: Interval | None
    by_seed: list[float]
    bd_quality: float | None
    refused: str = ""


def chosen(records: Records, protocol: Protocol, image_set: str) -> dict[str, Chosen]:
    """Per strategy, and for BEST, the points with the lowest rate change on an image set (seed CHOSEN_ON)."""
    found: dict[str, Chosen] = {strategy: {} for strategy in (*protocol.strategies, BEST)}
    for (quality, strategy), record in choice(records, image_set).items():
        found[strategy][quality] = record.point
    for quality in protocol.rates:
        if records.baseline(quality, CHOSEN_ON) is not None:
            found[BEST][quality] = SearchPoint(quality)
    for quality, record in best(records, image_set).items():
        change = records.rate_change(record, image_set)
        if change is not None and change < 0:
            found[BEST][quality] = record.point
    return found


def curve(records: Sequence[Record], image_set: str, metric: str) -> ImageCurve:
    """The per-image curve through these training runs. Raises CurveError."""
    return image_curve([record.images for record in records], image_set, metric)


def trained(records: Records, point: SearchPoint, seed: int) -> Record | None:
    """The training run of a point on a seed; None unless it ended without failure."""
    return records.ended(trial(point, seed) if point.strategy else baseline(point.quality, seed))


def verdict(
    records: Records, protocol: Protocol, points: Chosen, seeds: Sequence[int], metric: str
) -> Verdict:
    """Compare points with the baselines of the same seeds, on the test images."""
    by_seed: list[float] = []
    there = []
    rates = sorted(points)
    try:
        for seed in seeds:
            own = _all(trained(records, points[quality], seed) for quality in rates)
            base = _all(records.baseline(quality, seed) for quality in rates)
            if own and base:
                test, anchor = (curve(part, protocol.test_set, metric) for part in (own, base))
                by_seed.append(bd_rate(anchor.over(slice(None)), test.over(slice(None))))
                there.append(([r.images for r in base], [r.images for r in own]))
        if not there:
            return Verdict(None, [], None, "its points are not trained on these seeds yet")
        anchor, test = curves_over_seeds(there, protocol.test_set, metric)
        interval = bd_rate_interval(anchor, test, blocks=len(there))
        gained = bd_quality(anchor.over(slice(None)), test.over(slice(None)))
    except CurveError as error:
        return Verdict(None, by_seed, None, str(error))
    return Verdict(interval, by_seed, gained)


def _all(records: Iterable[Record | None]) -> list[Record]:
    """The records if all of them exist, else an empty list."""
    found = list(records)
    return [] if None in found else [record for record in found if record is not None]


def verdicts(records: Records, protocol: Protocol, image_set: str = SELECTION) -> pd.DataFrame:
    """Tables I and II: BD-rate with its interval, BD-PSNR, and the BD-rate of each seed, per strategy, metric
    and set of seeds (the selection seed, and the fresh seeds)."""
    fresh = range(CHOSEN_ON + 1, protocol.seeds)
    rows = []
    for strategy, points in chosen(records, protocol, image_set).items():
        for metric, (on, seeds) in itertools.product(METRICS, (("chosen on", [CHOSEN_ON]), ("fresh", fresh))):
            found = verdict(records, protocol, points, seeds, metric)
            rows.append({
                "strategy": strategy, "metric": metric, "seeds": on,
                "bd_rate": found.interval.value if found.interval else math.nan,
                "low": found.interval.low if found.interval else math.nan,
                "high": found.interval.high if found.interval else math.nan,
                "bd_quality": math.nan if found.bd_quality is None else found.bd_quality,
                "by_seed": found.by_seed, "refused": found.refused,
            })  # fmt: skip
    return pd.DataFrame(rows)


def points(records: Records, protocol: Protocol, image_set: str = SELECTION) -> pd.DataFrame:
    """The selected point per quality and strategy: alpha, rate change on the validation and test images on
    the selection seed, and the mean over fresh seeds with a 95 % interval over seeds and images."""
    rows = []
    fresh = range(CHOSEN_ON + 1, protocol.seeds)
    for (quality, strategy), record in choice(records, image_set).items():
        pairs = [(trained(records, record.point, s), records.baseline(quality, s)) for s in fresh]
        there = [(own, base) for own, base in pairs if own is not None and base is not None]
        columns = [(own.images, base.images) for own, base in there]
        interval = rd_cost_change_over_seeds(columns, protocol.test_set, record.lmbda) if there else None
        rows.append({
            "quality": quality, "strategy": strategy, "alpha": record.alpha,
            "on_selection": records.rate_change(record, SELECTION),
            "on_test": records.rate_change(record, protocol.test_set),
            "seeds": len(there),
            "fresh": interval.value if interval else math.nan,
            "low": interval.low if interval else math.nan, "high": interval.high if interval else math.nan,
        })  # fmt: skip
    return _sorted(pd.DataFrame(rows), protocol)


def response(records: Records, protocol: Protocol) -> pd.DataFrame:
    """All points of the search: rate change on both image sets, and for the paper's images the ratios of
    summed channel correlation and covariance to the baseline's."""
    rows = []
    for record in records.of(TRIAL):
        base = records.baseline(record.quality, record.seed)
        if base is not None:
            rows.append({
                "quality": record.quality, "strategy": record.strategy, "alpha": record.alpha,
                "on_selection": records.rate_change(record, SELECTION),
                "on_test": records.rate_change(record, protocol.test_set),
                **_ratios("correlation", record.correlation, base.correlation),
                **_ratios("covariance", record.covariance, base.covariance),
            })  # fmt: skip
    return _sorted(pd.DataFrame(rows, columns=None if rows else list(_PLACE)), protocol)


#: The columns that identify a point, in order.
_PLACE = ("quality", "strategy", "alpha")


def _sorted(table: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """Sort by quality, strategy in the protocol's order, and alpha."""
    order = {strategy: number for number, strategy in enumerate(protocol.strategies)}
    by = [name for name in _PLACE if name in table]
    return table.sort_values(by, key=lambda c: c.map(order) if c.name == "strategy" else c, ignore_index=True)


def _ratios(what: str, own: dict[str, float], base: dict[str, float]) -> dict[str, float]:
    there = own.keys() & base.keys()
    return {f"{what} {name}": own[name] / base[name] for name in sorted(there) if base[name]}


def relation(table: pd.DataFrame) -> pd.DataFrame:
    """From a table of `response`: Spearman's rank correlation between correlation ratio and rate change on
    the validation images, with its p value, per strategy and over all; for all points and for those below +5
    %."""
    columns = [name for name in table if str(name).startswith("correlation ")]
    rows = []
    for strategy in (*dict.fromkeys(table["strategy"]), "all") if columns else ():
        part = table if strategy == "all" else table[table["strategy"] == strategy]
        for which, chosen_rows in (("all", part), ("below +5 %", part[part["on_selection"] < 5])):
            sides = (chosen_rows[columns].mean(axis=1), chosen_rows["on_selection"])
            if len(chosen_rows) < 4 or min(side.nunique() for side in sides) < 2:
                continue
            rank, p = stats.spearmanr(*sides)
            rows.append(
                {"strategy": strategy, "points": which, "n": len(chosen_rows), "spearman": rank, "p": p}
            )
    return pd.DataFrame(rows)


def seed_noise(records: Records, protocol: Protocol) -> pd.DataFrame:
    """BD-rate in percent between baselines that differ only in the seed, for all pairs of seeds. `mixed`: the
    root mean square over draws in which each quality draws its two seeds independently, since runs of one
    seed see the same batches at all qualities."""
    rows = []
    for metric in METRICS:
        pairs = {}
        for first, second in itertools.combinations(range(protocol.seeds), 2):
            found = [_all(records.baseline(q, s) for q in protocol.rates) for s in (first, second)]
            if not all(found):
                continue
            try:
                curves = [curve(part, protocol.test_set, metric).over(slice(None)) for part in found]
                pairs[f"s{first} to s{second}"] = bd_rate(*curves)
            except CurveError:
                pairs[f"s{first} to s{second}"] = math.nan
        values = np.array([value for value in pairs.values() if not math.isnan(value)])
        rows.append({
            "metric": metric, **pairs,
            "root mean square": float(np.sqrt(np.mean(values**2))) if len(values) else math.nan,
            "mixed": _mixed_noise(records, protocol, metric),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _mixed_noise(records: Records, protocol: Protocol, metric: str) -> float:
    draw, found = np.random.default_rng(0), []
    there = {q: [r for s in range(protocol.seeds) if (r := records.baseline(q, s))] for q in protocol.rates}
    if any(len(same) < 2 for same in there.values()):
        return math.nan
    for _ in range(_RESAMPLES):
        two = [[same[i] for i in draw.choice(len(same), 2, replace=False)] for same in there.values()]
        sides = [[pair[side] for pair in two] for side in (0, 1)]
        try:
            found.append(bd_rate(*(curve(s, protocol.test_set, metric).over(slice(None)) for s in sides)))
        except CurveError:
            continue
    return float(np.sqrt(np.mean(np.square(found)))) if found else math.nan


def baselines(records: Records, protocol: Protocol) -> pd.DataFrame:
    """Rate and distortion of the baselines on the test images per quality: mean over seeds, and standard
    deviation (NaN for a single seed)."""
    rows = []
    for quality in protocol.rates:
        there = [r for r in records.of(BASELINE) if r.quality == quality]
        row: dict[str, float] = {
            "quality": quality,
            "lambda": SearchPoint(quality).lmbda,
            "seeds": len(there),
        }
        for name in ("bpp", *METRICS) if there else ():
            values = np.array([r.mean(f"{protocol.test_set}/{name}") for r in there])
            values = ms_ssim_to_db(values) if name == "ms_ssim" else values
            row[name] = float(values.mean())
            row[f"{name} sd"] = float(values.std(ddof=1)) if len(there) > 1 else math.nan
        rows.append(row)
    return pd.DataFrame(rows)


def rate_noise(records: Records, protocol: Protocol) -> pd.DataFrame:
    """Per quality, the rate changes in percent of the baselines of other seeds against that of CHOSEN_ON, on
    both image sets, and on the test image with the largest difference."""
    rows = []
    for quality in protocol.rates:
        first = records.baseline(quality, CHOSEN_ON)
        row: dict[str, float] = {"quality": quality}
        for seed in range(CHOSEN_ON + 1, protocol.seeds):
            other = records.baseline(quality, seed)
            if first is None or other is None:
                continue
            for image_set in (SELECTION, protocol.test_set):
                more, rates = _more(other, first, image_set)
                row[f"{image_set} s{seed}"] = 100 * more.mean() / rates.mean()
            more, rates = _more(other, first, protocol.test_set)
            row[f"one image s{seed}"] = 100 * max(more / rates, key=abs)
        rows.append(row)
    return pd.DataFrame(rows)


def _more(record: Record, base: Record, image_set: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Difference of J to the baseline, per image, and the baseline's bits per pixel."""
    return costs_beyond((record.images, base.images), image_set, record.lmbda)


def times(records: Records) -> list[TrainingTime]:
    """Table III, in seconds per step. If slices ran on several devices, only the one with the most training
    runs is used."""
    there = [*records.of(BASELINE), *records.of(TRIAL), *records.of(CONFIRMATION)]
    devices = Counter(record.device for record in there)
    most = max(devices, key=lambda device: devices[device], default="")
    fastest: dict[str, list[float]] = {}
    for record in [record for record in there if record.device == most]:
        seconds = min(metrics["seconds"] for metrics in record.curve.values())
        steps = record.steps / len(record.curve)
        fastest.setdefault(record.strategy_name, []).append(seconds / steps)
    return training_times(fastest)


def flatness(records: Records, protocol: Protocol) -> pd.DataFrame:
    """Convergence of the baselines: per quality, the mean J over seeds on the validation images at a quarter,
    half and three quarters of the training, above the final J in percent of the final rate; and, where a
    baseline was trained `longer` times as long, the resulting rate change on both image sets."""
    rows, epochs = [], protocol.epochs
    for quality in protocol.rates:
        there = [r for r in records.of(BASELINE) if r.quality == quality]
        if not there:
            continue
        lmbda = SearchPoint(quality).lmbda
        costs = {
            epoch: float(np.mean([r.curve[epoch]["bpp"] + lmbda * r.curve[epoch]["mse"] for r in there]))
            for epoch in there[0].curve
        }
        rate = float(np.mean([r.curve[epochs]["bpp"] for r in there]))
        row: dict[str, float | None] = {"quality": quality, "bpp": rate, "J": costs[epochs]}
        for share in (0.25, 0.5, 0.75):
            row[f"at {share:.0%}"] = 100 * (costs[max(1, round(share * epochs))] - costs[epochs]) / rate
        base = records.baseline(quality, CHOSEN_ON)
        for record in records.of(LONGER):
            if record.quality == quality and base is not None:
                for image_set in (SELECTION, protocol.test_set):
                    row[f"longer, {image_set}"] = records.rate_change(record, image_set)
        rows.append(row)
    return pd.DataFrame(rows)


def optimism(records: Records, protocol: Protocol) -> pd.DataFrame:
    """Optimism of selecting on the test set: the mean over qualities of the best point's rate change on the
    test images (0 where the baseline is best), for points selected on the validation images and on the test
    images; on the selection seed and on fresh seeds. Also with random halves of the test images: selected on
    one half, measured on both."""
    fresh = range(CHOSEN_ON + 1, protocol.seeds)
    rows = []
    for image_set in (SELECTION, protocol.test_set):
        best = chosen(records, protocol, image_set)[BEST]
        rows.append({
            "chosen on": image_set,
            "same seed": _mean_change(records, protocol, best, [CHOSEN_ON]),
            "fresh seeds": _mean_change(records, protocol, best, fresh),
        })  # fmt: skip
    own, other = _halves(records, protocol)
    rows.append({"chosen on": f"half of {protocol.test_set}", "same seed": own, "other half": other})
    return pd.DataFrame(rows)


def _mean_change(records: Records, protocol: Protocol, best: Chosen, seeds: Sequence[int]) -> float:
    found = []
    for seed, point in itertools.product(seeds, best.values()):
        record = trained(records, point, seed) if point.strategy else None
        change = None if point.strategy else 0.0
        if record is not None:
            change = records.rate_change(record, protocol.test_set)
        if change is None:
            return math.nan
        found.append(change)
    return float(np.mean(found)) if found else math.nan


def _halves(records: Records, protocol: Protocol, draws: int = 200) -> tuple[float, float]:
    """The mean rate change of the best points on the half used for selection, and on the other half."""
    changes: dict[int, list[NDArray[np.float64]]] = {}
    rates: dict[int, NDArray[np.float64]] = {}
    for record in records.of(TRIAL):
        if (base := records.baseline(record.quality, record.seed)) is not None:
            more, rates[record.quality] = _more(record, base, protocol.test_set)
            changes.setdefault(record.quality, []).append(more)
    if not changes:
        return math.nan, math.nan
    draw, found = np.random.default_rng(0), []
    for _ in range(draws):
        order = draw.permutation(len(next(iter(rates.values()))))
        halves = np.array_split(order, 2)
        for quality, rows in changes.items():
            table = np.array([np.zeros_like(rates[quality]), *rows])  # the baseline can be selected, too
            own, other = (100 * table[:, half].mean(1) / rates[quality][half].mean() for half in halves)
            best = int(own.argmin())
            found.append((own[best], other[best]))
    own_mean, other_mean = np.mean(found, axis=0)
    return float(own_mean), float(other_mean)
