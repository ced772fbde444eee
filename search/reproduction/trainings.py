"""The training runs of a reproduction: several in parallel, each saved after every epoch, so that the next
slice resumes where the last one ended.

    STATE/protocol.json                     the protocol (search.reproduction.protocol)
          records.jsonl                     ended training runs, one per line
          checkpoints/NAME.e03.0of1.pt      an unfinished training run after its third epoch
          weights/NAME.e10.0of1.safetensors the baselines, and the best point per quality so far
          examples.npz, tables.md, figures/ the results (search.reproduction.report)

No file except records.jsonl is larger than PART, for systems that limit the size of files.
"""

from __future__ import annotations

import multiprocessing
import re
import signal
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

from torch import nn

from lic import atomic_io
from lic.evaluation import example
from lic.evaluation.example import Example, papers_images
from lic.evaluation.latents import correlation_sum, examine
from lic.models.acceleration import device_name
from lic.models.build import build
from lic.training.trainer import CheckpointError, DivergedError
from lic.training.trial import ImagesConfig, Trial, TrialConfig, open_images
from lic.training.weights import load_weights, save_weights
from search.base.formats import percent
from search.base.limits import Limits
from search.base.signals import ENDING, ends_on_signal
from search.base.space import BASELINE, TRIAL, Candidate
from search.reproduction.protocol import (
    CHOSEN_ON,
    SELECTION,
    Protocol,
    Record,
    Records,
    ReproductionError,
    baseline,
    best,
    choice,
    planned,
)

#: Maximum size of a file in bytes.
PART = 15 * 2**20

CHECKPOINTS, WEIGHTS = "checkpoints", "weights"

#: The metrics of every epoch that a record keeps.
_CURVE = {"bpp": f"{SELECTION}/bpp", "mse": f"{SELECTION}/mse", "seconds": "time/train_seconds"}

_PART_NAME = re.compile(r"\.e(\d+)\.(\d+)of(\d+)\.\w+")

#: Set to stop the training runs after their current epoch.
_stop: Event


@dataclass(frozen=True)
class Parts:
    """A file of a training run, split into parts of at most PART bytes, for each saved epoch."""

    folder: Path
    name: str
    suffix: str

    def write(self, epoch: int, content: bytes) -> None:
        """Write the file of an epoch, then remove those of other epochs. Raises OSError."""
        parts = [content[start : start + PART] for start in range(0, len(content), PART)]
        for number, part in enumerate(parts):
            name = f"{self.name}.e{epoch:02d}.{number}of{len(parts)}.{self.suffix}"
            atomic_io.write(self.folder / name, part)
        self.remove(but=epoch)

    def newest(self) -> bytes | None:
        """The file of the last epoch that has all its parts, or None. Raises OSError."""
        for _, paths in sorted(self._epochs().items(), reverse=True):
            if len(paths) == int(_place(paths[0])[2]):
                return b"".join(path.read_bytes() for path in paths)
        return None

    def remove(self, but: int | None = None) -> None:
        for epoch, paths in self._epochs().items():
            for path in paths if epoch != but else ():
                path.unlink(missing_ok=True)

    def _epochs(self) -> dict[int, list[Path]]:
        found: dict[int, list[Path]] = {}
        for path in sorted(
            self.folder.glob(f"{self.name}.e*.{self.suffix}"), key=lambda p: int(_place(p)[1])
        ):
            found.setdefault(int(_place(path)[0]), []).append(path)
        return found


def _place(path: Path) -> tuple[str, str, str]:
    """Epoch, number and count of a part, from its name."""
    found = _PART_NAME.search(path.name)
    return found.groups() if found else ("-1", "-1", "0")  # type: ignore[return-value]


def checkpoint_of(state: Path, name: str) -> Parts:
    return Parts(state / CHECKPOINTS, name, "pt")


def weights_of(state: Path, name: str) -> Parts:
    return Parts(state / WEIGHTS, name, "safetensors")


def train(candidate: Candidate, config: TrialConfig, state: Path) -> Record | None:
    """Train to the end and return the record; if stopped before, the state is saved and the result is
    None."""
    trial, saved = Trial(config), checkpoint_of(state, candidate.name)
    with tempfile.TemporaryDirectory(prefix="lictune-") as folder:
        local = Path(folder) / "checkpoint.pt"
        if (content := saved.newest()) is not None:
            local.write_bytes(content)
            try:
                trial.load(local)
            except CheckpointError as error:
                print(f"{candidate.name}: restarting, its checkpoint is unusable: {error}", flush=True)
        try:
            while not trial.done:
                if _stop.is_set():
                    return None
                trial.run_epoch()
                if not trial.done:
                    trial.save(local)
                    saved.write(trial.trainer.epoch, local.read_bytes())
        except DivergedError as error:
            return _failed(candidate, config, str(error))
        model = trial.trainer.final_model.cpu().eval()
        if candidate.seed == CHOSEN_ON and candidate.role in (BASELINE, TRIAL):
            weights = Path(folder) / "weights.safetensors"
            save_weights(model, weights)
            weights_of(state, candidate.name).write(config.training.epochs, weights.read_bytes())
    return _record(candidate, config, trial, model)


def _record(candidate: Candidate, config: TrialConfig, trial: Trial, model: nn.Module) -> Record:
    curve = {
        readings.epoch: {
            name: readings.figures[metric] for name, metric in _CURVE.items() if metric in readings.figures
        }
        for readings in trial.readings
    }
    packed = trial.test_images.images
    seen = {name: examine(model, packed[number]) for name, number in papers_images(packed).items()}
    return Record(
        candidate.name, candidate.role, candidate.point, candidate.seed,
        steps=config.training.total_steps, device=device_name(config.device),
        curve=curve, images=trial.readings[-1].images,
        correlation={name: correlation_sum(found.correlation) for name, found in seen.items()},
        covariance={name: found.covariance_sum for name, found in seen.items()},
    )  # fmt: skip


