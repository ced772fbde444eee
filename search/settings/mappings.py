"""Settings that are mappings: tuned and fixed ones, arguments and latents of a model of the user's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml

from lic.models.architectures import MODULE_PATH
from search.settings import plain_yaml

#: Maximum length of arguments, as JSON.
_LENGTH = 3000


def pairs(value: Any) -> Any:
    """NAME=TEXT, of which there may be several in a list or separated by spaces or semicolons, as a mapping;
    lists in a mapping with commas. Raises ValueError."""
    if isinstance(value, str):
        value = value.replace(";", " ").split()
    if isinstance(value, list | tuple):
        value = {name.replace("-", "_"): text for name, text in _named([str(part) for part in value]).items()}
    if not isinstance(value, dict):
        return value
    listed = {
        str(key): ",".join(map(str, item)) if isinstance(item, list | tuple) else str(item)
        for key, item in value.items()
    }
    if not all(text.isprintable() and len(text) <= 300 for pair in listed.items() for text in pair):
        raise ValueError("names and values must be of at most 300 printable characters")
    return listed


def mapping(text: str) -> dict[str, Any]:
    """A mapping written on one line: NAME=VALUE,NAME=VALUE, or in braces as JSON or YAML. Values of the first
    kind that are not JSON are text. Raises ValueError."""
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = _braces(text)
        return dict(found)
    try:
        named = _named(text.split(",") if text.strip() else [])
    except ValueError as error:
        raise ValueError(f"{error}; separate them by commas, or give a mapping in braces") from None
    return {name: _value(value) for name, value in named.items()}


def _named(parts: Sequence[str]) -> dict[str, str]:
    """Parts like NAME=TEXT as a mapping, in their order. Raises ValueError."""
    found: dict[str, str] = {}
    for part in parts:
        name, _, text = (piece.strip() for piece in part.partition("="))
        if not (name and text):
            raise ValueError(f"write NAME=VALUE; {part.strip()[:50]!r} has no name or no value")
        if name in found:
            raise ValueError(f"{name[:50]} is given twice")
        found[name] = text
    return found


def _braces(text: str) -> dict[str, Any]:
    try:
        found = plain_yaml.parse(text)
    except yaml.YAMLError as error:
        raise ValueError(f"it is neither JSON nor YAML ({error})") from error
    if not isinstance(found, dict):
        raise ValueError("it is not a mapping")
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def check_arguments(value: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a model. Raises ValueError unless they are names and plain values."""
    try:
        written = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        written = ""
    if not all(key.isidentifier() for key in value) or not 0 < len(written) <= _LENGTH:
        raise ValueError("give names and plain values, such as N=96,M=128")
    return value


def check_latents(value: dict[str, str]) -> dict[str, str]:
    """The paths of modules by latent. Raises ValueError unless y is one of them and no other than z."""
    known = all(MODULE_PATH.fullmatch(path) for path in value.values())
    if value and (not known or {"y"} != value.keys() - {"z"}):
        raise ValueError("give y=MODULE or y=MODULE,z=MODULE, with the paths of modules in the model")
    return value
