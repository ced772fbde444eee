"""From the settings to the plan and to a trial's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.settings.complaints import ConfigError
from search.settings.config import Settings, resolve
from search.settings.plan import plan_of, template_of


def settled(**given: Any) -> Settings:
    return resolve({"model": "hyperprior", "preset": "tiny", **given}, {}, lambda _: 0).settings


def test_the_rungs_are_those_of_the_plan_and_gone_without_stopping() -> None:
    settings = settled(epochs="27", grace="1", eta="3", fork_at="0")
    assert plan_of(settings).rungs == (1, 3, 9)
    assert plan_of(settled(epochs="27", stopping="no")).rungs == ()
    assert plan_of(settings).epochs == 27 and plan_of(settings).sampler == settings.sampler


@pytest.mark.parametrize("select_on", ["val", "kodak"])
@pytest.mark.parametrize("cadence", ["dense", "sparse"])
def test_images_are_measured_where_something_is_decided_or_reported(select_on: str, cadence: str) -> None:
    settings = settled(
        epochs="9", grace="1", eta="3", fork_at="0", select_on=select_on, cadence=cadence
    )  # fmt: skip
    template, rungs, every = template_of(settings), (1, 3, 9), tuple(range(1, 10))
    deciding, reported = (every, rungs) if cadence == "dense" else (rungs, (9,))
    if select_on == "val":
        assert (template.val_epochs, template.test_epochs) == (deciding, reported)
        assert template.rest_epoch == 7  # round(0.75 x 9)
    else:
        assert (template.val_epochs, template.test_epochs) == ((), deciding)
        assert template.rest_epoch is None


def test_paths_are_absolute_and_words_are_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers run in folders of their own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    images = template_of(settled(data="images", cache="kept", start="scratch")).images
    assert (images.data, images.cache) == (f"{tmp_path}/images", f"{tmp_path}/kept")
    template = template_of(settled(data="deadleaves", test="auto", start="scratch"))
    assert (template.images.data, template.images.test, template.start) == ("deadleaves", "auto", None)
    assert template.device == "cpu" and template.training.lmbda == 0.0


def test_baselines_on_other_seeds_are_taken_from_the_budget() -> None:
    plan = plan_of(settled(budget="30", noise_seeds="2", rates="1,3,6"))
    assert (plan.budget, plan.noise_seeds, plan.noise_baselines) == (24, 2, 6)
    assert plan_of(settled(budget="30")).budget == 30
    assert plan_of(settled(noise_seeds="20")).budget == settled().budget
    with pytest.raises(ConfigError, match="noise_seeds 5 takes 30 of the budget of 30 trials"):
        settled(budget="30", noise_seeds="5")