def _failed(candidate: Candidate, config: TrialConfig, reason: str) -> Record:
    return Record(
        candidate.name, candidate.role, candidate.point, candidate.seed,
        steps=config.training.total_steps, device=device_name(config.device),
        curve={}, images={}, correlation={}, failure=reason,
    )  # fmt: skip


def _begin(stop: Event) -> None:
    """Initialize a worker process."""
    global _stop
    _stop = stop
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)  # the driver handles signals and sets `stop`


#: Seconds between checks of the limits.
_LOOK_EVERY = 1.0


@dataclass(frozen=True)
class Machine:
    """The device and the files of a slice."""

    images: ImagesConfig
    start: str | None
    device: str
    at_once: int


def run(
    protocol: Protocol, state: Path, machine: Machine, limits: Limits, say: Callable[[str], None]
) -> bool:
    """Train everything that is planned, until a limit is reached or Ctrl-C; returns whether all is trained.

    Unfinished training runs are saved and continue in the next slice; ended ones are recorded at once. Raises
    ReproductionError if a worker was killed, OSError."""
    records, began, ended = Records.load(state), time.monotonic(), 0
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    running: dict[Future[Record | None], Candidate] = {}
    pool = ProcessPoolExecutor(machine.at_once, context, _begin, (stop,))
    try:
        with ends_on_signal(limits, say):
            while True:
                if limits.reached():
                    stop.set()
                elif len(running) < machine.at_once:
                    busy = {candidate.name for candidate in running.values()}
                    free = [
                        c for c in planned(protocol, records) if c.name not in records and c.name not in busy
                    ]
                    for candidate in free[: machine.at_once - len(running)]:
                        config = protocol.trial_config(
                            candidate, machine.images, machine.start, machine.device
                        )
                        running[pool.submit(train, candidate, config, state)] = candidate
                if not running:
                    break
                for future in wait(running, timeout=_LOOK_EVERY, return_when=FIRST_COMPLETED).done:
                    candidate, record = running.pop(future), future.result()
                    if record is None:
                        continue
                    records.add(record, state)
                    checkpoint_of(state, record.name).remove()
                    _keep_best(records, state)
                    ended += 1
                    pace = (time.monotonic() - began) / ended
                    say(_said(record, records, protocol, pace))
    except BrokenProcessPool as error:
        raise ReproductionError(
            "a training process was killed, most likely out of memory; run the same command to resume, with "
            "a smaller --at-once"
        ) from error
    finally:
        for process in multiprocessing.active_children():  # none, unless interrupted
            if running:
                process.kill()
        pool.shutdown(cancel_futures=True)
    return all(candidate.name in records for candidate in planned(protocol, records))


def _keep_best(records: Records, state: Path) -> None:
    """Remove the weights of points that are not the best of their quality."""
    kept = {record.name for record in best(records, SELECTION).values()}
    for record in records.of(TRIAL):
        if record.name not in kept and records.baseline(record.quality, record.seed) is not None:
            weights_of(state, record.name).remove()


def _said(record: Record, records: Records, protocol: Protocol, pace: float) -> str:
    """The line to print for an ended training run; `pace`: seconds per training run in this slice."""
    count, total = len(records), expected(protocol, records)
    left = max(0.0, total - count) * pace / 60
    if record.failure:
        what = f"failed: {record.failure}"
    else:
        change = None if record.role == BASELINE else records.rate_change(record, SELECTION)
        test_set = protocol.test_set
        what = f"{record.mean(f'{test_set}/bpp'):.4f} bpp, {record.mean(f'{test_set}/psnr'):.3f} dB"
        what += "" if change is None else f", {percent(change)}"
    return f"[{count:3d}/{total}] {record.name:24} {what:40} about {left:.0f} min left"


def expected(protocol: Protocol, records: Records) -> int:
    """Estimated total number of training runs."""
    now = planned(protocol, records)
    points = len(protocol.rates) * len(protocol.strategies)
    chosen_yet = any(candidate.role not in (BASELINE, TRIAL) and candidate.alpha for candidate in now)
    grid = len(protocol.rates) * sum(len(protocol.alphas[strategy]) for strategy in protocol.strategies)
    refined = sum(candidate.role == TRIAL for candidate in now) - grid
    more = 0 if refined or not protocol.refined else 2 * protocol.refined * points
    return len(now) + more + (0 if chosen_yet else (protocol.seeds - CHOSEN_ON - 1) * points)


def examples(
    protocol: Protocol, records: Records, state: Path, images: ImagesConfig
) -> tuple[Record, list[Example]] | None:
    """The point that saves most, and the paper's images coded by it and its baseline; None if the images or
    weights are missing."""
    found = [
        (change, record)
        for record in choice(records, SELECTION).values()
        if (change := records.rate_change(record, protocol.test_set)) is not None
    ]
    for _, record in sorted(found, key=lambda pair: pair[0]):
        own = baseline(record.quality, CHOSEN_ON)
        before, after = (_model(protocol, state, which.name) for which in (own, record))
        if before is None or after is None:
            continue
        packed = open_images(images)[2].images
        return record, example.examples(packed, papers_images(packed).values(), before, after)
    return None


def _model(protocol: Protocol, state: Path, name: str) -> nn.Module | None:
    content = weights_of(state, name).newest()
    if content is None:
        return None
    model = build(protocol.model, protocol.width, protocol.latent_width)
    with tempfile.TemporaryDirectory(prefix="lictune-") as folder:
        path = Path(folder) / "weights.safetensors"
        path.write_bytes(content)
        load_weights(model, path)
    return model.eval()
