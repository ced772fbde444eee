"""How many trials at once this machine, or the cluster, is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lic.machine import usable_cores, usable_memory
from search.engine import cluster
from search.settings.config import Settings

if TYPE_CHECKING:
    from lic.training.trial import TrialConfig

#: Bytes of the host's memory that a worker takes besides what grows with its batches: the peaks of the tiny
#: preset, 1.0 GiB on the CPU and 2.1 on a GPU, with Ray's part of 0.3 (docs/benchmarks.md, Memory).
_WORKER = {"cpu": 1.3 * 2**30, "cuda": 2.4 * 2**30}

#: Bytes on the CPU for every channel and pixel of a batch: of cheng in the paper's geometry, which takes the
#: most, 30.5 were measured (ibid.).
_PER_VALUE = 32

#: Bytes that the driver takes, with Ray's own processes and the report's (docs/results.md: 0.7 GiB of it).
_DRIVER = 1.5 * 2**30


def trial_memory(template: TrialConfig) -> float:
    """Bytes of the host's memory that a trial takes at its peak, estimated."""
    training = template.training
    values = training.batch * training.patch**2 * template.width if template.device == "cpu" else 0
    return _WORKER[template.device] + _PER_VALUE * values + _beyond_adam(template)


def _beyond_adam(template: TrialConfig) -> float:
    """Bytes that the optimiser takes more than Adam: its state, its stand-ins for the weights and their
    gradients. On a GPU they are not the host's."""
    from lic.models.build import parameters_of
    from lic.training.optimizers import state_bytes

    optimizer = template.training.optimizer
    if template.device != "cpu" or optimizer in ("adam", "adamw"):
        return 0
    weights = parameters_of(template.model, template.width, template.latent_width)
    stand_ins = 2 * 4 * sum(weight.numel() for weight in weights)
    return max(0, state_bytes(optimizer, weights) + stand_ins - state_bytes("adam", weights))


def cores(settings: Settings) -> int:
    """CPU cores of the cluster, which must be joined, or those that this process may use here."""
    if settings.address:
        return max(1, int(cluster.resource("CPU")))
    return usable_cores()


def default_workers(settings: Settings, template: TrialConfig, gpus: int, say: Callable[[str], None]) -> int:
    """Trials at once: one for each core or share of a GPU, as long as they fit into this machine's memory,
    which is said if they do not. Of a cluster's memory Ray takes care."""
    most = max(1, gpus * settings.shares) if settings.shares else cores(settings)
    if settings.address:
        return most
    memory, each = usable_memory(), trial_memory(template)
    fitting = max(1, int((memory - _DRIVER) // each))
    if fitting >= most:
        return most
    say(
        f"{'memory':<12} {memory / 2**30:.1f} GiB are enough for {fitting} trials at once, of about "
        f"{each / 2**30:.1f} GiB each; {most} would be possible otherwise (--workers sets it)"
    )
    return fitting
