"""Which preset a search takes, and what that says of its model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from configs import PRESETS, preset_parts
from lic.files import shown
from lic.recipe import Optimizer
from search.settings import plain_yaml
from search.settings.complaints import ConfigError, nearest


def choose_preset(preset: str, gpus: Callable[[], int]) -> tuple[str, str]:
    """The preset's name, and why it was chosen where that was left to the program. Raises ConfigError."""
    known = [path.stem for path in sorted(PRESETS.glob("*.yaml"))]
    if preset not in known:
        raise ConfigError(f"there is no preset {shown(preset)}{nearest(preset, known)}")
    if preset != "auto":
        return preset, ""
    kind = "gpu" if gpus() else "cpu"
    why = " (there is a GPU)" if kind == "gpu" else " (there is no GPU)"
    return plain_yaml.read(PRESETS / "auto.yaml")[kind], why


def preset_layers(
    preset: str, model: str, optimizer: Optimizer | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """A preset's own values, then those it keeps for this model, each with what the source is called. Its
    learning rate is left out where another `optimizer` was asked for than its own."""
    values, own = preset_parts(preset, model)
    if optimizer not in (None, (values | own).get("optimizer", "adam")):
        values, own = ({k: v for k, v in part.items() if k != "lr"} for part in (values, own))
    return [(f"preset {preset}", values), (f"preset {preset}, {model}", own)]
