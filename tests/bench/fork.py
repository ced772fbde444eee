"""What a fork saves, and what it costs: the same searches with and without it, seed by seed.

    python -m tests.bench.fork --model cheng --budget 18 --rates 1,2,3 --seeds 3 --fork-at 0.33 \\
        --data ../shared/data/bsds500 --kodak ../shared/data/kodak --results results/fork --out fork.csv

Of every seed three rows, all against the baselines of that seed:

    full                 the search whose trials train in full, and the BD-rate of what it chose
    fork                 the search whose trials leave their baseline at --fork-at, and what it says of that
    fork, retrained      the points that the fork chose, trained in full: what is true of them

So `fork, retrained` less `full` is what the fork lost in choosing, and `fork` less `fork, retrained` by how
much its own figure deceives. Both searches are judged on the seed that they chose on; search.run --confirm
judges on others.

Options that are not its own go to search.run, which uses the preset `tiny`. A search that is finished in
--results is not run again, one that was broken off goes on, and so does a training of a chosen point.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from lic.evaluation.bdrate import CurveError, bd_rate_interval
from lic.files import number_argument, path_argument, whole_argument
from lic.training.trial import Trial
from search.base.space import BASELINE, Candidate
from search.engine.tune import training_config_of
from search.records.folder import OpenedSearch, open_search
from search.records.results import best_per_rate
from search.records.search_records import PSNR, TrialRecord
from search.settings.plan import template_of
from search.store.find import is_search

FULL, FORK, RETRAINED = "full", "fork", "fork, retrained"


@dataclass(frozen=True)
class Row:
    """What one method gave on one seed: epochs that its trials trained, and their share (percent) of as many
    full trainings; wall time from the first proposal to the end of the last training, seconds; BD-rate (PSNR,
    percent) of the chosen points with its 95 % interval over the images, or why there is none; the points."""

    seed: int
    method: str
    fork_at: float
    epochs: int | None
    share: float | None
    seconds: float | None
    bd_rate: float | None
    low: float | None
    high: float | None
    refused: str
    points: str


def searched(results: Path, seed: int, fork_at: float, options: Sequence[str]) -> OpenedSearch:
    """The finished search of this seed, run or resumed if it is not."""
    name = f"fork-{fork_at:g}-s{seed}" if fork_at else f"full-s{seed}"
    folder = results / name
    if not (folder / "best" / "index.json").is_file():  # a search writes it when it has ended
        new = ("--preset", "tiny", "--name", name, "--seed", str(seed), "--fork-at", str(fork_at))
        what = ("--resume", name) if is_search(folder) else (*new, "--no-reuse-baselines", *options)
        command = [sys.executable, "-m", "search.run", "--results", str(results), *what]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"{name} did not end; the same command goes on with it")
    return open_search(str(folder), results)


def row_of(search: OpenedSearch, method: str) -> Row:
    """What a search took, and the BD-rate of its choice by its own readings."""
    trials, trained = search.records.trials, search.records.trained_here()
    epochs = sum(trial.trained for trial in trials)
    return Row(
        search.settings.seed, method, search.settings.fork_at, epochs,
        100 * epochs / (search.records.epochs * len(trials)),
        max(r.ended or 0.0 for r in trained) - min(r.began for r in trained),
        **_bd_rate(search, best_per_rate(search.records)),
    )  # fmt: skip


def retrained(search: OpenedSearch) -> Row:
    """The points that a search chose, trained in full."""
    points = {
        quality: record if record.role == BASELINE else _in_full(search, record)
        for quality, record in best_per_rate(search.records).items()
    }
    settings = search.settings
    return Row(settings.seed, RETRAINED, settings.fork_at, None, None, None, **_bd_rate(search, points))


def _in_full(search: OpenedSearch, record: TrialRecord) -> TrialRecord:
    """The record of the same point trained from the start, by lic alone."""
    epochs, template = search.records.epochs, template_of(search.settings)
    point = Candidate(record.name, record.role, record.point, record.seed)
    trial = Trial(training_config_of(point, replace(template, val_epochs=(), test_epochs=(epochs,))))
    saved = search.folder / "in_full" / f"{record.name}.pt"
    if saved.is_file():
        trial.load(saved)
    while not trial.done:
        print(f"{record.name} in full: epoch {trial.trainer.epoch + 1} of {epochs}", flush=True)
        trial.run_epoch()
        saved.parent.mkdir(exist_ok=True)
        trial.save(saved)
    last = trial.readings[-1]
    return replace(record, readings={epochs: last.figures}, images={epochs: last.images}, fork=0)


def _bd_rate(search: OpenedSearch, chosen: dict[int, TrialRecord]) -> dict[str, Any]:
    """The last fields of a row."""
    records, anchors = search.records, [search.records.baselines[quality] for quality in chosen]
    points = "; ".join(
        f"q{quality} {point.strategy} {point.alpha:.2e}" if point.alpha else f"q{quality} baseline"
        for quality, point in chosen.items()
    )
    try:
        anchor, test = (records.curve(own, PSNR) for own in (anchors, [*chosen.values()]))
        found = bd_rate_interval(anchor, test)
    except CurveError as error:
        return {**dict.fromkeys(("bd_rate", "low", "high")), "refused": str(error), "points": points}
    return {"bd_rate": found.value, "low": found.low, "high": found.high, "refused": "", "points": points}


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Per seed, and in the mean over the seeds: epochs and wall time of the fork over those without; BD-rates
    of what was chosen, in percent, and their differences `lost` and `deceived`, which are explained above."""
    by_seed = table.pivot(index="seed", columns="method", values=["epochs", "seconds", "bd_rate"])
    whole, fork, true = (by_seed["bd_rate"][method] for method in (FULL, FORK, RETRAINED))
    found = pd.DataFrame(
        {
            "epochs, fork / full": by_seed["epochs"][FORK] / by_seed["epochs"][FULL],
            "seconds, fork / full": by_seed["seconds"][FORK] / by_seed["seconds"][FULL],
            "full": whole,
            "fork": fork,
            "fork, retrained": true,
            "lost": true - whole,
            "deceived": fork - true,
        }
    ).astype(float)
    found.index = found.index.map(str)
    return pd.concat([found, found.mean().to_frame("mean").T])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--seeds", type=whole_argument(1, 1000), default=3, metavar="N", help="(default: 3)")
    parser.add_argument(
        "--fork-at", type=number_argument(0, 1), default=0.33, metavar="F", help="(default: 0.33)"
    )
    parser.add_argument(
        "--results",
        type=path_argument,
        metavar="FOLDER",
        help="where the searches are (default: a temporary one)",
    )
    parser.add_argument("--out", type=path_argument, metavar="FILE", help="write the rows there as CSV")
    args, options = parser.parse_known_args()
    if not args.fork_at:
        parser.error("--fork-at 0 is no fork; give a fraction of the epochs, such as 0.33")
    with tempfile.TemporaryDirectory() as temporary:
        results = args.results or Path(temporary)
        rows = []
        for seed in range(args.seeds):
            rows.append(row_of(searched(results, seed, 0.0, options), FULL))
            forked = searched(results, seed, args.fork_at, options)
            rows += [row_of(forked, FORK), retrained(forked)]
    table = pd.DataFrame([asdict(row) for row in rows])
    if args.out:
        table.to_csv(args.out, index=False, float_format="%.4g")
    pd.set_option("display.width", 250, "display.max_columns", None, "display.max_colwidth", 80)
    print(table.to_string(index=False, float_format="%.2f"))
    print(differences(table).to_string(float_format="%.2f"))


if __name__ == "__main__":
    main()
