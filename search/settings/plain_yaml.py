"""Restricted YAML for settings files: plain values, unique keys, no aliases."""

from __future__ import annotations

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
