"""YAML presets; search.config reads and checks them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

PRESETS = Path(__file__).parent / "presets"


def geometry(preset: str, model: str) -> dict[str, Any]:
    """A preset's values for a model, unchecked: for what runs where the search's own packages are not."""
    values = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text())
    return {**values, **values.get("models", {}).get(model, {})}
