"""How long a training step takes, and what each switch gains: `python -m tests.bench.step`.

Every variant trains in a process of its own; they take turns, --rounds of --steps steps each, and a figure
is the median over the rounds. On a GPU (preset paper) the variants are all switches on (lic.recipe.ON_GPU),
each of them off alone, and none on; on a CPU (preset tiny) the same of what a CPU has, memory kept among
it, and bf16. `gain` is what a switch gives: the time without it over the time with all. `floor` is the time
that the step's operations take at --tflops, and `gap` how many floors a step is.

On a GPU `host_waits` counts how often the host waited for the device in an epoch; it should be once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
import warnings
from typing import Any

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from lic.models.acceleration import free_latents_and_entropy_models, keep_freed_memory
from lic.recipe import ON_GPU, Acceleration
from lic.training.trainer import Trainer
from tests.bench import machine
from tests.bench.trainings import (
    DEVICE,
    add_arguments,
    config_of,
    model_of,
    train_images,
    trainer_of,
    turn,
)

#: The default of --tflops: what a current data-centre GPU sustains in bf16, and one core with AVX2 in fp32.
RATE = {"cuda": 300.0, "cpu": 0.1}


@dataclasses.dataclass(frozen=True)
class Variant:
    """How a training is computed; `kept` whether the process keeps the memory that it frees."""

    speed: Acceleration
    kept: bool = True


def variants() -> dict[str, Variant]:
    """By name; the first has everything on, the last nothing."""
    none = Variant(Acceleration(fused_adam=False), kept=False)
    if DEVICE == "cpu":
        return {
            "all": Variant(Acceleration()),
            "without kept memory": Variant(Acceleration(), kept=False),
            "without fused_adam": Variant(Acceleration(fused_adam=False)),
            "bf16 instead of fp32": Variant(Acceleration("bf16")),
            "none": none,
        }
    found = {"all": Variant(ON_GPU)}
    for precision in ("bf16", "fp32"):
        name = f"{precision} instead of {ON_GPU.precision}"
        found[name] = Variant(dataclasses.replace(ON_GPU, precision=precision))
    for switch in ("graph", "channels_last", "compile", "resident_images"):
        off: dict[str, Any] = {switch: False}
        found[f"without {switch}"] = Variant(dataclasses.replace(ON_GPU, **off))
    found["with autotune"] = Variant(dataclasses.replace(ON_GPU, autotune=True))
    # The host decides in the middle of a step without it, so there is no graph then.
    found["without graph and fused_adam"] = Variant(
        dataclasses.replace(ON_GPU, graph=False, fused_adam=False)
    )
    return {**found, "none": none}


class Runner:
    """A variant in its own process, which trains when it is told to."""

    def __init__(self, model: str, name: str, args: argparse.Namespace) -> None:
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "tests.bench.step",
            "--variant",
            name,
            "--models",
            model,
        ]
        command += ["--preset", args.preset, "--steps", str(args.steps)]
        command += ["--data", str(args.data)] if args.data else []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._tell()  # the first choices of kernels, and the compilation: see `ready`

    def _tell(self) -> None:
        assert self.process.stdin is not None
        print("go", file=self.process.stdin, flush=True)

    def _answer(self) -> dict[str, float] | None:
        """What the process measured; None if it has ended, with its reason on stderr."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def ready(self) -> bool:
        """Wait until it has warmed up; whether it could."""
        return self._answer() is not None

    def turn(self) -> dict[str, float]:
        self._tell()
        found = self._answer()
        assert found is not None, "the process of a variant has ended"
        return found

    def end(self) -> None:
        self.process.communicate()


def serve(model: str, name: str, args: argparse.Namespace) -> None:
    """Be the process of one variant: train a little for every line that comes."""
    variant = variants()[name]
    torch.set_num_threads(1)  # as a trial on the CPU has it
    if variant.kept and DEVICE == "cpu":
        keep_freed_memory()
    run = trainer_of(
        model, args.preset, train_images(args.data), variant.speed, epochs=10**6, steps_per_epoch=args.steps
    )
    waits = None
    for _ in sys.stdin:
        if waits is None:
            run.run_epoch()  # the compilation, and what a graph is made of
            waits = host_waits(run)
        started = time.perf_counter()
        run.run_epoch()
        print(
            json.dumps({"ms": 1000 * (time.perf_counter() - started) / args.steps, "waits": waits}),
            flush=True,
        )


def host_waits(run: Trainer) -> int:
    """How often the host waits for the device in an epoch."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if DEVICE == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        run.run_epoch()
        if DEVICE == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    told = [str(warning.message) for warning in caught]
    # The first only says that this mode is a prototype.
    return sum("synchroniz" in message and "prototype" not in message for message in told)


def teraflops(model: str, preset: str) -> float:
    """Operations of a step, forward and backward, without decorrelation and optimiser: 10^12."""
    config = config_of(model, preset)
    net = model_of(model, preset).train()
    free_latents_and_entropy_models(net)
    side = 64  # convolutions cost the same per pixel on any size
    with FlopCounterMode(display=False) as counter:
        output = net(torch.rand(1, 3, side, side))
        (output["x_hat"].sum() + sum(part.sum() for part in output["likelihoods"].values())).backward()
    return counter.get_total_flops() * config.batch * (config.patch / side) ** 2 / 1e12


def measure(model: str, args: argparse.Namespace) -> list[dict[str, object]]:
    """A row for every variant that runs."""
    names = [name for name in variants() if not args.only or name in ("all", *args.only)]
    begun = {name: Runner(model, name, args) for name in names}  # they warm up at once
    runners = {name: runner for name, runner in begun.items() if runner.ready()}
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in runners}
    with turn(args):
        for _ in range(args.rounds):
            for name, runner in runners.items():
                turns[name].append(runner.turn())
    for runner in runners.values():
        runner.end()
    floor = 1000 * teraflops(model, args.preset) / args.tflops
    best = statistics.median(found["ms"] for found in turns["all"])
    rows: list[dict[str, object]] = []
    for name, found in turns.items():
        step = statistics.median(own["ms"] for own in found)
        paired = statistics.median(
            own["ms"] / whole["ms"] for own, whole in zip(found, turns["all"], strict=True)
        )
        rows.append({
            "model": model, "variant": name, "ms_per_step": step,
            "images_per_s": 1000 * config_of(model, args.preset).batch / step, "gain": paired,
            "floor_ms": floor, "gap": step / floor, "host_waits": found[-1]["waits"],
        })  # fmt: skip
    print(f"{model}: {best:.2f} ms a step with everything on", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--steps", type=int, default=40 if DEVICE == "cuda" else 10, help="in a turn")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tflops", type=float, default=RATE[DEVICE], help="sustained, of the floor")
    parser.add_argument("--only", nargs="+", choices=variants(), metavar="VARIANT", help="only these and all")
    parser.add_argument("--variant", choices=variants(), help=argparse.SUPPRESS)  # of the process of one
    args = parser.parse_args()
    if args.variant:
        serve(args.models[0], args.variant, args)
        return
    table = pd.DataFrame([row for model in args.models for row in measure(model, args)])
    print(table.round(3).to_string(index=False))
    print(f"preset {args.preset}, floor at {args.tflops:g} TFLOP/s\n{machine.described('compressai')}")
    if args.out:
        table.round(4).to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
