"""What a search needs of the disk, and what is said of a disk that fails."""

from __future__ import annotations

import dataclasses
import errno
import sqlite3
from pathlib import Path

import pytest

from lic.training.trial import Trial
from search.settings.complaints import ConfigError
from search.settings.config import resolve
from search.settings.plan import plan_of, template_of
from search.store.disk import Need, check_space, free_at, need_of, trouble, watch


def test_a_checkpoint_is_as_large_as_was_said(tmp_path: Path, cache: Path) -> None:
    given = {"preset": "tiny", "width": 16, "start": "scratch", "budget": 10, "rates": "1-3",
             "data": "deadleaves", "test": "deadleaves", "test_images": 2, "val_images": 2, "batch": 2,
             "cache": str(cache), "steps_per_epoch": 1, "patch": 64}  # fmt: skip
    settings = resolve(given, {}, lambda _: 0).settings
    plan, template = plan_of(settings), template_of(settings)
    need = need_of(template, plan, workers=2)
    training = dataclasses.replace(template.training, lmbda=0.01)
    trial = Trial(dataclasses.replace(template, training=training, val_epochs=(), test_epochs=()))
    trial.run_epoch()
    trial.save(tmp_path / "epoch-0001.pt")
    assert (tmp_path / "epoch-0001.pt").stat().st_size == pytest.approx(need.checkpoint, rel=0.1)
    assert need.least == (2 * 2 + 3) * need.checkpoint
    assert need.most == (2 * 2 + 3 + 10 + 3) * need.checkpoint


def test_a_search_that_cannot_fit_is_refused_with_both_figures(tmp_path: Path) -> None:
    free = free_at(tmp_path / "not" / "yet" / "there")
    assert free == pytest.approx(free_at(tmp_path), rel=0.01)
    fits = Need(1 << 20, 10 << 20, 30 << 20, 70 << 20)
    assert check_space(fits, tmp_path, None).startswith("up to 30 MiB of checkpoints, 1 MiB each; ")
    large = Need(free, 4 * free, 9 * free, 2 * free)
    with pytest.raises(
        ConfigError, match=r"has .* free, but .* need .*; free some space, or .* with --storage"
    ):
        check_space(large, tmp_path, str(tmp_path))
    tight = Need(1, 1, 2 * free, free)
    assert "the search stops before the disk is full" in check_space(tight, tmp_path, None)


def test_the_watch_speaks_before_the_disk_is_full(tmp_path: Path) -> None:
    said: list[str] = []
    watch([tmp_path], Need(1, 1, 1, 1), said.append)()
    assert said == []
    watch([tmp_path, tmp_path], Need(1, 1, 1, 2 * free_at(tmp_path)), said.append)()
    assert len(said) == 2 and said[0].startswith(f"the disk of {tmp_path} is almost full")


def test_a_failing_disk_is_told_from_a_fault_of_ours() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/results/x")
    assert trouble(full) == "/results/x cannot be used (No space left on device)"
    wrapped = RuntimeError("An error occurred in a commit")
    wrapped.__cause__ = sqlite3.OperationalError("database or disk is full")
    assert trouble(wrapped) == "cannot write the records (database or disk is full)"
    assert "damaged" in trouble(sqlite3.DatabaseError("database disk image is malformed"))
    assert trouble(ZeroDivisionError("division by zero")) == trouble(OSError("no number")) == ""
