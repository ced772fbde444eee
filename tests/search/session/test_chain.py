"""A real search whose qualities start from one another (`--chain`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from search.base.space import CONFIRMATION
from search.records.folder import open_search
from search.settings.plan import template_of
from search.store.find import TRIALS_FOLDER
from tests.conftest import assert_as_trained_alone, run_search


@pytest.mark.smoke
def test_every_training_starts_from_the_baseline_of_the_next_higher_quality(tmp_path: Path) -> None:
    """Of its own seed: to the last bit what it is when trained alone from those weights."""
    done = run_search(
        tmp_path, "chained", "--model", "hyperprior", "--preset", "tiny", "--width", "8",
        "--start", "scratch", "--epochs", "2", "--steps-per-epoch", "3", "--data", "deadleaves",
        "--test", "deadleaves",
        "--test-images", "2", "--val-images", "2", "--workers", "2", "--rates", "1,3,6", "--budget", "3",
        "--no-stopping", "--sampler", "random", "--chain", "--confirm", "1", "--seeds", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    printed = " ".join(done.stdout.split())
    assert "from scratch; each quality starts from the baseline of the next higher one" in printed
    found = open_search("chained", tmp_path, with_model=False)
    template, place = template_of(found.settings), found.place.checkpoints
    groups = [(TRIALS_FOLDER, "", found.records), (CONFIRMATION, "-s1", found.confirmed[0])]
    for folder, suffix, records in groups:
        assert len(records.everything()) == 6
        for record in records.everything():
            above = {1: 3, 3: 6}.get(record.quality)
            start = template.start
            if above is not None:
                baseline = records.baselines[above]
                assert baseline.ended is not None and baseline.ended <= record.began
                start = place.of_epoch(f"{folder}/baseline-q{above}{suffix}", 2).path
            assert_as_trained_alone(record, replace(template, start=start))
