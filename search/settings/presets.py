"""Selects the preset of a search, and reads its values for the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from configs import PRESETS, preset_parts
from lic.files import shown
from lic.recipe import Optimizer
from search.settings import plain_yaml
from search.settings.complaints import ConfigError, nearest


def choose_preset(preset: str, gpus: Callable[[], int]) -> tuple[str, str]:
    """The name of the preset and, for 'auto', why it was chosen. Raises ConfigError."""
    known = [path.stem for path in sorted(PRESETS.glob("*.yaml"))]
    if preset not in known:
        raise ConfigError(f"unknown preset {shown(preset)}{nearest(preset, known)}")
    if preset != "auto":
        return preset, ""
    kind = "gpu" if gpus() else "cpu"
    why = " (GPU found)" if kind == "gpu" else " (no GPU found)"
    return plain_yaml.read(PRESETS / "auto.yaml")[kind], why


def preset_layers(
    preset: str, model: str, optimizer: Optimizer | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """The values of a preset, then those for this model, each with the name of the source. The learning rate
    is dropped if another `optimizer` than the preset's was given."""
    values, own = preset_parts(preset, model)
    if optimizer not in (None, (values | own).get("optimizer", "adam")):
        values, own = ({k: v for k, v in part.items() if k != "lr"} for part in (values, own))
    return [(f"preset {preset}", values), (f"preset {preset}, {model}", own)]
