"""Which settings of the training can be tuned, how their ranges are written, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lic.recipe import TrainingConfig
from search.base.dimensions import Dimension
from search.settings.config import ConfigError, Settings, resolve, resolve_again
from search.settings.plan import plan_of, template_of
from search.settings.tuning import TUNABLE, tuning_text


def settled(given: dict[str, Any], **more: Any) -> Settings:
    return resolve({"preset": "tiny", **given, **more}, {}, lambda _: 0).settings


def dimension(text: str, **given: Any) -> Dimension:
    (found,) = plan_of(settled(given, tune=[text])).dimensions
    return found


def test_all_that_a_training_has_for_itself_can_be_tuned() -> None:
    expected = {"aux_lr", "clip", "decay_at", "decay_to", "ema", "lr", "optimizer", "regularizer", "scale",
                "schedule"}  # fmt: skip
    assert expected <= set(TUNABLE) <= set(TrainingConfig.__dataclass_fields__)


def test_nothing_is_tuned_by_default() -> None:
    plan = plan_of(settled({}))
    assert plan.dimensions == () and plan.strategies


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr=3e-5..1e-3", Dimension("lr", 0.0, 3e-5, 1e-3, log=True)),
        ("lr=3e-5..1e-3:lin", Dimension("lr", 0.0, 3e-5, 1e-3)),
        ("clip=0.5..5", Dimension("clip", 0.0, 0.5, 5.0, log=True)),
        ("decay-at=0..1", Dimension("decay_at", 0.0, 0.0, 1.0)),
        ("decay_at=0.1..1:log", Dimension("decay_at", 0.0, 0.1, 1.0, log=True)),
        ("optimizer=adam,soap", Dimension("optimizer", 0.0, choices=("adam", "soap"))),
        ("ema=0,0.999", Dimension("ema", 0.0, choices=(0.0, 0.999))),
        ("regularizer=covariance, off-diagonal", Dimension("regularizer", 0.0,
                                                           choices=("covariance", "off-diagonal"))),
    ],
)  # fmt: skip
def test_a_range_or_choices(text: str, expected: Dimension) -> None:
    found = dimension(text)
    default = getattr(settled({}), found.name)
    assert found.default == default
    assert vars(found) == {**vars(expected), "default": default}


def test_from_yaml_python_and_environment(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("preset: tiny\ntune:\n  lr: 1e-4..1e-3\n  ema: [0, 0.999]\nfix: {alpha: 0}\n")
    from_file = resolve({}, {}, lambda _: 0, file).settings
    variables = {"LICTUNE_TUNE": "lr=1e-4..1e-3 ema=0,0.999", "LICTUNE_FIX": "alpha=0"}
    from_environment = resolve({"preset": "tiny"}, variables, lambda _: 0).settings
    lines = settled({}, tune=["lr=1e-4..1e-3", "ema=0,0.999"], fix=["alpha=0"])
    assert plan_of(from_file) == plan_of(from_environment) == plan_of(lines)
    assert plan_of(lines).strategies == ()


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"tune": ["lrr=1..2"]}, "did you mean 'lr'"),
        ({"tune": ["batch=8,16"]}, "the time and the images of a step"),
        ({"tune": ["width=64,128"]}, "models of other sizes"),
        ({"tune": ["epochs=3..9"]}, "same number of epochs"),
        ({"tune": ["alpha=0.1..1"]}, "searched anyway"),
        ({"tune": ["workers=1,2"]}, "no setting of how a trial is trained"),
        ({"tune": ["lr=1e-3..2"]}, "nearest valid value is 1"),
        ({"tune": ["lr=1e-3..1e-4"]}, "the range is empty"),
        ({"tune": ["lr=1e-3..1e-3"]}, "the range is empty"),
        ({"tune": ["lr=0..1e-3"]}, "it must be greater than 0"),
        ({"tune": ["lr=a..b"]}, "valid number"),
        ({"tune": ["lr=nan..1"]}, "finite number"),
        ({"tune": ["lr=1e-4..1e-3:cos"]}, "write :log, :lin or nothing"),
        ({"tune": ["ema=0..0.9:log"]}, "log scale needs a lower end above 0"),
        ({"tune": ["ema=0.999"]}, "set it with --ema"),
        ({"tune": ["ema=0.9,0.9"]}, "nothing to choose from"),
        ({"tune": ["optimizer=adam,sop"]}, "did you mean 'soap'"),
        ({"tune": ["optimizer=adam..soap"]}, "is no number"),
        ({"tune": ["lr"]}, "write NAME=VALUE"),
        ({"tune": ["lr=1e-4..1e-3", "lr=1e-4..1e-2"]}, "lr is given twice"),
        ({"tune": 3}, "tune 3"),
        ({"tune": ["lr=1e-4..1e-3"], "sampler": "grid"}, "no place for --tune"),
        ({"tune": ["decay_at=0..1"], "schedule": "cosine"}, "no effect with --schedule cosine"),
        ({"tune": ["optimizer=adam,soap"], "fork_at": "0.5"}, "omit --fork-at"),
        ({"fix": ["alpha=0"]}, "leaves nothing to search"),
        ({"fix": ["alpha=1e-6"], "tune": ["lr=1e-4..1e-3"]}, "only alpha=0"),
        ({"fix": ["lr=0"], "tune": ["lr=1e-4..1e-3"]}, "only alpha=0"),
        ({"fix": ["alpha=0"], "tune": ["scale=paper,reference"]}, "belongs to the regularisation term"),
        ({"fix": ["alpha=0"], "tune": ["optimizer=adam,soap"], "budget": "7"}, "use --budget 6"),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_one_sentence(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settled({"preset": "tiny"}, **given)
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


def test_allowed_although_they_look_contradictory() -> None:
    settled({}, tune=["decay_at=0..1", "schedule=constant-cosine,cosine"], schedule="cosine")
    settled({}, tune=["lr=1e-4..1e-3", "clip=0.5..5"], fork_at="0.5")
    settled({}, tune=["optimizer=adam,soap"], fix=["alpha=0"], budget="6")


def test_what_lr_means_when_the_optimizer_is_tuned_is_said() -> None:
    alone, both = (
        tuning_text(plan_of(settled({}, tune=tune)).dimensions)
        for tune in (["optimizer=adam,soap"], ["optimizer=adam,soap", "lr=1e-4..1e-3"])
    )
    assert "each optimizer with its own lr" in alone and "lr is that of every optimizer" in both


def test_settings_of_the_term_have_no_effect_without_it() -> None:
    given = {"preset": "tiny", "tune": ["lr=1e-4..1e-3"], "fix": ["alpha=0"], "alpha_max": "1e-6"}
    assert resolve(given, {}, lambda _: 0).ignored == ("alpha_max has no effect with --fix alpha=0",)


def test_the_search_keeps_them_and_they_cannot_change(tmp_path: Path) -> None:
    given = {"preset": "tiny", "tune": ["lr=3e-5..1e-3", "ema=0,0.999"], "results": str(tmp_path)}
    began = resolve(given, {}, lambda _: 0)
    (tmp_path / "settings.yaml").write_text(began.report())
    assert yaml.safe_load(began.report())["tune"] == {"lr": "3e-5..1e-3", "ema": "0,0.999"}
    again = resolve_again({}, tmp_path, lambda _: 0)
    assert plan_of(again.settings) == plan_of(began.settings)
    with pytest.raises(ConfigError, match=r"tune .* cannot change on resume"):
        resolve_again({"tune": ["lr=3e-5..1e-2"]}, tmp_path, lambda _: 0)


def test_baselines_train_as_without_tuning() -> None:
    assert template_of(settled({}, tune=["lr=3e-5..1e-3"])) == template_of(settled({}))
