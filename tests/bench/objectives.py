"""Which objective on the validation images predicts the BD-rate that is reported.

    python -m tests.bench.objectives docs/reproduction/hyperprior docs/reproduction/cheng

For each folder of records (search.reproduction) the correlation over all points that lie within 8 % between
an objective's rate change on the validation images and the integrand of the BD-rate on the reported images:
of the same training ("same seed", Pearson's and Spearman's), and of the same point's trainings on the other
seeds, their mean ("fresh seeds"), which is what a user gets. `rms` is the root mean square of the
difference, percent.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import pearsonr, spearmanr

from lic.evaluation.bdrate import Curve, log_rate_at
from search.base.space import BASELINE, BD_RATE_PSNR, RD_COST
from search.decide.objective import Reading, means_of, rate_change
from search.reproduction.protocol import LONGER, SELECTION, Protocol, Record, Records

#: Points with a larger change on the reported images (percent) are out of the question.
NEAR = 8.0

Objective = Callable[[Records, Record, str], float]


def _compared(records: Records, record: Record, image_set: str) -> dict[int, Reading]:
    found = {}
    for base in records.of(BASELINE):
        if base.seed == record.seed:
            found[base.quality] = _reading(base, image_set)
    return found


def _reading(record: Record, image_set: str) -> Reading:
    return Reading(means_of(record.images, image_set, slice(None)), record.images)


def _of(objective: str) -> Objective:
    def value(records: Records, record: Record, image_set: str) -> float:
        compared, own = _compared(records, record, image_set), _reading(record, image_set)
        return rate_change(objective, record.point, own, compared, image_set).value

    return value


def _per_image(records: Records, record: Record, image_set: str) -> float:
    """Mean over the images of 100 (ln(R_i / R0_i) - s (Q_i - Q0_i)), s the slope of the baselines' curve."""
    compared = _compared(records, record, image_set)
    rate, psnr = f"{image_set}/bpp", f"{image_set}/psnr"
    curve = Curve.front(*zip(*((r.metrics[rate], r.metrics[psnr]) for r in compared.values()), strict=True))
    base = compared[record.quality]
    slope = log_rate_at(curve, base.metrics[psnr])[1]
    shares = []
    for one in (record.images, base.columns):
        mse = np.asarray(one[f"{image_set}/mse"])
        shares.append(np.log(one[rate]) - slope * 10 * np.log10(255**2 / mse))
    return float(100 * np.mean(shares[0] - shares[1]))


OBJECTIVES: dict[str, Objective] = {
    "J = R + lambda D": _of(RD_COST),
    "integrand by mean PSNR": _of(BD_RATE_PSNR),
    "per image, slope of the curve": _per_image,
}


def table(state: Path) -> pd.DataFrame:
    """One row an objective."""
    records, test_set = Records.load(state), Protocol.load(state).test_set
    with_baseline = [
        record
        for record in records.values()
        if record.role not in (BASELINE, LONGER)
        and not record.failure
        and records.baseline(record.quality, record.seed)
    ]
    reported = {r.name: _of(BD_RATE_PSNR)(records, r, test_set) for r in with_baseline}
    by_point: dict[tuple[int, str | None, float], list[Record]] = defaultdict(list)
    for record in with_baseline:
        by_point[record.quality, record.strategy, record.alpha].append(record)
    rows = []
    for name, objective in OBJECTIVES.items():
        same, fresh = [], []
        for record in with_baseline:
            value = objective(records, record, SELECTION)
            others = [r for r in by_point[record.quality, record.strategy, record.alpha] if r is not record]
            if abs(reported[record.name]) < NEAR:
                same.append((value, reported[record.name]))
            mean = float(np.mean([reported[r.name] for r in others])) if others else math.nan
            if abs(mean) < NEAR:
                fresh.append((value, mean))
        rows.append({"objective": name, **_agreement("same seed", same), **_agreement("fresh seeds", fresh)})
    return pd.DataFrame(rows)


def _agreement(label: str, pairs: list[tuple[float, float]]) -> dict[str, float]:
    values, reported = np.array(pairs).T
    return {
        f"{label}, points": len(pairs),
        f"{label}, r": pearsonr(values, reported)[0],
        f"{label}, rank": spearmanr(values, reported)[0],
        f"{label}, rms": float(np.sqrt(np.mean((values - reported) ** 2))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("states", nargs="+", type=Path, metavar="FOLDER")
    for state in parser.parse_args().states:
        print(state)
        print(table(state).to_string(index=False, float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
