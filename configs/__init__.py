"""YAML presets; search.settings reads and checks them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lic.models.architectures import ALIASES
from lic.recipe import learning_rate

PRESETS = Path(__file__).parent / "presets"


def preset_parts(preset: str, model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A preset's own values, and those that it keeps for this model, by whichever of its names; unchecked."""
    values = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text())
    own: dict[str, Any] = {}
    for name, part in values.pop("models", {}).items():
        if ALIASES.get(name, name) == ALIASES.get(model, model):
            own = part
    return values, own


def geometry(model: str, preset: str) -> dict[str, Any]:
    """A preset's values for a model, unchecked: for what runs where the search's own packages are not."""
    values, own = preset_parts(preset, model)
    values |= own
    return {"lr": learning_rate(values.get("optimizer", "adam"), values["start"]), **values}
