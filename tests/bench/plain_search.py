"""A whole search against Ray Tune's plain recipe: `python -m tests.bench.plain_search`.

Runs `python -m search.run --preset tiny --budget 64` on the CPU, then the same points through the recipe of
Ray Tune's documentation with a training as in CompressAI's examples (tests/bench/plain_recipe.py): the same
model, starter weights, batches, patches, steps, learning rates and images, validation after every epoch and
the reported images (Kodak) after the same ones; both with --workers trials at once. Whatever option is not
listed below goes to search.run, and so to both sides: --model hyperprior, --epochs 3, --steps-per-epoch 20.

Wall time is that of each process from its start to its end: of ours with the baselines, the packing of the
images, MLflow and the report. The two sides stop different trials (ours per rate and by a model, the plain
one all rates together), so they are compared by wall seconds for each epoch that was trained, and ours has
the epochs of its baselines, too. As a trial's start-up weighs more in a side whose trials are short, a second
ratio says what the plain side would take for as many trainings and epochs as ours: its start-up scaled with
the trainings, its training, evaluation and reporting with the epochs. That one is computed, not measured.

The profile divides the time of the places for trials (workers x wall time) into

    training      the steps with their batches
    evaluation    validation and reported images
    start-up      from the proposal of a trial to its first step: worker process, imports, model, images
    reporting     from an epoch's last measurement to the next one's first step: checkpoint, report, decision
    rest          no trial in the place: start and end of the search, the tail, proposals, MLflow, the report

--ours FOLDER takes a search that was run before instead of a new one (with --wall SECONDS unless this script
ran it); --keep FOLDER keeps everything. A full comparison takes most of an hour and a half on two cores;
--minutes ends the plain side early: no trial starts after so many, and what was finished counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

import pandas as pd

from lic.data.sets import ImageSet
from lic.training.trial import open_images
from search.records.folder import OpenedSearch, open_search
from search.settings.config import Settings
from search.settings.plan import template_of
from tests.bench import machine
from tests.bench.data import image_folder
from tests.bench.plain_recipe import FOUND, Epoch, Task

#: In the folder of a search that this script ran: the wall seconds that it took.
WALL = "wall_seconds"

PHASES = ("training", "evaluation", "start-up", "reporting", "rest")


@dataclass(frozen=True)
class Side:
    """One search: its wall time in seconds and the epochs that it trained, with `workers` trials at once."""

    name: str
    wall: float
    workers: int
    epochs: list[Epoch]

    def trainings(self) -> list[list[Epoch]]:
        """The epochs of each training, in the order in which the trainings were proposed."""
        ordered = sorted(self.epochs, key=lambda epoch: (epoch.proposed, epoch.trial, epoch.epoch))
        return [list(group) for _, group in groupby(ordered, key=lambda epoch: epoch.trial)]

    def profile(self) -> dict[str, float]:
        """Seconds of the places for trials, by phase."""
        trainings = self.trainings()
        found = {
            "training": sum(epoch.train_seconds for epoch in self.epochs),
            "evaluation": sum(epoch.eval_seconds for epoch in self.epochs),
            "start-up": sum(_start_up(training) for training in trainings),
            "reporting": sum(
                after.began - before.ended for training in trainings for before, after in pairwise(training)
            ),
        }
        return {**found, "rest": self.workers * self.wall - sum(found.values())}

    def row(self) -> dict[str, float | str]:
        trainings = self.trainings()
        later = [_start_up(training) for training in trainings[self.workers :]] or [math.nan]
        return {
            "side": self.name,
            "trainings": len(trainings),
            "epochs": len(self.epochs),
            "wall_s": self.wall,
            "wall_s_per_epoch": self.wall / len(self.epochs),
            # Of a trial that is not the first in its place.
            "start_up_s": statistics.median(later),
            **{f"{phase}_s": seconds for phase, seconds in self.profile().items()},
        }

    def wall_at(self, trainings: int, epochs: int) -> float:
        """The wall time for so many trainings and epochs, computed from the profile."""
        spent = self.profile()
        by_epoch = spent["training"] + spent["evaluation"] + spent["reporting"]
        scaled = by_epoch * epochs / len(self.epochs) + spent["start-up"] * trainings / len(self.trainings())
        return (scaled + spent["rest"]) / self.workers


def _start_up(training: list[Epoch]) -> float:
    return training[0].began - training[0].proposed


def run_ours(root: Path, workers: int, data: Path, kodak: Path, options: list[str]) -> Path:
    """Run a search of our own below `root`; its folder."""
    command = [sys.executable, "-m", "search.run", "--preset", "tiny", "--trials-per-gpu", "0"]
    command += ["--optimizer", "adam"]  # as the recipe has it
    command += ["--workers", str(workers), "--data", str(data), "--kodak", str(kodak), *options]
    command += ["--results", str(root), "--name", "ours", "--cache", str(root / "cache")]
    seconds = _timed(command)
    (root / "ours" / WALL).write_text(str(seconds))
    return root / "ours"


def _timed(command: list[str]) -> float:
    """Wall seconds of a command, which must succeed."""
    print(shlex.join(command), flush=True)
    started = time.monotonic()
    if status := subprocess.run(command, check=False).returncode:
        sys.exit(f"it ended with status {status}; nothing can be compared")
    return time.monotonic() - started


def ours_of(search: OpenedSearch, wall: float) -> Side:
    """Our side, from what a search recorded."""
    epochs = [
        Epoch(
            record.name, epoch, record.began, record.measured_at(epoch),
            figures["time/train_seconds"], figures["time/eval_seconds"],
        )
        for record in search.records.trained_here()
        for epoch, figures in record.readings.items()
    ]  # fmt: skip
    return Side("lictune", wall, _workers(search.settings), epochs)


def _workers(settings: Settings) -> int:
    return settings.workers or len(os.sched_getaffinity(0))


def task_of(search: OpenedSearch, minutes: float | None, root: Path) -> Task:
    """The plain recipe's task: the points of a search, trained and measured as it did."""
    settings, template = search.settings, template_of(search.settings)
    train, validation, test = open_images(template.images)
    on_test = template.images.kodak if template.images.test == "auto" else template.images.test
    training = dataclasses.asdict(template.training)
    for point in ("lmbda", "alpha", "strategy"):
        del training[point]
    return Task(
        model=settings.model,
        width=template.width,
        latent_width=template.latent_width,
        start=template.start,
        training=training,
        grace=settings.grace,
        eta=settings.eta,
        train=str(image_folder(_files(train, template.images.data), root / "images")),
        validation=[str(path) for path in _files(validation, template.images.data)],
        validation_crop=template.images.val_crop,
        test=[str(path) for path in _files(test, on_test)],
        test_epochs=list(template.test_epochs),
        points=[
            {"alpha": trial.alpha, "strategy": trial.strategy, "quality": trial.quality}
            for trial in search.records.trials
        ],
        workers=_workers(settings),
        minutes=minutes,
        root=str(root),
    )


