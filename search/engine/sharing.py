"""Measures how many trials can share a GPU (`--trials-per-gpu auto`)."""

from __future__ import annotations

import dataclasses
import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lic.machine import usable_memory
from lic.models.architectures import strategies
from lic.training.trial import Trial, TrialConfig
from search.base.space import SearchPoint
from search.engine.cluster import ClusterError, last_line

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

#: Maximum fraction of a GPU's memory for trials, and the minimum relative gain in images per second per added
#: trial.
_MEMORY, _GAIN = 0.9, 0.10

#: Maximum number of trials per GPU.
_MOST = 16

#: Steps between readings of the clock, during which a GPU never waits for the host, and seconds of each
#: measurement.
_STEPS, _SECONDS = {"cuda": 20, "cpu": 5}, 10.0

#: Seconds for a probe to start and warm up: imports, images, selection of CUDA kernels.
_PATIENCE = 900.0


@dataclass(frozen=True)
class Footprint:
    """Memory in bytes: the peak of one trial with its process, and the total."""

    trial: int
    total: int

    @property
    def room(self) -> int:
        """The number of trials that fit in memory."""
        return int(_MEMORY * self.total / self.trial)


@dataclass(frozen=True)
class Sharing:
    """The measurement: total images per second of 1, 2, 3, ... concurrent trials; the number of trials to
    run, and why not more."""

    speeds: tuple[float, ...]
    footprint: Footprint
    trials: int
    why: str

    @property
    def slowdown(self) -> float:
        """Time of a step relative to that of a single trial."""
        return self.trials * self.speeds[0] / self.speeds[self.trials - 1]

    def __str__(self) -> str:
        speeds = ", ".join(f"{count}: {speed:.1f}" for count, speed in enumerate(self.speeds, 1))
        trial, total = self.footprint.trial / 2**30, self.footprint.total / 2**30
        return (
            f"{self.trials} trials per GPU: {self.why} (total images/s by number of trials {speeds}; one "
            f"trial needs {trial:.2f} of {total:.1f} GiB)"
        )


def choose(footprint: Footprint, cores: int, alone: float, speed: Callable[[int], float]) -> Sharing:
    """Choose the number of trials per GPU: add trials as long as they fit in memory, have one of the `cores`
    per GPU, and increase the total images per second by a tenth. `alone` is the value of one trial; `speed`
    measures more and raises ClusterError if they fail."""
    bounds = {
        "memory is full": footprint.room,
        "no CPU core left": cores,
        "maximum reached": _MOST,
    }
    most = max(1, min(bounds.values()))
    speeds = [alone]
    while len(speeds) < most:
        try:
            speeds.append(speed(len(speeds) + 1))
        except ClusterError as error:
            return Sharing(tuple(speeds), footprint, len(speeds), f"another trial fails ({error})")
        if speeds[-1] < (1 + _GAIN) * speeds[-2]:
            why = f"another trial adds less than {100 * _GAIN:.0f} %"
            return Sharing(tuple(speeds), footprint, len(speeds) - 1, why)
    return Sharing(tuple(speeds), footprint, most, min(bounds, key=lambda why: bounds[why]))


class Probe:
    """An actor that runs a trial on its share of the device."""

    def __init__(self, config: TrialConfig) -> None:
        self._trial = Trial(config)

    def warm_up(self) -> Footprint:
        """Train and evaluate; returns the memory used."""
        for _ in range(max(self._trial.config.test_epochs, default=1)):
            self._trial.run_epoch()
        if self._trial.config.device != "cuda":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            return Footprint(peak, usable_memory())
        free, total = torch.cuda.mem_get_info()
        # Memory not reserved by torch: CUDA's context and libraries, and other processes.
        context = total - free - torch.cuda.memory_reserved()
        return Footprint(torch.cuda.max_memory_reserved() + context, total)

    def train(self, seconds: float) -> float:
        """Train for this long; returns images per second."""
        training, steps, started = self._trial.config.training, 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds:
            self._trial.trainer.run_epoch()
            steps += training.steps_per_epoch
        return steps * training.batch / elapsed


def measure_sharing(template: TrialConfig, cores: int, seconds: float = _SECONDS) -> Sharing:
    """Run 1, 2, 3, ... concurrent trials of the middle quality on one GPU of the cluster (or on a CPU, by the
    template) and choose the number. Ray must be connected. Raises ClusterError if a single trial fails."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    # Reserve the whole device, so that all probes share it with nothing else.
    group = placement_group([{"GPU" if template.device == "cuda" else "CPU": 1}])
    try:
        if not group.wait(_PATIENCE):
            raise ClusterError(
                "no free device in the cluster to measure --trials-per-gpu auto; give a number"
            )
        # At the middle quality, with the strategy that takes the most memory.
        point = SearchPoint(3, max(strategies(template.model), key=len), 1e-8)
        short = short_training(template, point, epochs=10**6, steps=_STEPS[template.device])
        footprints, speeds = _run_probes(group, 1, short, seconds)
        short = dataclasses.replace(short, val_epochs=(), test_epochs=())

        def speed(count: int) -> float:
            try:
                return sum(_run_probes(group, count, short, seconds)[1])
            except ray.exceptions.RayError as error:
                raise ClusterError(last_line(error)) from error

        return choose(footprints[0], cores, speeds[0], speed)
    except ray.exceptions.RayError as error:
        raise ClusterError(f"measuring a trial on {template.device} failed: {last_line(error)}") from error
    finally:
        remove_placement_group(group)


def _run_probes(
    group: PlacementGroup, count: int, config: TrialConfig, seconds: float
) -> tuple[list[Footprint], list[float]]:
    """Train this number of trials concurrently on the device of a placement group; returns the memory and the
    images per second of each. Raises RayError."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    share = math.floor(10_000 / count) / 10_000
    kind = {"num_cpus": 0.0, "num_gpus": share} if config.device == "cuda" else {"num_cpus": share}
    here = PlacementGroupSchedulingStrategy(group)
    make = ray.remote(Probe).options(scheduling_strategy=here, **kind)
    probes: list[Any] = [make.remote(config) for _ in range(count)]
    try:
        footprints = ray.get([probe.warm_up.remote() for probe in probes], timeout=_PATIENCE)
        return footprints, ray.get([probe.train.remote(seconds) for probe in probes], timeout=_PATIENCE)
    finally:
        for probe in probes:
            ray.kill(probe)


def short_training(template: TrialConfig, point: SearchPoint, epochs: int, steps: int) -> TrialConfig:
    """A training that is timed: of `epochs` with few steps each, which evaluates the images to select on
    after the second epoch, and those to report on after the third."""
    training = dataclasses.replace(
        template.training, lmbda=point.lmbda, strategy=point.strategy_name, alpha=point.alpha, epochs=epochs,
        steps_per_epoch=steps,
    )  # fmt: skip
    return dataclasses.replace(
        template, training=training, val_epochs=(2,) if template.val_epochs else (), test_epochs=(3,)
    )
