"""Settings files as anyone may write them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from search.settings.complaints import ConfigError
from search.settings.plain_yaml import MOST_BYTES, parse, read


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("a: 1\nb: 2\na: 3\n", "'a' is given twice"),
        ("a: &x [1]\nb: *x\n", "aliases"),
        ("[" * 5000, "nested"),
        ("a: !!int many\n", "'many'"),
        ("a: !!timestamp 12\n", "tag"),
        ("a: !!python/object/apply:os.system [true]\n", "python/object"),
        (b"\xff\xfe", ""),
        ("x: " + "1" * MOST_BYTES, str(MOST_BYTES)),
        ("a: [1", ""),
    ],
)
def test_what_is_no_plain_document_is_refused_in_one_short_line(content: bytes | str, why: str) -> None:
    with pytest.raises(yaml.YAMLError) as raised:
        parse(content)
    told = str(raised.value)
    assert why in told and "\n" not in told and len(told) < 300


def test_values_are_plain(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("budget: 8\nlr: 1.0e-4\nstopping: no\nname: équipe\nstrategies: [y, z]\n")
    assert read(file) == {
        "budget": 8, "lr": 1e-4, "stopping": False, "name": "équipe", "strategies": ["y", "z"],
    }  # fmt: skip
    file.write_text("# nothing yet\n")
    assert read(file) == {}


@pytest.mark.parametrize("content", ["- a\n- b\n", "word\n", "a: [\n"])
def test_a_file_that_holds_no_settings_is_named(content: str, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError) as raised:
        read(file)
    assert str(file) in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        read(tmp_path / "missing.yaml")