def _files(images: ImageSet, root: str | None) -> list[Path]:
    files = [Path(str(root)) / image.name for image in images.images.images]
    if not all(path.is_file() for path in files):
        sys.exit(
            f"the plain recipe reads files, and these are none: {images.source}; give --data and --kodak"
        )
    return files


def run_plain(task: Task) -> Side:
    """Run the plain recipe in a process of its own."""
    root = Path(task.root)
    (root / "task.json").write_text(json.dumps(dataclasses.asdict(task)))
    wall = _timed([sys.executable, "-m", "tests.bench.plain_recipe", str(root / "task.json")])
    found = json.loads((root / FOUND).read_text())
    if not found["epochs"]:
        sys.exit("no trial of it trained an epoch; give it more --minutes, or see its folder by --keep")
    if found["failed"]:
        print(f"{found['failed']} of its trials broke off; what they had trained counts")
    return Side("Ray Tune's plain recipe", wall, task.workers, [Epoch(**epoch) for epoch in found["epochs"]])


def profile_table(sides: list[Side]) -> pd.DataFrame:
    """Seconds of the places for each epoch trained, by phase, and their share, of every side."""
    table = pd.DataFrame(index=list(PHASES))
    for side in sides:
        seconds = pd.Series(side.profile())
        table[f"{side.name}: s per epoch"] = seconds / len(side.epochs)
        table[f"{side.name}: %"] = 100 * seconds / (side.workers * side.wall)
    return table


def show(ours: Side, plain: Side, out: Path | None) -> None:
    table = pd.DataFrame([ours.row(), plain.row()]).set_index("side")
    columns = [f"{phase}_s" for phase in PHASES]
    print(f"\n{table.drop(columns=columns).round(2).to_string()}\n")
    print(f"{profile_table([ours, plain]).round(2).to_string()}\n")
    speed = table["wall_s_per_epoch"]
    equal = plain.wall_at(len(ours.trainings()), len(ours.epochs))
    print(
        f"in wall time at equal epochs: {speed[plain.name] / speed[ours.name]:.2f} times faster\n"
        f"with as many trainings and epochs the plain recipe would take {equal:.0f} s (computed): "
        f"{equal / ours.wall:.2f} times faster"
    )
    print(machine.described("compressai", "ray", "optuna", "mlflow"))
    if out:
        table.round(4).to_csv(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data/bsds500"), help="images to train on"
    )
    parser.add_argument("--kodak", type=Path, default=Path("../shared/data/kodak"), help="the Kodak images")
    parser.add_argument("--workers", type=int, default=2, help="trials at once, of both sides")
    parser.add_argument("--minutes", type=float, help="no trial of the plain side starts after so many")
    parser.add_argument("--ours", type=Path, metavar="FOLDER", help="a finished search to compare with")
    parser.add_argument("--wall", type=float, metavar="SECONDS", help="that it took, from start to end")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for all that is written (default: none)")
    parser.add_argument("--out", type=Path, help="CSV file to write")
    args, options = parser.parse_known_args()
    if args.ours and options:
        parser.error(f"{options[0]} is of no use: the search in {args.ours} has its settings")
    if args.ours and args.wall is None and not (args.ours / WALL).is_file():
        parser.error(f"how long the search in {args.ours} took is not known; give --wall SECONDS")
    with tempfile.TemporaryDirectory() as temporary:
        root = (args.keep or Path(temporary)).resolve()
        folder = args.ours or run_ours(root, args.workers, args.data, args.kodak, options)
        search = open_search(str(folder), folder.parent, with_model=False)
        ours = ours_of(search, args.wall or float((folder / WALL).read_text()))
        (root / "plain").mkdir(parents=True)
        show(ours, run_plain(task_of(search, args.minutes, root / "plain")), args.out)


if __name__ == "__main__":
    main()
