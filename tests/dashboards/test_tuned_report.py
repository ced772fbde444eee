"""The report and the model card of a search with tuned settings, on made-up trainings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dashboards import plots, png, report
from lic.codec.verification import means
from search.records.folder import OpenedSearch, open_search
from search.store.provenance import ENVIRONMENT, TEST_SET
from search.zoo import card
from search.zoo.card import About, Choice
from tests.search.zoo.test_card import verified
from tests.support.made_up import made_up_search

TUNE = "lr=1e-4..1e-3 optimizer=adam,soap decay_at=0.5..1"


@pytest.fixture(scope="module", params=["", "alpha=0"])
def search(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OpenedSearch:
    """With alpha and strategies, and without."""
    root = tmp_path_factory.mktemp("results")
    made = made_up_search(root / "mine", tune=TUNE, fix=request.param, budget="16")
    known = ("command", "git_commit", "machine", "train_fingerprint", "version_torch", "version_compressai",
             "version_ray", "version_optuna")  # fmt: skip
    (made / ENVIRONMENT).write_text(json.dumps({**dict.fromkeys(known, "unknown"), TEST_SET: "leaves"}))
    return open_search(str(made), root)


def test_a_figure_for_each_setting(search: OpenedSearch, tmp_path: Path) -> None:
    for dimension in search.plan.dimensions:
        figure = plots.response(search, dimension)
        trials = [t for t in figure.data if (t.name or "").startswith("trials of ") and t.xaxis == "x"]
        places = {x for trace in trials for x in trace.x}
        records = [t for t in search.records.trials if t.quality == 1]
        values = {dict(t.tuned)[dimension.name] for t in records}
        expected = {dimension.choices.index(v) if dimension.choices else v for v in values}
        assert places == expected
        lines = [trace for trace in figure.data if trace.mode == "lines"]
        assert lines and all(len(trace.x) == (len(dimension.choices) or 41) for trace in lines)
        png.write({dimension.name: figure}, None, tmp_path)
    ticks = plots.response(search, search.plan.dimensions[2]).layout.xaxis.ticktext
    assert tuple(ticks) == ("adam", "soap")


def test_the_report_has_them_and_the_importances(search: OpenedSearch) -> None:
    assert report.main([str(search.folder)]) == 0
    page = (search.folder / "report.html").read_text()
    for name in ("lr", "optimizer", "decay_at"):
        assert f"<h2>Rate change as a function of {name}</h2>" in page
        assert f'id="response_{name}"' in page
    assert ("<h2>Rate change as a function of alpha</h2>" in page) == bool(search.plan.strategies)
    table = page[page.index("<h2>Importance of the settings</h2>") :]
    assert all(f"<td>{name}</td>" in table for name in search.importances)
    assert {"lr", "optimizer", "decay_at"} <= set(search.importances)
    assert (search.folder / "figures" / "response_lr.png").stat().st_size > 10_000


def test_the_model_card_names_the_values(search: OpenedSearch, tmp_path: Path) -> None:
    table = means(verified(0.04, small=False))
    metrics = card.ZooMetrics("photographs", table, None)
    choices = {q: Choice(search.records.trials[q], {}, ()) for q in (1, 3)}
    text = card.readme(search, metrics, choices, tmp_path, About())
    assert "optimizer adam or soap" in text and "lr 0.0001 to 0.001 (log scale)" in text
    for choice in choices.values():
        values = dict(choice.record.tuned)
        (row,) = [row for row in text.splitlines() if f"| {choice.record.name} |" in row]
        assert f"| {values['decay_at']:.3g} | {values['lr']:.3g} | {values['optimizer']} |" in row
    assert ("decorrelation loss of" in text) == bool(search.plan.strategies)
