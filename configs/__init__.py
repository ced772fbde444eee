"""YAML presets; search.config reads and checks them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lic.models.architectures import architecture
from lic.recipe import learning_rate

PRESETS = Path(__file__).parent / "presets"


def geometry(model: str, preset: str) -> dict[str, Any]:
    """A preset's values for a model, unchecked: for what runs where the search's own packages are not."""
    values = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text())
    for name, own in values.pop("models", {}).items():
        if architecture(name) == architecture(model):
            values |= own
    return {"lr": learning_rate(values.get("optimizer", "adam"), values["start"]), **values}
