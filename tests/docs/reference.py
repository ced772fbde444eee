"""What the site's reference takes from the code, as Markdown: commands, settings, presets, gauges."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from configs import PRESETS
from lic.recipe import LEARNING_RATES
from search.__main__ import COMMANDS
from search.settings.config import Settings
from search.settings.presets import preset_layers

ROOT = Path(__file__).resolve().parents[2]

_SIGNS = {Ge: ("ge", ">="), Gt: ("gt", ">"), Le: ("le", "<="), Lt: ("lt", "<")}

_MARK = re.compile(r"^<!-- generated: (.+) -->$", re.MULTILINE)


def filled(page: str) -> str:
    """A page with each `<!-- generated: NAME -->` replaced by what that is. Raises KeyError."""
    return _MARK.sub(lambda mark: PARTS[mark[1]](), page)


def commands() -> str:
    """The `--help` of every command."""
    parts = []
    for name, (module, does) in COMMANDS.items():
        told = subprocess.run(
            [sys.executable, "-m", "search", name, "--help"], cwd=ROOT, env={**os.environ, "COLUMNS": "100"},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        same = f"{module.removesuffix('.__main__')}{f' {name}' if module.endswith('__main__') else ''}"
        begun = f"`lictune {name}`, or `python -m {same}`: {does}."
        parts.append(f"## lictune {name}\n\n{begun}\n\n```text\n{told.rstrip()}\n```")
    return "\n\n".join(parts)


def settings() -> str:
    """Every setting by group, with its default, its range and its meaning."""
    groups: dict[str, list[list[str]]] = {}
    for key, field in Settings.model_fields.items():
        group = typing.cast(dict[str, Any], field.json_schema_extra)["group"]
        meaning, _, told = str(field.description).removesuffix(")").partition(" (default: ")
        default = _default(key, field) or told
        groups.setdefault(group, []).append(
            [f"`{key}`", default, _range(field), meaning if told else str(field.description)]
        )
    return "\n\n".join(
        f"## {group}\n\n{table(['setting', 'default', 'range', 'meaning'], rows)}"
        for group, rows in groups.items()
    )


def _default(key: str, field: FieldInfo) -> str:
    if any(key in values for values in _preset_values().values()):
        return "*preset*"
    if isinstance(field.default, bool):
        return "yes" if field.default else "no"
    if field.default in (None, (), {}):
        return ""
    if isinstance(field.default, tuple):
        return ", ".join(map(str, field.default))
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"


def _range(field: FieldInfo) -> str:
    """The kind of value, with its bounds."""
    kinds, bounds = [], list(field.metadata)
    for part in _parts(field.annotation):
        bounds += getattr(part, "__metadata__", ())
        inner = typing.get_args(part)[0] if hasattr(part, "__metadata__") else part
        if typing.get_origin(inner) is typing.Literal:
            kinds.append(", ".join(f"`{choice}`" for choice in typing.get_args(inner)))
        elif inner is not NoneType:
            names = {bool: "yes or no", int: "integer", float: "number", str: "text"}
            kinds.append("mapping" if typing.get_origin(inner) is dict else names.get(inner, "list"))
    limits = []
    for bound in (single for item in bounds for single in (getattr(item, "metadata", None) or [item])):
        if isinstance(bound, FieldInfo):
            limits += [_limit(part) for part in bound.metadata]
        else:
            limits.append(_limit(bound))
    return " ".join(filter(None, [" or ".join(dict.fromkeys(kinds)), ", ".join(filter(None, limits))]))


def _parts(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) in (UnionType, typing.Union):
        return [deep for part in typing.get_args(annotation) for deep in _parts(part)]
    return [annotation]


def _limit(bound: Any) -> str:
    name, sign = _SIGNS.get(type(bound), ("", ""))
    value = getattr(bound, name, None)
    return "" if value is None else f"{sign} {value}" if isinstance(value, int) else f"{sign} {value:g}"


def presets() -> str:
    """The values that the presets set, for each of the paper's models."""
    columns = _preset_values()
    keys = [key for key in Settings.model_fields if any(key in values for values in columns.values())]
    rows = [[f"`{key}`", *(str(values.get(key, "default")) for values in columns.values())] for key in keys]
    return table(["setting", *(f"{preset}, {model}" for preset, model in columns)], rows)


def _preset_values() -> dict[tuple[str, str], dict[str, Any]]:
    """By preset and model, what the preset sets for it."""
    found = {}
    for path in sorted(PRESETS.glob("*.yaml"), reverse=True):
        for model in ("hyperprior", "cheng") if path.stem != "auto" else ():  # which stands for another
            (_, shared), (_, own) = preset_layers(path.stem, model)
            found[path.stem, model] = {**shared, **own}
    return found


def learning_rates() -> str:
    """The default learning rate of each optimizer."""
    rows = [[f"`{name}`", f"{scratch:g}", f"{given:g}"] for name, (scratch, given) in LEARNING_RATES.items()]
    return table(["optimizer", "learning rate from scratch", "from given weights"], rows)


def gauges() -> str:
    """The gauges for Prometheus."""
    from search.session.metrics import GAUGES

    rows = [[f"`{name}`", ", ".join(tags), what] for name, (what, tags) in GAUGES.items()]
    return table(["gauge", "further tags", "meaning"], rows)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "settings": settings,
    "presets": presets,
    "learning rates": learning_rates,
    "gauges": gauges,
}
