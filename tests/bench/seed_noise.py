"""What two equal codecs differ by, between seeds: `python -m tests.bench.seed_noise results/mine`.

For searches that trained their baselines on further seeds (`--noise-seeds N`, or `--confirm`, `--seeds N`):
the BD-rate of every pair of seeds over all rates, percent, on the search's own test images; and of each rate
the rate change at equal PSNR along the first seed's curve.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from lic.evaluation.bdrate import Curve, bd_rate, point_bd_rate
from search.base.space import BASELINE
from search.records.folder import OpenedSearch, open_search
from search.records.search_records import FINISHED


def curves(search: OpenedSearch) -> dict[int, Curve]:
    """The baselines' curve of each seed that has all rates: mean bit rate and PSNR of the test images."""
    records = search.records
    first = search.plan.seed
    by_seed = {first: list(records.baselines.values())}
    for group in search.confirmed:
        for record in group.everything():
            if record.role == BASELINE and record.state == FINISHED and record.seed != first:
                by_seed.setdefault(record.seed, []).append(record)
    found = {}
    for seed, own in sorted(by_seed.items()):
        figures = {record.quality: record.readings[records.epochs] for record in own}
        if set(figures) == set(records.qualities):
            ordered = [figures[quality] for quality in sorted(figures)]
            name = records.test_set
            found[seed] = Curve.of([f[f"{name}/bpp"] for f in ordered], [f[f"{name}/psnr"] for f in ordered])
    return found


def pairs(found: dict[int, Curve], qualities: tuple[int, ...]) -> pd.DataFrame:
    """A row for each pair of seeds."""
    rows = []
    for (first, anchor), (second, test) in itertools.combinations(found.items(), 2):
        points = zip(test.rate, test.quality, strict=True)
        changes = [point_bd_rate(anchor, rate, quality) for rate, quality in points]
        rows.append({"seeds": f"{first}, {second}", "bd_rate_%": bd_rate(anchor, test)} | {
            f"q{quality}": change for quality, change in zip(sorted(qualities), changes, strict=True)
        })  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("searches", metavar="SEARCH", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, help="CSV file to write")
    args = parser.parse_args()
    tables = []
    for path in args.searches:
        search = open_search(path.name, path.parent)
        table = pairs(curves(search), search.records.qualities)
        table.insert(0, "search", path.name)
        tables.append(table)
        print(table.to_string(index=False, float_format="{:+.2f}".format))
        size = np.sqrt(np.mean(np.square(table["bd_rate_%"])))
        print(f"root mean square {size:.2f} % over {len(table)} pairs\n")
    if args.out:
        pd.concat(tables).round(4).to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
