"""What a trial takes of the memory: `python -m tests.bench.memory`.

For every model and preset (tiny, paper) a fresh process builds the model, trains --steps steps with the
preset's batch and patch on a generated picture and with the decorrelation of y+z, and evaluates --images
pictures of Kodak's size with all measures. The table holds, in MiB:

    host_built      the peak of the process (ru_maxrss) once torch and compressai are imported and the model
                    is built: what any trial has
    host_trained    the peak after the training steps
    host_peak       the peak after the evaluation as well
    gpu_trained, gpu_evaluated     the most that torch had allocated on the GPU in each of the two
    gpu_reserved    what torch had taken from the GPU for it; CUDA's own few hundred MiB come on top

and the seconds of a step (the first included: no measure of speed). Not in it: what Ray's processes take, and
the image cache, which all trials of a machine share. On one core of a CPU a step of cheng in the paper's
geometry takes a minute, so there it is one step, whatever --steps says (the optimiser's two moments are then
missing in the peak, 8 bytes a parameter); `--skip cheng-paper` leaves it out, and the table says 'not
measured'. Needs neither ray nor mlflow nor optuna.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from configs import geometry
from lic.data.cache import PackedImages, pack
from lic.data.crops import RandomCrops
from lic.data.deadleaves import dead_leaves
from lic.data.images import ImageError
from lic.evaluation.evaluate import evaluate
from lic.models.acceleration import keep_freed_memory
from lic.recipe import ON_CPU
from lic.training.trainer import Trainer
from tests.bench import machine
from tests.bench.trainings import BEST, config_of, model_of

CASES = tuple(f"{model}-{preset}" for preset in ("tiny", "paper") for model in ("hyperprior", "cheng"))

#: Rows and columns of a Kodak image; 18 of the 24 lie so, and are evaluated at once on a GPU.
KODAK, LANDSCAPE = (512, 768), 18

MIB = 2**20


def pictures(count: int, cache: Path) -> PackedImages:
    """`count` times the same generated picture of Kodak's size, from the cache or made now."""

    def made() -> Iterator[tuple[str, NDArray[np.uint8] | ImageError]]:
        picture = dead_leaves(0, *KODAK)
        for number in range(count):
            yield str(number), picture

    return pack(f"kodak-sized-{count}", made, cache)


def host_peak() -> float:
    """The most memory that this process ever had, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def device_peak(device: str) -> float | None:
    """The most that torch had allocated on the GPU since this was last asked, MiB; None on the CPU."""
    if device == "cpu":
        return None
    peak = torch.cuda.max_memory_allocated() / MIB
    torch.cuda.reset_peak_memory_stats()
    return peak


def measure(case: str, device: str, steps: int, images: PackedImages) -> dict[str, Any]:
    """One case, in this process."""
    model, preset = case.split("-")
    if device == "cpu":  # as a trial there
        torch.set_num_threads(1)
        keep_freed_memory()
    net = model_of(model, preset)
    found: dict[str, Any] = {"host_built": host_peak()}
    training = config_of(model, preset, epochs=1, steps_per_epoch=steps)
    speed = BEST if device != "cpu" else ON_CPU
    crops = RandomCrops(images, training.patch, training.batch, 0, device, speed.resident_images)
    trainer = Trainer(net, training, crops, device, speed)
    started = time.perf_counter()
    trainer.run_epoch()
    found["s_per_step"] = (time.perf_counter() - started) / steps
    found |= {"host_trained": host_peak(), "gpu_trained": device_peak(device)}
    evaluate(trainer.model, images, device)
    found |= {"host_peak": host_peak(), "gpu_evaluated": device_peak(device)}
    if device != "cpu":
        found["gpu_reserved"] = torch.cuda.memory_reserved() / MIB
    return {key: value for key, value in found.items() if value is not None}


def in_a_process(case: str, device: str, steps: int, images: int, cache: Path) -> dict[str, Any]:
    """One case, in a process of its own."""
    if device == "cpu" and case.endswith("-paper"):
        steps = 1
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.memory", "--case", case]
    command += ["--device", device, "--steps", str(steps), "--images", str(images), "--cache", str(cache)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument(
        "--images", type=int,
        help=f"pictures to evaluate (default: 1, on a GPU the {LANDSCAPE} of Kodak's that go at once)",
    )  # fmt: skip
    parser.add_argument("--skip", nargs="+", default=[], choices=CASES, help="cases to leave out")
    parser.add_argument("--out", type=Path, help="CSV file to write")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)  # of the process for one case
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.case, args.device, args.steps, pictures(args.images, args.cache))))
        return
    images, rows = args.images or (1 if args.device == "cpu" else LANDSCAPE), []
    with tempfile.TemporaryDirectory() as temporary:
        pictures(images, Path(temporary))  # here, so that making it is in no case's peak
        for case in CASES:
            model, preset = case.split("-")
            values = geometry(model, preset)
            row = {"model": model, "preset": preset, **{key: values[key] for key in ("batch", "patch")}}
            if case not in args.skip:
                row |= in_a_process(case, args.device, args.steps, images, Path(temporary))
            rows.append(row)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, na_rep="not measured", float_format="{:.1f}".format))
    print(f"{args.device}, {images} pictures of {KODAK[1]}x{KODAK[0]} evaluated")
    print(machine.described("compressai"))
    if args.out:
        table.round(2).to_csv(args.out, index=False, na_rep="not measured")


if __name__ == "__main__":
    main()
