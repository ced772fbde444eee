"""How many trials share a GPU: `python -m tests.bench.packing`.

Images per second of 1, 2, 3, ... trainings at once on one device, in sum, each in a process of its own with
an equal part of the memory; and what `--trials-per-gpu auto` would pick, by the search's own rule
(search.engine.sharing), for so many CPU cores as this machine has. All --most processes are there from the
first, and wait while fewer are timed. `trial_gib` is what a trial is given, `torch_gib` the most that torch
had allocated in it. On a CPU it runs, but says little.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
from multiprocessing.connection import Connection

import pandas as pd
import torch

from configs import geometry
from lic.data.cache import default_cache
from lic.training.trial import ImagesConfig, TrialConfig
from search.engine.sharing import Footprint, Probe, choose
from tests.bench.trainings import BEST, DEVICE, add_arguments, config_of, show, turn


def probe(config: TrialConfig, share: float, pipe: Connection) -> None:
    """Be one of the trainings: what it takes, and torch's part of that; then its images per second over the
    seconds that come, until there are none."""
    if config.device == "cuda":
        torch.cuda.set_per_process_memory_fraction(share)
    run = Probe(config)
    pipe.send((run.warm_up(), torch.cuda.max_memory_allocated()))
    while seconds := pipe.recv():
        pipe.send(run.train(seconds))


def begun(config: TrialConfig, share: float) -> Connection:
    """The pipe of a new process with one of the trainings."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=probe, args=(config, share, there), daemon=True).start()
    return here


def together(pipes: list[Connection], seconds: float) -> float:
    """Images per second of so many trainings at once, in sum."""
    for pipe in pipes:
        pipe.send(seconds)
    return sum(pipe.recv() for pipe in pipes)


def measure(model: str, args: argparse.Namespace) -> list[dict[str, object]]:
    values = geometry(model, args.preset)
    config = TrialConfig(
        model, values["width"], values.get("latent_width"), None,
        config_of(model, args.preset, epochs=10**6, steps_per_epoch=20),
        ImagesConfig(args.data and str(args.data), None, "deadleaves", 4, 8, 256, str(default_cache())),
        (), (), DEVICE, dataclasses.replace(BEST, precision=args.precision or BEST.precision),
    )  # fmt: skip
    # The first alone: what it takes is told from what it leaves of the device's memory.
    pipes = [begun(config, 1 / args.most)]
    footprint: Footprint
    footprint, allocated = pipes[0].recv()
    pipes += [begun(config, 1 / args.most) for _ in range(args.most - 1)]
    for pipe in pipes[1:]:
        pipe.recv()
    with turn(args):
        speeds = [together(pipes[: count + 1], args.seconds) for count in range(args.most)]
    for pipe in pipes:
        pipe.send(0.0)

    def speed(count: int) -> float:
        return speeds[count - 1] if count <= len(speeds) else 0.0

    sharing = choose(footprint, len(os.sched_getaffinity(0)), speeds[0], speed)
    print(f"{model}: --trials-per-gpu auto picks {sharing}", flush=True)
    return [
        {"model": model, "trials": count, "images_per_s": speed, "over_one": speed / speeds[0],
         "trial_gib": footprint.trial / 2**30, "torch_gib": allocated / 2**30}
        for count, speed in enumerate(speeds, 1)
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--most", type=int, default=4, help="trainings at once")
    parser.add_argument("--seconds", type=float, default=10, help="that every number is timed")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), help="(default: the fastest)")
    args = parser.parse_args()
    table = pd.DataFrame([row for model in args.models for row in measure(model, args)])
    show(table, args)


if __name__ == "__main__":
    main()
