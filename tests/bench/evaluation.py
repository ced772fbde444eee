"""How long Kodak takes to be measured: `python -m tests.bench.evaluation --kodak ../shared/data/kodak`.

bpp (entropy estimate), PSNR and MS-SSIM of all images, by this package (lic.evaluation.evaluate, images from
the packed cache, memory kept as in a trial) and by `compressai.utils.eval_model` with --entropy-estimation
(its own code in a process of its own, whose imports do not count; it reads the files), same model, same
device, one thread each on a CPU. Seconds are of processor time on a CPU, which other work disturbs less. The
sides take turns, --rounds times; the medians, their ratio, and how far the figures of the two lie apart.

`share` is what measuring takes of a full training at the preset's cadence, in percent: the step is timed in
the same run, and the validation images as well.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from configs import geometry
from lic.data.cache import PackedImages, default_cache, pack_files
from lic.data.folders import find_images
from lic.data.sets import training_and_validation
from lic.evaluation.evaluate import aggregate, evaluate
from lic.models.acceleration import keep_freed_memory
from tests.bench.trainings import BEST, DEVICE, add_arguments, finish, model_of, show, trainer_of, turn


def timed(work: Any, *arguments: Any, **options: Any) -> tuple[float, Any]:
    clock = time.process_time if DEVICE == "cpu" else time.perf_counter
    finish()
    started = clock()
    result = work(*arguments, **options)
    finish()
    return clock() - started, result


def rungs(values: dict[str, Any]) -> int:
    """How many rungs a preset has, the end not among them."""
    level, count = values["grace"], 0
    while level < values["epochs"]:
        level, count = level * values["eta"], count + 1
    return count


def measured(values: dict[str, Any]) -> tuple[int, int]:
    """How often a full training is measured on the validation images, and on the reported ones."""
    if values.get("cadence", "dense") == "sparse":
        return rungs(values) + 1, 1
    return values["epochs"], rungs(values) + 1


def theirs(model: str, preset: str, files: list[Path], pipe: Connection) -> None:
    """Be the process of CompressAI's side: evaluate for every message; the seconds and the figures."""
    from compressai.utils.eval_model.__main__ import eval_model

    torch.set_num_threads(1)
    net = model_of(model, preset).to(DEVICE).eval()
    options = {"architecture": model, "per_image": False, "entropy_estimation": True}
    while pipe.recv():
        seconds, figures = timed(eval_model, net, Path(), Path(), files, **options)
        pipe.send((seconds, dict(figures)))


def measure(model: str, kodak: PackedImages, files: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    values = geometry(model, args.preset)
    train, val = training_and_validation(args.data and str(args.data), values["val_images"], default_cache())
    run = trainer_of(model, args.preset, train.images, BEST,
                     epochs=10**6, steps_per_epoch=args.steps)  # fmt: skip
    net = model_of(model, args.preset).to(DEVICE)
    context = multiprocessing.get_context("spawn")
    pipe, there = context.Pipe()
    process = context.Process(target=theirs, args=(model, args.preset, files, there))
    process.start()
    turns, figures, other = [], pd.DataFrame(), {}
    run.run_epoch()  # the compilation
    pipe.send(True)
    pipe.recv()
    with turn(args):
        for _ in range(args.rounds):
            step = timed(run.run_epoch)[0] / args.steps
            on_val = timed(evaluate, net, val.images, DEVICE, values["val_crop"], False)[0]
            ours, figures = timed(evaluate, net, kodak, DEVICE)
            pipe.send(True)
            seconds, other = pipe.recv()
            turns.append((step, on_val, ours, seconds, seconds / ours))
    pipe.send(False)
    process.join()
    step, on_val, on_kodak, theirs_s, ratio = (statistics.median(part) for part in zip(*turns, strict=True))
    often_val, often_test = measured(values)
    spent = often_val * on_val + often_test * on_kodak * args.of / len(files)
    training, found = step * values["steps_per_epoch"] * values["epochs"], aggregate(figures)
    return {
        "model": model, "width": values["width"], "images": len(files), "lictune_s": on_kodak,
        "CompressAI_s": theirs_s, "ratio": ratio,
        "bpp_apart": abs(found.bpp - other["bpp"]), "psnr_apart": abs(found.psnr - other["psnr-rgb"]),
        "ms_ssim_apart": abs(found.ms_ssim - other["ms-ssim-rgb"]),
        "step_ms": 1000 * step, "val_s": on_val, "share_%": 100 * spent / (spent + training),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument(
        "--kodak", type=Path, default=Path("../shared/data/kodak"), help="folder of the Kodak images"
    )
    parser.add_argument("--images", type=int, default=24, help="only so many of them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="that are timed in a round")
    args = parser.parse_args()
    torch.set_num_threads(1)  # as a trial on the CPU has it
    if DEVICE == "cpu":
        keep_freed_memory()
    files = find_images(args.kodak)
    args.of, files = len(files), files[: args.images]
    kodak = pack_files(files, args.kodak, default_cache())
    table = pd.DataFrame([measure(model, kodak, files, args) for model in args.models])
    show(table, args)


if __name__ == "__main__":
    main()
