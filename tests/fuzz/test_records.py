"""Two thousand damaged or forged checkpoints, search folders, zoos and coded files: each is refused by the
error that is documented, or gives what was written."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from lic.data.cache import PackedImages
from lic.data.crops import RandomCrops
from lic.models.build import build
from lic.recipe import LAMBDAS, TrainingConfig
from lic.training.trainer import CheckpointError, Trainer, read_checkpoint
from search.decide.core import Core
from search.records.folder import OpenedSearch, open_search
from search.settings.config import SETTINGS, resolve
from search.settings.plan import plan_of
from search.store.find import STUDY, FolderError, find_folder, is_search
from search.store.provenance import ENVIRONMENT
from search.store.storage import sqlite_address
from tests.fuzz.forging import (
    CHECKPOINTS,
    CODED,
    DATABASES,
    FORGED_CHECKPOINTS,
    FORGED_CODED,
    FORGED_TRIALS,
    FORGED_WEIGHTS,
    MANIFESTS,
    SETTINGS_FILES,
    WRONG,
    replaced,
    said,
    same,
)
from tests.support.mutation import at_most, mutated

pytestmark = pytest.mark.slow

CONFIG = TrainingConfig(
    lmbda=0.0067, alpha=1e-7, strategy="y", batch=2, patch=64, epochs=2, steps_per_epoch=1
)


# Checkpoints


def trainer(leaves: PackedImages, config: TrainingConfig = CONFIG) -> Trainer:
    return Trainer(
        build("hyperprior", 8), config, RandomCrops(leaves, config.patch, config.batch, config.seed)
    )


@pytest.fixture(scope="module")
def checkpoint(leaves: PackedImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint after an epoch."""
    run, path = trainer(leaves), tmp_path_factory.mktemp("checkpoint") / "state.pt"
    run.run_epoch()
    run.save(path)
    return path


def test_mutated_checkpoints_are_refused_or_unchanged(checkpoint: Path, tmp_path: Path) -> None:
    content, sound = checkpoint.read_bytes(), read_checkpoint(checkpoint)
    path, refused = tmp_path / "state.pt", 0
    for seed in range(CHECKPOINTS):
        path.write_bytes(mutated(content, seed, [content, b"junk" * 50, bytes(5000)]))
        with at_most(10):
            try:
                state = read_checkpoint(path)
            except CheckpointError as error:
                refused += 1
                assert path.name in str(error)
                continue
        assert same(state, sound), seed
    assert refused > CHECKPOINTS // 2


