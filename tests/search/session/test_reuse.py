"""Baselines of another search that are taken over, and those that are not."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lic import atomic_io
from lic.data.cache import PackedImages
from lic.data.sets import ImageSet
from search.base.space import BASELINE, TRIAL
from search.decide.core import Core
from search.records.folder import SearchFolder
from search.session.reuse import reuse_baselines, setup_of
from search.settings.config import resolve
from search.settings.plan import plan_of, template_of
from search.store.storage import sqlite_address
from tests.support.made_up import FINGERPRINT, made_up_search


def with_checkpoints(folder: Path) -> Path:
    place = SearchFolder.read(folder).checkpoints
    for quality in (1, 3):
        with place.saving(f"trials/baseline-q{quality}", 2) as path:
            atomic_io.write(path, f"weights of {folder.name}, quality {quality}")
    return folder


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return with_checkpoints(made_up_search(tmp_path / "other"))


def fresh(folder: Path, setup: str = FINGERPRINT, **settings: str) -> tuple[Core, SearchFolder]:
    """A search beside the other one that has not begun."""
    own = made_up_search(folder, 0, **settings)
    opened = SearchFolder.read(own)
    return Core(sqlite_address(own / "study.db"), own.name, plan_of(opened.settings), setup), opened


@pytest.mark.usefixtures("other")
def test_they_are_taken_with_their_checkpoints_and_not_trained_again(tmp_path: Path) -> None:
    core, own = fresh(tmp_path / "mine")
    assert reuse_baselines(core, own) == {1: "other", 3: "other"}
    with own.checkpoints.newest("trials/baseline-q3").local() as path:
        assert path.read_text() == "weights of other, quality 3"
    candidate = core.suggest()
    assert candidate is not None and candidate.role == TRIAL
    assert reuse_baselines(core, own) == {}  # again changes nothing


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize("what", ["setup", "no setup", "seed", "epochs"])
def test_those_of_another_training_are_not(what: str, tmp_path: Path) -> None:
    setup = {"setup": "f" * 16, "no setup": ""}.get(what, FINGERPRINT)
    settings = {"seed": {"seed": "1"}, "epochs": {"epochs": "3"}}.get(what, {})
    core, own = fresh(tmp_path / "mine", setup, **settings)
    assert reuse_baselines(core, own) == {}
    candidate = core.suggest()
    assert candidate is not None and candidate.role == BASELINE


@pytest.mark.usefixtures("other")
def test_those_of_another_lambda_are_not(tmp_path: Path) -> None:
    """Quality 3 is trained as in the other search, quality 1 is not."""
    core, own = fresh(tmp_path / "mine", lambdas="0.0009,0.0035,0.0067")
    assert reuse_baselines(core, own) == {3: "other"}


def test_one_without_its_checkpoint_is_left(other: Path, tmp_path: Path) -> None:
    shutil.rmtree(other / "trials" / "baseline-q1")
    core, own = fresh(tmp_path / "mine")
    assert reuse_baselines(core, own) == {3: "other"}
    candidate = core.suggest()
    assert candidate is not None and (candidate.role, candidate.quality) == (BASELINE, 1)


def test_the_newest_search_comes_first_and_one_that_cannot_be_read_is_passed_over(
    other: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newer = with_checkpoints(made_up_search(tmp_path / "newer"))
    core, own = fresh(tmp_path / "mine")
    assert reuse_baselines(core, own) == {1: "newer", 3: "newer"}
    shutil.rmtree(own.path)
    (newer / "settings.yaml").write_text("budget: [")
    core, own = fresh(tmp_path / "mine too")
    with caplog.at_level(logging.WARNING):
        found = reuse_baselines(core, own)
    assert found == {1: other.name, 3: other.name}
    assert str(newer) in caplog.text


def test_the_fingerprint_knows_what_figures_depend_on(leaves: PackedImages) -> None:
    given = {"model": "hyperprior", "preset": "tiny", "start": "scratch"}
    template = template_of(resolve(given, {}, lambda _: 0).settings)
    images = (ImageSet("val", leaves, "made up"),)
    plan = plan_of(resolve(given, {}, lambda _: 0).settings)
    same = setup_of(template, images, plan)
    assert len(same) == 16 and setup_of(template, images, replace(plan, qualities=(1, 2))) == same
    point = replace(template.training, lmbda=0.1, alpha=1e-6, strategy="y")
    assert setup_of(replace(template, training=point), images, plan) == same  # told apart by the rate
    others = [
        replace(template, width=template.width + 8),
        replace(template, training=replace(template.training, lr=1.0)),
        replace(template, training=replace(template.training, optimizer="soap")),
        replace(template, training=replace(template.training, distortion="ms-ssim")),
        replace(template, val_epochs=(1,)),
        replace(template, devices=2),
        replace(template, speed=replace(template.speed, precision="bf16")),
    ]
    prints = {setup_of(other, images, plan) for other in others} | {setup_of(template, (), plan)}
    chained = replace(plan, chain=True)  # in which a baseline depends on the qualities above it
    other_lambdas = replace(chained, lambdas=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
    plans = (chained, replace(chained, qualities=(1, 2)), other_lambdas)
    prints |= {setup_of(template, images, p) for p in plans}
    assert len(prints) == 11 and same not in prints
