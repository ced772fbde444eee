"""The files of the compose stack, read as their programs read them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
PROMETHEUS = ROOT / "dashboards" / "prometheus.yml"
BOARD = ROOT / "dashboards" / "grafana" / "boards" / "lictune.json"

#: Where the commands of the packages that tests run are.
BIN = Path(sys.executable).parent


def services() -> dict[str, dict[str, Any]]:
    """The services of compose.yaml by name, every variable at its default."""
    return yaml.safe_load(_with_defaults((DOCKER / "compose.yaml").read_text()))["services"]


def _with_defaults(text: str) -> str:
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def variables() -> dict[str, str]:
    """The variables that compose.yaml asks for, with their defaults."""
    return dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (DOCKER / "compose.yaml").read_text()))


def option(service: str, name: str) -> str:
    """The value of an option in a service's command."""
    found = [part for part in services()[service]["command"] if part.startswith(f"{name}=")]
    assert len(found) == 1, f"{service} has {len(found)} options {name}"
    return found[0].partition("=")[2]


def queries() -> Iterator[tuple[str, str, str]]:
    """Row, title and query of every panel of the board, all searches chosen."""
    row = ""
    for panel in json.loads(BOARD.read_text())["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        for target in panel.get("targets", ()):
            yield row, panel["title"], target["expr"].replace("$search", ".*")
