"""The number of concurrent trials that this machine, or the cluster, has room for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lic.machine import usable_cores, usable_memory
from search.engine import cluster
from search.settings.config import Settings

if TYPE_CHECKING:
    from lic.training.trial import TrialConfig

#: Host memory of a worker in bytes, without the part that grows with the batch: peaks of the tiny preset,
#: 1.0 GiB on the CPU and 2.1 GiB on a GPU, plus 0.3 GiB for Ray (docs/benchmarks.md, Memory).
_WORKER = {"cpu": 1.3 * 2**30, "cuda": 2.4 * 2**30}

#: Bytes on the CPU per channel and pixel of a batch: 30.5 measured for cheng in the paper's geometry, the
#: largest model (ibid.).
_PER_VALUE = 32

#: Memory of the driver, Ray's processes and the report in bytes (docs/results-archive.md: 0.7 GiB of it).
_DRIVER = 1.5 * 2**30


def trial_memory(template: TrialConfig) -> float:
    """Estimated peak host memory of a trial in bytes."""
    training = template.training
    batch = training.batch // training.accumulate
    values = batch * training.patch**2 * template.width if template.device == "cpu" else 0
    workers = template.devices * _WORKER[template.device]
    return workers + _PER_VALUE * values + _beyond_adam(template) + _average(template)


def _average(template: TrialConfig) -> float:
    """Additional host memory of the average of the weights, in bytes; 0 on a GPU."""
    from lic.models.build import parameters_of

    if template.device != "cpu" or not template.training.ema:
        return 0
    weights = parameters_of(template.model, template.width, template.latent_width)
    return 4 * sum(weight.numel() for weight in weights)


def _beyond_adam(template: TrialConfig) -> float:
    """Additional host memory of the optimizer compared with Adam, in bytes: its state, proxy tensors and
    their gradients. 0 on a GPU."""
    from lic.models.build import parameters_of
    from lic.training.optimizers import state_bytes

    optimizer = template.training.optimizer
    if template.device != "cpu" or optimizer in ("adam", "adamw"):
        return 0
    weights = parameters_of(template.model, template.width, template.latent_width)
    stand_ins = 2 * 4 * sum(weight.numel() for weight in weights)
    return max(0, state_bytes(optimizer, weights) + stand_ins - state_bytes("adam", weights))


def cores(settings: Settings) -> int:
    """CPU cores of the cluster, which must be connected, or those that this process may use."""
    if settings.address:
        return max(1, int(cluster.resource("CPU")))
    return usable_cores()


def default_workers(settings: Settings, template: TrialConfig, gpus: int, say: Callable[[str], None]) -> int:
    """Number of concurrent trials: one per core or per share (or number) of GPUs, limited by this machine's
    memory (with a message). On a cluster, Ray manages memory."""
    most = max(1, gpus * settings.shares // settings.gpus_per_trial) if settings.shares else cores(settings)
    if settings.address:
        return most
    memory, each = usable_memory(), trial_memory(template)
    fitting = max(1, int((memory - _DRIVER) // each))
    if fitting >= most:
        return most
    say(
        f"{'memory':<12} {memory / 2**30:.1f} GiB limit the search to {fitting} concurrent trials of about "
        f"{each / 2**30:.1f} GiB each instead of {most} (--workers overrides this)"
    )
    return fitting
