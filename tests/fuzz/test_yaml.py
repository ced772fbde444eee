"""Two thousand settings files: each gives settings that make sense, or is refused in a sentence."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from configs import PRESETS
from lic.recipe import LAMBDAS
from search.settings.complaints import ConfigError
from search.settings.config import Settings, resolve
from tests.support.mutation import Hang, at_most, mutated

pytestmark = pytest.mark.slow

MUTATED, STRUCTURED = 1200, 800

REAL = b"""\
# What I tried on Tuesday.
model: hyperprior
budget: 12
rates: 1-3
strategies: [y, y+z]
alpha_min: 1.0e-8
stopping: no
epochs: 12
steps_per_epoch: 30
lr: 2e-4
max_hours: 1.5
name: tuesday
workers: 2
"""

#: Values that no setting, or hardly one, can have; as YAML.
NASTY = [
    "[]", "{}", "null", "yes", "no", "''", "' '", "~", ".nan", "-.inf", ".inf", "1e400", "-1", "0",
    "0x" + "f" * 5000, "9" * 400, "9" * 5000, "-" + "9" * 30, "1:1:1:1:1:1", "1_0", "0o7", "2001-99-99",
    "2001-12-14t21:59:43.10-05:00",
    "!!binary aGFsbG8=", "!!binary '***'", "!!int ''", "!!int x", "!!float x", "!!bool x", "!!timestamp x",
    "!!python/object/apply:os.system [true]", "!!set {a, b}", "!!omap [a: 1]", "!!null x", "!unknown 5",
    "[[[[[[1]]]]]]", "[1, [2]]", "{a: {b: 1}}", "{1: 2}", "[" * 400, "{" * 400,
    "[" * 100 + "]" * 100, "'" + "a" * 4000 + "'", '"\\0"', '"a\\0b"', '"\\uD800"', '"\\e[2J"', '"a\\nb"',
    "../../etc", "/", "/dev/zero",
    "~nobody-at-all/x", "/proc/self/mem", "1-99999999999", "1-", "-", "1,,2", "1-6,99", "y," * 1600, "s3://[",
    "s3://a@b/c", "file:///dev/null/x", "gs://", "ray://", "'%s%n'", "&a [*a]", "&a {b: *a}", "*nothing",
    "<<: 5", "\ufeff5", "5 # five", "|\n  several\n  lines", "- -", "? ?", "'unfinished", '"\\x', "@", "`",
    "%", "a: b: c",
]  # fmt: skip


def laughs(levels: int = 9) -> bytes:
    """A small file that unfolds to 10^levels values."""
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join([*lines, f"rates: *a{levels - 1}"]).encode()


def merged_laughs(levels: int = 9) -> bytes:
    """The same by merge keys, which PyYAML unfolds while it reads."""
    lines = ["a0: &a0 {budget: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, levels)]
    return "\n".join([*lines, f"<<: *a{levels - 1}"]).encode()


def structured(seed: int) -> bytes:
    """Settings, some of them nasty."""
    draw = np.random.default_rng(seed)
    keys = [*Settings.model_fields]
    lines = []
    for _ in range(int(draw.choice([1, 1, 1, 2, 3]))):
        key = keys[int(draw.integers(len(keys)))]
        if draw.random() < 0.08:
            key = NASTY[int(draw.integers(len(NASTY)))][:3000]
        lines.append(f"{key}: {NASTY[int(draw.integers(len(NASTY)))]}")
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def assert_sane(settings: Settings) -> None:
    """Every field has a value of its type that a search could be run with."""
    values = settings.model_dump()
    for key, value in values.items():
        if isinstance(value, float):
            assert math.isfinite(value) and 0 <= value <= 1e9, (key, value)
        elif isinstance(value, int) and not isinstance(value, bool):
            assert 0 <= value < 2**32, (key, value)
        elif isinstance(value, str):
            assert value.isprintable() and len(value) <= 3000, (key, value)
    fields = Settings.model_fields.items()
    whole = [key for key, field in fields if field.annotation in (int, int | None)]
    assert len(whole) > 15
    assert not any(isinstance(values[key], bool) for key in whole)
    assert settings.rates and set(settings.rates) <= set(LAMBDAS)
    assert settings.strategies and set(settings.strategies) <= {"y", "z", "y+z"}
    assert settings.alpha_min < settings.alpha_max
    assert 1 <= settings.budget <= 100_000 and 1 <= settings.epochs <= 100_000
    assert settings.name is None or ("/" not in settings.name and settings.name[0] not in "-.")


def outcome(file: Path) -> str:
    """What comes of a settings file: 'settings', or the complaint."""
    with at_most(5):
        try:
            resolved = resolve({}, {}, lambda _: 0, file)
        except ConfigError as error:
            message = str(error)
            assert "\n" not in message and message.isprintable(), message[:600]
            assert 10 < len(message) < 600, message[:900]
            return message
    assert_sane(resolved.settings)
    again = Settings(**yaml.safe_load(resolved.report()))
    assert again.model_dump(mode="json") == resolved.settings.model_dump(mode="json")
    return "settings"


def test_mutated_files_give_settings_or_a_sentence(tmp_path: Path) -> None:
    file, ends = tmp_path / "mine.yaml", Counter[bool]()
    sources = [REAL, *(path.read_bytes() for path in sorted(PRESETS.glob("[pt]*.yaml")))]
    sources[2] = sources[2].partition(b"models:")[0]
    for seed in range(MUTATED):
        file.write_bytes(mutated(sources[seed % len(sources)], seed, sources))
        ends[outcome(file) == "settings"] += 1
    assert min(ends[True], ends[False]) > MUTATED // 20, ends


def test_nasty_values_give_settings_or_a_sentence(tmp_path: Path) -> None:
    file, ends = tmp_path / "mine.yaml", Counter[bool]()
    for seed in range(STRUCTURED):
        file.write_bytes(structured(seed))
        ends[outcome(file) == "settings"] += 1
    assert min(ends[True], ends[False]) > STRUCTURED // 40, ends


@pytest.mark.parametrize("bomb", [laughs(), merged_laughs(), b"[" * 60_000, b"- " * 30_000, b"? " * 30_000])
def test_a_file_that_unfolds_is_refused(tmp_path: Path, bomb: bytes) -> None:
    (tmp_path / "bomb.yaml").write_bytes(bomb)
    assert (
        "aliases are not supported" in (said := outcome(tmp_path / "bomb.yaml"))
        or "nested too deeply" in said
    )


def test_a_setting_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text("budget: 5\nlr: 1e-4\nbudget: 50\n")
    assert "'budget' is given twice" in outcome(tmp_path / "twice.yaml")


def test_what_is_no_file_of_sane_size_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_bytes(b"# nothing\n" * 10_000)
    places = [tmp_path / name for name in ("pipe", "loop", "folder", "large", "none", "a\0b", "a" * 300)]
    for place in [*places, Path("/dev/zero"), Path("/dev/tty")]:
        with at_most(3), pytest.raises(ConfigError, match="cannot be read"):
            resolve({}, {}, lambda _: 0, place)


@pytest.mark.parametrize("key", Settings.model_fields)
def test_no_source_takes_a_nasty_value_for_any_setting(key: str) -> None:
    """The command line and the environment give strings, whatever is in them."""
    texts = ("", " ", "\0", "\udcff", "a\nb", "x" * 5000, "[", "../..", "../" * 2000)
    for value in (*texts, "9" * 5000, "nan", "inf", "-1"):
        for line, environment in (({key: value}, {}), ({}, {f"LICTUNE_{key.upper()}": value})):
            try:
                with at_most(3):
                    assert_sane(resolve(line, environment, lambda _: 0).settings)
            except ConfigError as error:
                assert "\n" not in str(error) and len(str(error)) < 600, str(error)[:900]


@pytest.mark.parametrize(
    "name", ["..", ".", "", "last", "a/b", "/a", "-x", "a\0", "a\n", " a", "a ", "x" * 101, "a\u202eb", "☃"]
)
def test_a_name_that_leaves_its_folder_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        resolve({"name": name}, {}, lambda _: 0)


def test_the_alarm_rings() -> None:
    with pytest.raises(Hang), at_most(0.05):
        while True:
            pass
