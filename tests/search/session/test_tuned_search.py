"""A real search of settings of the training alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.records.folder import open_search
from search.records.results import best_per_rate
from search.settings.plan import template_of
from tests.conftest import assert_as_trained_alone, run_search
from tests.search.session.test_search import SMALL


@pytest.mark.slow
def test_trials_are_trained_with_their_values(tmp_path: Path) -> None:
    wanted = ["--model", "hyperprior", *SMALL, "--rates", "1", "--budget", "2", "--no-stopping"]
    tuned = ["--fix", "alpha=0", "--tune", "lr=1e-3..1e-2", "--tune", "optimizer=adam,soap"]
    done = run_search(tmp_path, "tuned", *wanted, *tuned)
    assert done.returncode == 0, done.stderr + done.stdout
    printed = " ".join(done.stdout.split())
    assert "no regularisation term" in printed and "lr is that of every optimizer" in printed
    search = open_search("tuned", tmp_path)
    trials = search.records.trials
    assert len({trial.tuned for trial in trials}) == 2
    for trial in trials:
        assert trial.alpha == 0 and trial.state == "finished"
        assert_as_trained_alone(trial, template_of(search.settings))
    kept = json.loads((tmp_path / "tuned" / "best" / "index.json").read_text())
    for quality, record in best_per_rate(search.records).items():
        assert dict(record.tuned).items() <= kept[f"q{quality}.pt"].items()
