"""How many selection images a search needs, and from where.

    python -m tests.bench.selection_images results/mine --images ../shared/data/bsds500/val \
        ../shared/data/bsds500/test --counts 8,32,128,300 --out docs/bench/selection_images.csv

The finished trials and baselines of searches are evaluated again, from their checkpoints, on central crops of
the images in each folder given. For each count, random subsets of the crops are drawn, and every trial's rate
change on a subset is compared with its rate change on the search's own test images:

    r, rms   Pearson's correlation and root mean square of the difference (percent), mean over the subsets,
             of the points that lie within 8 % on the test images
    spread   standard deviation of a point's rate change between subsets (percent): the noise that the
             choice of images adds, root mean square over the points
    seconds  to evaluate one model on so many crops, on one core
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import pearsonr

from lic.data.cache import PackedImages, default_cache, pack_files
from lic.data.folders import find_images
from lic.evaluation.evaluate import evaluate
from lic.models.build import build
from search.base.space import BASELINE, BD_RATE_PSNR, RD_COST
from search.decide.objective import Reading, means_of, rate_change
from search.records.folder import OpenedSearch, final_weights, open_search
from search.records.search_records import TrialRecord
from tests.bench.objectives import NEAR

Rows = NDArray[np.int64]

_CROP, _SUBSETS, _SET = 256, 50, "val"


@dataclass(frozen=True)
class Codec:
    """A training's columns per crop and, of a trial, its rate change on the test images (percent)."""

    record: TrialRecord
    columns: dict[str, list[float]]
    reported: float | None

    def on(self, rows: Rows) -> Reading:
        """What it measured on these crops."""
        return Reading(means_of(self.columns, _SET, rows), {})


def measured(search: OpenedSearch, images: PackedImages) -> tuple[list[Codec], float]:
    """The baselines and finished trials of a search on the crops, and the seconds a model took."""
    settings, found, began = search.settings, [], time.perf_counter()
    records = search.records
    for record in [*records.baselines.values(), *records.finished()]:
        model = build(settings.model, settings.width, settings.latent_width)
        model.load_state_dict(final_weights(search, record))
        table = evaluate(model, images, crop=_CROP, with_ms_ssim=False)
        columns = {f"{_SET}/{name}": table[name].tolist() for name in ("bpp", "mse")}
        trial = record.role != BASELINE
        reported = records.rate_change(record, records.epochs, records.test_set) if trial else None
        found.append(Codec(record, columns, reported))
        print(".", end="", flush=True)
    return found, (time.perf_counter() - began) / len(found)


def agreement(codecs: list[Codec], objective: str, rows: list[Rows]) -> dict[str, float]:
    """How the rate change on subsets of the crops agrees with that on the test images."""
    trials = [c for c in codecs if c.reported is not None and abs(c.reported) < NEAR]
    reported = np.array([trial.reported for trial in trials])
    values = []
    for subset in rows:
        baselines = {c.record.quality: c.on(subset) for c in codecs if c.reported is None}
        values.append(
            [rate_change(objective, c.record.point, c.on(subset), baselines, _SET).value for c in trials]
        )
    table = np.array(values)
    return {
        "points": len(trials),
        "r": float(np.mean([pearsonr(row, reported)[0] for row in table])),
        "rms": float(np.sqrt(np.mean((table - reported) ** 2, axis=1)).mean()),
        "spread": float(np.sqrt(np.mean(table.var(axis=0, ddof=1)))) if len(table) > 1 else np.nan,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("searches", nargs="+", type=Path, metavar="SEARCH")
    parser.add_argument("--images", nargs="+", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--counts", default="8,16,32,64,128")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    files = [file for folder in args.images for file in find_images(folder.resolve())]
    images = pack_files(
        files, Path(os.path.commonpath([folder.resolve() for folder in args.images])), default_cache()
    )
    for path in args.searches:
        search = open_search(str(path), path.parent, with_model=False)
        codecs, seconds = measured(search, images)
        for count in (int(text) for text in args.counts.split(",")):
            draw = np.random.default_rng(count)
            count = min(count, len(images))
            whole = count == len(images)
            subsets = [draw.permutation(len(images))[:count] for _ in range(1 if whole else _SUBSETS)]
            for objective in (BD_RATE_PSNR, RD_COST):
                rows.append(
                    {
                        "search": path.name, "images": args.images[0].parent.name, "count": count,
                        "objective": objective, **agreement(codecs, objective, subsets),
                        "seconds": seconds * count / len(images),
                    }
                )  # fmt: skip
    table = pd.DataFrame(rows)
    print()
    print(table.to_string(index=False, float_format="{:.2f}".format))
    if args.out:
        old = pd.read_csv(args.out) if args.out.exists() else pd.DataFrame()
        pd.concat([old, table]).to_csv(args.out, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
