"""Settings that are mappings: the arguments and the latents of a model of the user's own."""

from __future__ import annotations

import json
from typing import Any

import yaml

from lic.models.architectures import MODULE_PATH
from search.settings import plain_yaml

#: Maximum length of arguments, as JSON.
_LENGTH = 3000


def mapping(text: str) -> dict[str, Any]:
    """A mapping written on one line: KEY=VALUE,KEY=VALUE, or in braces as JSON or YAML. Values of the former
    that are not JSON are text. Raises ValueError."""
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = _braces(text)
        return dict(found)
    pairs = [part.partition("=") for part in text.split(",")] if text.strip() else []
    if any(not sign for _, sign, _ in pairs) or len({key.strip() for key, _, _ in pairs}) < len(pairs):
        raise ValueError("give KEY=VALUE,KEY=VALUE, each key once, or a mapping in braces")
    return {key.strip(): _value(value.strip()) for key, _, value in pairs}


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
