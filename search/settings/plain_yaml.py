"""Restricted YAML for settings files: plain values, unique keys, no aliases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from lic.files import one_line, read_regular
from search.settings.complaints import ConfigError

#: Maximum size of a settings file in bytes; files written by a search have about 3000.
MOST_BYTES = 1 << 16


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        # Nested aliases can expand a small file to billions of values.
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise ComposerError(None, None, "aliases are not supported; write the value out", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in keys:
                raise ConstructorError(None, None, f"'{key.value[:60]}' is given twice", key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep)


def parse(content: bytes | str) -> Any:
    """Parse a YAML document. Raises yaml.YAMLError with a one-line message."""
    if len(content) > MOST_BYTES:
        raise yaml.YAMLError(f"it is larger than {MOST_BYTES} bytes")
    try:
        return _Loader(content.decode() if isinstance(content, bytes) else content).get_single_data()
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:
        raise yaml.YAMLError(one_line(str(error).replace('"<unicode string>", ', ""), 250)) from error
    except Exception as error:  # errors in the constructors of !!int and other tags
        raise yaml.YAMLError("a value does not match its tag (!!)") from error


def read(path: Path) -> dict[str, Any]:
    """Read the settings in a file, without validation. Raises ConfigError."""
    try:
        content = parse(read_regular(path, MOST_BYTES))
    except OSError as error:
        raise ConfigError(f"the settings file {path} cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"the settings file {path} is not valid YAML ({error})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"the settings file {path} must have lines of the form 'setting: value'")
    return content


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
        found = parse(text)
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
