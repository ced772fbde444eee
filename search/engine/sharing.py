"""How many trials share a GPU: what `--trials-per-gpu auto` measures before anything is trained."""

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

#: How much of a GPU's memory trials may take, and what one trial more must add to the images per second.
_MEMORY, _GAIN = 0.9, 0.10

#: Trials that are tried on one GPU at the most.
_MOST = 16

#: Steps between two looks at the clock, during which a GPU never waits for the host, and seconds that every
#: number of trials is timed.
_STEPS, _SECONDS = {"cuda": 20, "cpu": 5}, 10.0

#: Seconds that a probe has to start and to warm up: imports, images, the choice of CUDA's kernels.
_PATIENCE = 900.0


@dataclass(frozen=True)
class Footprint:
    """Bytes of memory: what one trial takes at its peak, with its process, and what there is."""

    trial: int
    total: int

    @property
    def room(self) -> int:
        """How many trials fit."""
        return int(_MEMORY * self.total / self.trial)


@dataclass(frozen=True)
class Sharing:
    """What was measured: images per second of 1, 2, 3, ... trials at once, in sum; how many of them to run,
    and why not more."""

    speeds: tuple[float, ...]
    footprint: Footprint
    trials: int
    why: str

    @property
    def slowdown(self) -> float:
        """How much longer a step takes than alone."""
        return self.trials * self.speeds[0] / self.speeds[self.trials - 1]

    def __str__(self) -> str:
        speeds = ", ".join(f"{count}: {speed:.1f}" for count, speed in enumerate(self.speeds, 1))
        trial, total = self.footprint.trial / 2**30, self.footprint.total / 2**30
        return (
            f"{self.trials} on each GPU: {self.why} (images/s in sum by trials at once {speeds}; a trial "
            f"takes {trial:.2f} of {total:.1f} GiB)"
        )


def choose(footprint: Footprint, cores: int, alone: float, speed: Callable[[int], float]) -> Sharing:
    """The number of trials on one GPU: one more as long as it fits the memory, finds one of the `cores` that
    there are for each GPU, and adds a tenth to the images per second, which are `alone` for one and which
    `speed` measures for more at once, in sum; a ClusterError of it says that so many fail."""
    bounds = {
        "no more fit its memory": footprint.room,
        "there is no core for one more": cores,
        "no more are tried": _MOST,
    }
    most = max(1, min(bounds.values()))
    speeds = [alone]
    while len(speeds) < most:
        try:
            speeds.append(speed(len(speeds) + 1))
        except ClusterError as error:
            return Sharing(tuple(speeds), footprint, len(speeds), f"one more fails ({error})")
        if speeds[-1] < (1 + _GAIN) * speeds[-2]:
            why = f"one more adds less than {100 * _GAIN:.0f} %"
            return Sharing(tuple(speeds), footprint, len(speeds) - 1, why)
    return Sharing(tuple(speeds), footprint, most, min(bounds, key=lambda why: bounds[why]))


class Probe:
    """A trial on its share of the device, as an actor."""

    def __init__(self, config: TrialConfig) -> None:
        self._trial = Trial(config)

    def warm_up(self) -> Footprint:
        """Train and evaluate; the memory that took."""
        for _ in range(max(self._trial.config.test_epochs, default=1)):
            self._trial.run_epoch()
        if self._trial.config.device != "cuda":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            return Footprint(peak, usable_memory())
        free, total = torch.cuda.mem_get_info()
        # What torch has not reserved: CUDA's context and libraries, and whoever else is on this GPU.
        context = total - free - torch.cuda.memory_reserved()
        return Footprint(torch.cuda.max_memory_reserved() + context, total)

    def train(self, seconds: float) -> float:
        """Train for so long; images per second."""
        training, steps, started = self._trial.config.training, 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds:
            self._trial.trainer.run_epoch()
            steps += training.steps_per_epoch
        return steps * training.batch / elapsed


def measure_sharing(template: TrialConfig, cores: int, seconds: float = _SECONDS) -> Sharing:
    """Run 1, 2, 3, ... trials of the middle rate at once on one GPU of the cluster, or on a CPU if the
    template is for one, and choose. Ray must be connected. Raises ClusterError if not even one runs."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    # The whole device is set aside, so that all probes are on the same one and nobody else is.
    group = placement_group([{"GPU" if template.device == "cuda" else "CPU": 1}])
    try:
        if not group.wait(_PATIENCE):
            raise ClusterError("no device of the cluster is free to measure how many trials share it")
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
        raise ClusterError(f"a trial cannot be measured on {template.device}: {last_line(error)}") from error
    finally:
        remove_placement_group(group)


def _run_probes(
    group: PlacementGroup, count: int, config: TrialConfig, seconds: float
) -> tuple[list[Footprint], list[float]]:
    """Train on the device that a placement group holds, so many at once: what each took, and its images per
    second. Raises RayError."""
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
