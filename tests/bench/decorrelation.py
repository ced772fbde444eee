"""What decorrelation adds to a training step: `python -m tests.bench.decorrelation`.

The paper pays 5.32 to 9.97 % of the training time. Trainings without it and with y, z and y+z take turns
step by step in one process (on a GPU ten steps at a time); `overhead` is the median over --rounds of a step
with it over the step without of the same round, less one, with the 95 % interval of that median (bootstrap).
As that difference is small beside the noise of a step, the loss alone is timed, too, forward and backward on
the latents of the training: `alone` is its time over that of the step without it. `plain` is the same of the
formula written plainly, as equations (9) and (10) read. On a CPU the times are processor times of the one
thread, on a GPU between device events.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from lic.losses.decorrelation import decorrelation
from lic.models.acceleration import keep_freed_memory
from lic.models.architectures import STRATEGIES
from lic.models.build import LatentTap
from lic.training.trainer import Trainer
from tests.bench.trainings import DEVICE, add_arguments, show, train_images, trainer_of, turn

#: Steps of a turn: on a GPU one alone would be timed with the host's part of it.
STEPS = 10 if DEVICE == "cuda" else 1


def plain(features: Tensor) -> Tensor:
    """L as it is written, for F of shape N x C x H x W."""
    centred = features - features.mean(dim=0, keepdim=True)
    by_position = centred.permute(2, 3, 0, 1).flatten(0, 1)
    return torch.bmm(by_position.transpose(1, 2), by_position).abs().sum()


def seconds(work: Callable[[], object]) -> float:
    """Time that a piece of work takes: of the processor, or of the device."""
    if DEVICE == "cpu":
        started = time.thread_time()
        work()
        return time.thread_time() - started
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def latents_of(run: Trainer) -> dict[str, Tensor]:
    """y and z of a batch of the training, detached."""
    run.model.train()
    with LatentTap(run.model) as tap, torch.no_grad():
        run.model(run.crops.batch(0))
        found = tap.take()
    assert found.z is not None
    return {"y": found.y.detach(), "z": found.z.detach()}


def alone(loss: Callable[[Tensor], Tensor], latents: dict[str, Tensor], strategy: str, rounds: int) -> float:
    """Median seconds of the loss of a strategy's latents and its gradient; on a GPU by a graph, as a step is
    there."""
    taken = [latents[name].requires_grad_() for name in strategy.split("+")]

    def both() -> None:
        torch.autograd.grad(torch.stack([loss(latent) for latent in taken]).sum(), taken)

    if DEVICE == "cpu":
        return statistics.median(seconds(both) for _ in range(rounds))
    with torch.cuda.stream(torch.cuda.Stream()):
        both()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(20):
            both()
    return statistics.median(seconds(graph.replay) for _ in range(rounds)) / 20


def median_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % interval of a median, by bootstrap."""
    draw = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    low, high = np.percentile(np.median(values[draw], axis=1), [2.5, 97.5])
    return float(low), float(high)


def measure(model: str, args: argparse.Namespace) -> list[dict[str, object]]:
    names = ("", *STRATEGIES)
    if DEVICE == "cuda":  # all are compiled at once, into torch's cache on disk
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=warmed_up, args=(model, name, args)) for name in names]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    runs = {name: warmed_up(model, name, args) for name in names}
    with turn(args):
        turns = [{name: seconds(run.run_epoch) for name, run in runs.items()} for _ in range(args.rounds)]
        table, latents = pd.DataFrame(turns), latents_of(runs[""])
        return rows_of(model, table, latents, args)


def warmed_up(model: str, strategy: str, args: argparse.Namespace) -> Trainer:
    """A training with a strategy, or with none, that has seen its first steps."""
    run = trainer_of(
        model, args.preset, train_images(args.data), strategy=strategy or "y",
        alpha=1e-7 if strategy else 0.0, epochs=10**6, steps_per_epoch=STEPS,
    )  # fmt: skip
    for _ in range(5):
        run.run_epoch()
    return run


def rows_of(
    model: str, table: pd.DataFrame, latents: dict[str, Tensor], args: argparse.Namespace
) -> list[dict[str, object]]:
    """A row for every strategy, from the seconds of a turn of each in every round."""
    step, rows = float(table[""].median()) / STEPS, []
    for strategy in STRATEGIES:
        paired = (table[strategy] / table[""] - 1).to_numpy()
        low, high = median_interval(paired)
        rows.append({
            "model": model, "strategy": strategy, "ms_per_step": 1000 * step,
            "overhead_%": 100 * float(np.median(paired)), "low_%": 100 * low, "high_%": 100 * high,
            "alone_%": 100 * alone(decorrelation, latents, strategy, args.rounds) / step,
            "plain_%": 100 * alone(plain, latents, strategy, args.rounds) / step,
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)  # as a trial on the CPU has it
    if DEVICE == "cpu":
        keep_freed_memory()
    table = pd.DataFrame([row for model in args.models for row in measure(model, args)])
    show(table, args)


if __name__ == "__main__":
    main()
