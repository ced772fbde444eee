"""How many trials share a GPU: `python -m tests.bench.packing`.

Images per second of 1, 2, 3, ... trainings at once on one device, in sum, each in a process of its own with
an equal part of the memory; and what `--trials-per-gpu auto` would pick, by the search's own rule
(search.sharing), for so many CPU cores as this machine has. On a CPU it runs, but says little.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from multiprocessing.connection import Connection

import pandas as pd
import torch

from configs import geometry
from lic.data.cache import default_cache
from lic.trial import ImagesConfig, TrialConfig
from search.sharing import Footprint, Probe, choose
from tests.bench.trainings import BEST, DEVICE, add_arguments, config_of, show


def probe(config: TrialConfig, share: float, pipe: Connection) -> None:
    """Be one of the trainings: what it takes, then its images per second over the seconds that come."""
    if config.device == "cuda":
        torch.cuda.set_per_process_memory_fraction(share)
    run = Probe(config)
    pipe.send(run.warm_up())
    pipe.send(run.train(pipe.recv()))


def together(count: int, config: TrialConfig, seconds: float) -> tuple[Footprint, float]:
    """The largest footprint of so many trainings at once, and their images per second in sum."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(count)]
    processes = [context.Process(target=probe, args=(config, 1 / count, there)) for _, there in pipes]
    for process in processes:
        process.start()
    footprints = [here.recv() for here, _ in pipes]
    for here, _ in pipes:
        here.send(seconds)
    speeds = [here.recv() for here, _ in pipes]
    for process in processes:
        process.join()
    return max(footprints, key=lambda footprint: footprint.trial), sum(speeds)


def measure(model: str, args: argparse.Namespace) -> list[dict[str, object]]:
    values = geometry(model, args.preset)
    config = TrialConfig(
        model, values["width"], values.get("latent_width"), None,
        config_of(model, args.preset, epochs=10**6, steps_per_epoch=5),
        ImagesConfig(args.data and str(args.data), None, "deadleaves", 4, 8, 256, str(default_cache())),
        (), (), DEVICE, BEST,
    )  # fmt: skip
    found = [together(count, config, args.seconds) for count in range(1, args.most + 1)]
    speeds = [speed for _, speed in found]

    def speed(count: int) -> float:
        return speeds[count - 1] if count <= len(speeds) else 0.0

    sharing = choose(found[0][0], len(os.sched_getaffinity(0)), speeds[0], speed)
    print(f"{model}: --trials-per-gpu auto picks {sharing}", flush=True)
    return [
        {"model": model, "trials": count, "images_per_s": speed, "over_one": speed / speeds[0],
         "trial_gib": footprint.trial / 2**30}
        for count, (footprint, speed) in enumerate(found, 1)
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--most", type=int, default=4, help="trainings at once")
    parser.add_argument("--seconds", type=float, default=10, help="that every number is timed")
    args = parser.parse_args()
    table = pd.DataFrame([row for model in args.models for row in measure(model, args)])
    show(table, args)


if __name__ == "__main__":
    main()
