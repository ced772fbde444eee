"""Which preset a search takes, and what it says of a model."""

from __future__ import annotations

import pytest

from configs import PRESETS
from lic.models.architectures import ALIASES
from lic.recipe import Optimizer
from search.settings import plain_yaml
from search.settings.complaints import ConfigError
from search.settings.presets import choose_preset, preset_layers


def no_one_asks() -> int:
    raise AssertionError("the preset was given")


@pytest.mark.parametrize("gpus", [0, 2])
def test_auto_is_one_preset_with_a_gpu_and_another_without(gpus: int) -> None:
    name, why = choose_preset("auto", lambda: gpus)
    assert (PRESETS / f"{name}.yaml").is_file() and name != "auto"
    assert name == plain_yaml.read(PRESETS / "auto.yaml")["gpu" if gpus else "cpu"]
    assert ("no GPU" in why) == (not gpus)
    assert choose_preset("auto", lambda: 0)[0] != choose_preset("auto", lambda: 1)[0]


def test_a_preset_that_is_named_is_taken_whatever_the_machine_has() -> None:
    assert choose_preset("tiny", no_one_asks) == ("tiny", "")


def test_another_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"tinny.*'tiny'"):
        choose_preset("tinny", no_one_asks)
    with pytest.raises(ConfigError):
        choose_preset("../presets/tiny", no_one_asks)


def test_what_it_says_of_a_model_comes_after_what_it_says_of_all() -> None:
    alias, name = next((alias, name) for alias, name in ALIASES.items() if "cheng" in alias)
    (first, everywhere), (second, own) = preset_layers("tiny", alias)
    assert first == "preset tiny" and second.startswith("preset tiny, ")
    assert "models" not in everywhere and "models" not in own
    assert preset_layers("tiny", name)[1][1] == own  # an alias is the same model
    assert own != preset_layers("tiny", "hyperprior")[1][1]
    assert preset_layers("tiny", "no-such-model")[1][1] == {}


@pytest.mark.parametrize(
    "preset", sorted(path.stem for path in PRESETS.glob("*.yaml") if path.stem != "auto")
)
def test_its_learning_rate_is_for_its_own_optimizer_alone(preset: str) -> None:
    as_written = preset_layers(preset, "hyperprior")
    own: Optimizer = next(
        (part["optimizer"] for _, part in reversed(as_written) if "optimizer" in part), "adam"
    )
    assert preset_layers(preset, "hyperprior", own) == as_written
    other: Optimizer = "muon" if own == "adam" else "adam"
    for (source, left), (_, written) in zip(
        preset_layers(preset, "hyperprior", other), as_written, strict=True
    ):
        assert left == {key: value for key, value in written.items() if key != "lr"}, source
