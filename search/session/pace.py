"""The pace of a training run, and what was measured of it on GPUs by name, for a plan made elsewhere
(`python -m search.run --plan H200`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lic.files import shown
from lic.models.architectures import ALIASES, architecture
from lic.recipe import ON_GPU
from search.settings.complaints import ConfigError

if TYPE_CHECKING:
    from lic.training.trial import TrialConfig


@dataclass(frozen=True)
class Pace:
    """Measured seconds of a single training run: per step, and per evaluation of each image set."""

    step: float
    val: float
    test: float


@dataclass(frozen=True)
class _Measured:
    """Milliseconds of a step, by model, precision and optimizer; seconds of evaluating 64 crops of 256x256
    and the 24 Kodak images, by model."""

    steps: Mapping[tuple[str, str, str], float]
    evaluation: Mapping[str, tuple[float, float]]


#: The geometry of all measurements: channels, latent channels, images in a batch, pixels of a side.
_GEOMETRY = (128, 128, 16, 256)

#: docs/bench/gpu: step.csv (`all` and `bf16 instead of tf32`), optimizers.csv (4,000 steps that decay from
#: 0.3 on), evaluation.csv.
GPUS = {
    "H200": _Measured(
        {
            ("hyperprior", "tf32", "adam"): 7.5401,
            ("hyperprior", "bf16", "adam"): 4.4392,
            ("hyperprior", "bf16", "muon"): 6.15108,
            ("hyperprior", "bf16", "soap"): 9.92324,
            ("cheng", "tf32", "adam"): 18.4096,
            ("cheng", "bf16", "adam"): 9.8518,
            ("cheng", "bf16", "muon"): 12.4718,
        },
        {"hyperprior": (0.04777, 0.13173), "cheng": (0.17854, 0.41624)},
    )
}

#: Steps that were measured in an earlier version.
_EARLIER = {"soap": " with bases refreshed in fp32 (as it is now, in fp64: not measured)"}


def check_gpu(name: str) -> None:
    """Raises ConfigError if nothing was measured on a GPU of this name."""
    if name not in GPUS:
        raise ConfigError(
            f"plan {shown(name)}: no step was measured on such a GPU, only on {', '.join(GPUS)}; give --plan "
            "alone to measure on this machine"
        )


def pace_on(name: str, template: TrialConfig) -> tuple[Pace, str]:
    """The pace of a single training run on a GPU of the table, and how its step was found. Raises ConfigError
    if nothing like it was measured."""
    measured, training = GPUS[name], template.training
    model = next((alias for alias, name in ALIASES.items() if name == architecture(template.model)), "")
    latent = template.latent_width or template.width
    geometry = (template.width, latent, training.batch // training.accumulate, training.patch)
    usual = dataclasses.replace(ON_GPU, precision=template.speed.precision) == template.speed
    step, how = _step(measured, model, template.speed.precision, training.optimizer)
    if step is None or geometry != _GEOMETRY or not usual:
        raise ConfigError(
            f"plan {name}: nothing like this training was measured there, only hyperprior and cheng with 128 "
            "channels and 16 patches of 256x256, by Adam, Muon or SOAP (cheng: not SOAP), in tf32 or bf16 "
            "and with the defaults of the other settings of speed; give --plan alone on such a machine"
        )
    return Pace(step / 1000, *measured.evaluation[model]), how


def _step(measured: _Measured, model: str, precision: str, optimizer: str) -> tuple[float | None, str]:
    """Milliseconds of a step, None if unknown, and how they were found."""
    earlier = _EARLIER.get(optimizer, "")
    if found := measured.steps.get((model, precision, optimizer)):
        return found, f"measured{earlier}"
    parts = ((model, precision, "adam"), (model, "bf16", optimizer), (model, "bf16", "adam"))
    if any(part not in measured.steps for part in parts):
        return None, ""
    plain, with_it, without = (measured.steps[part] for part in parts)
    return plain + with_it - without, (
        f"interpolated: {plain:.1f} ms of Adam in {precision} and the {with_it - without:.1f} ms that "
        f"{optimizer} adds in bf16{earlier}"
    )