def test_forged_checkpoints_change_nothing_but_the_error(
    checkpoint: Path, leaves: PackedImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a checkpoint holds that can be read: no other error, and no step that cannot be."""
    sound, run, ends = read_checkpoint(checkpoint), trainer(leaves), Counter[str]()
    wrong = [*WRONG[:9], "x", {}, [], torch.zeros(3), torch.zeros(0), torch.zeros(2, 2, dtype=torch.int8)]
    for seed in range(FORGED_CHECKPOINTS):
        draw = np.random.default_rng(seed)
        state = replaced(sound, draw)
        if seed % 2:
            key = ("config", "step", "model", "optimiser", "aux_optimiser")[seed // 2 % 5]
            state = {**sound, key: wrong[int(draw.integers(len(wrong)))]}
        if not {"config", "step", "model", "optimiser"} <= state.keys():
            continue  # which read_checkpoint refuses
        monkeypatch.setattr("lic.training.trainer.read_checkpoint", lambda _, state=state: state)
        try:
            run.load(checkpoint)
            ends["loaded"] += 1
        except CheckpointError:
            ends["refused"] += 1
        assert type(run.step) is int and 0 <= run.step <= CONFIG.total_steps
    assert ends["refused"] > FORGED_CHECKPOINTS // 2, ends
    monkeypatch.setattr("lic.training.trainer.read_checkpoint", lambda _: sound)
    run.load(checkpoint)
    assert run.step == 1 and math.isfinite(run.run_epoch()["loss"])


# The folder of a search


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small search, its trials made up: two rates, one baseline each, four trials."""
    folder = tmp_path_factory.mktemp("results") / "mine"
    folder.mkdir()
    settings = {"model": "hyperprior", "rates": "1,3", "budget": "4", "epochs": "2", "stopping": "no"}
    resolved = resolve({**settings, "name": "mine"}, {}, lambda _: 0)
    (folder / SETTINGS).write_text(resolved.report() + "\n")
    (folder / ENVIRONMENT).write_text(json.dumps({"git_commit": "f" * 40, "test_set": "leaves"}, indent=2))
    core = Core(sqlite_address(folder / STUDY), "mine", plan_of(resolved.settings))
    while (candidate := core.suggest()) is not None:
        for epoch in (1, 2):
            names = (
                f"{where}/{what}" for where in ("val", "leaves") for what in ("bpp", "mse", "psnr", "ms_ssim")
            )
            figures = dict.fromkeys(names, 0.5 + candidate.alpha * 1e5 / epoch)
            core.observe(
                candidate.name, epoch, figures, {name: [value] * 2 for name, value in figures.items()}
            )
            core.decide(candidate.name, epoch)
    return folder


def assert_true(found: OpenedSearch) -> None:
    """What is read of a search can be the case: figures are finite, rates exist, names stay in place."""
    for record in found.records.everything():
        assert record.quality in LAMBDAS and math.isfinite(record.alpha) and record.alpha >= 0
        assert "/" not in record.name and not record.name.startswith(".")
        for epoch, figures in record.readings.items():
            assert epoch > 0 and all(math.isfinite(value) for value in figures.values())
    assert all(isinstance(value, str) for value in found.environment.values())
    assert found.settings.rates and 1 <= found.settings.budget <= 100_000


def damaged_folder(search: Path, target: Path, name: str, content: bytes) -> OpenedSearch | None:
    """The search with one of its files replaced, opened; None, if that is refused."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(search, target)
    (target / name).write_bytes(content)
    with at_most(20):
        try:
            found = open_search(str(target), target.parent, with_model=False)
        except FolderError as error:
            said(error)
            return None
    assert_true(found)
    return found


def test_the_search_is_read(search: Path) -> None:
    found = open_search("mine", search.parent)
    assert_true(found)
    assert len(found.records.trials) == 4 and len(found.records.baselines) == 2 and found.model is not None


@pytest.mark.parametrize("name", [SETTINGS, ENVIRONMENT])
def test_damaged_files_of_a_search_are_read_or_refused(search: Path, tmp_path: Path, name: str) -> None:
    content, ends = (search / name).read_bytes(), Counter[bool]()
    for seed in range(SETTINGS_FILES // 2):
        damaged = mutated(content, seed, [content, b"{}", b"[" * 100_000])
        if name == ENVIRONMENT and seed % 2:
            damaged = json.dumps(replaced(json.loads(content), np.random.default_rng(seed))).encode()
        found = damaged_folder(search, tmp_path / "mine", name, damaged)
        ends[found is not None] += 1
    assert min(ends[True], ends[False]) > 2, ends


def test_damaged_databases_are_read_or_refused(search: Path, tmp_path: Path) -> None:
    content, ends = (search / STUDY).read_bytes(), Counter[bool]()
    for seed in range(DATABASES):
        damaged = mutated(content, seed, [content, b"junk" * 50, bytes(5000)])
        ends[damaged_folder(search, tmp_path / "mine", STUDY, damaged) is not None] += 1
    assert min(ends[True], ends[False]) > 5, ends


def test_forged_trials_are_refused(search: Path, tmp_path: Path) -> None:
    """A sound database that holds what no search records."""
    ends = Counter[bool]()
    for seed in range(FORGED_TRIALS):
        shutil.copy(search / STUDY, tmp_path / STUDY)
        draw = np.random.default_rng(seed)
        with sqlite3.connect(tmp_path / STUDY) as database:
            rows = database.execute(
                "SELECT trial_user_attribute_id, value_json FROM trial_user_attributes"
            ).fetchall()
            number, value = rows[int(draw.integers(len(rows)))]
            forged = json.dumps(replaced({"": json.loads(value)}, draw).get("", "x"))
            where = "WHERE trial_user_attribute_id = ?"
            database.execute(f"UPDATE trial_user_attributes SET value_json = ? {where}", (forged, number))
        database.close()
        ends[damaged_folder(search, tmp_path / "mine", STUDY, (tmp_path / STUDY).read_bytes()) is None] += 1
    assert ends[True] > FORGED_TRIALS // 2, ends


def test_an_empty_database_is_not_made_into_one(search: Path, tmp_path: Path) -> None:
    assert damaged_folder(search, tmp_path / "mine", STUDY, b"") is None
    assert (tmp_path / "mine" / STUDY).read_bytes() == b""
    settings = (
        (search / SETTINGS)
        .read_bytes()
        .replace(b"study: null", b"study: 'sqlite:///%s/new.db'" % bytes(tmp_path))
    )
    assert damaged_folder(search, tmp_path / "mine", SETTINGS, settings) is None
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize(
    "name", ["a\0b", "x" * 300, "loop", "pipe", "../" * 1500, "none", "", "é", "~nobody-at-all"]
)
def test_odd_names_of_searches_are_refused(search: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "pipe").write_bytes(b"")
    for results in (tmp_path, tmp_path / "pipe", tmp_path / "loop", Path("a\0b"), search.parent):
        with at_most(5), pytest.raises(FolderError) as caught:
            find_folder(name, results)
        said(caught.value)
    assert not is_search(tmp_path / name)


def test_they_are_two_thousand() -> None:
    folders = SETTINGS_FILES + DATABASES + FORGED_TRIALS
    zoos = MANIFESTS + FORGED_WEIGHTS
    assert CHECKPOINTS + FORGED_CHECKPOINTS + folders + zoos + CODED + FORGED_CODED >= 2000
