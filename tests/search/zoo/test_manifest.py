"""What the manifest of a zoo says of a search that tuned settings of the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lic import zoo
from lic.models.architectures import WEIGHTS
from search.records.folder import open_search
from search.records.search_records import TrialRecord
from search.zoo import card, exporting
from search.zoo.card import Choice
from tests.support.made_up import made_up_search


def written(root: Path, **settings: Any) -> tuple[dict[str, Any], TrialRecord]:
    """The manifest of a made-up search with one exported quality and its baseline, and the trial."""
    made_up_search(root / "mine", **settings)
    search = open_search("mine", root, with_model=False)
    record = search.records.finished(1)[0]
    for folder, name in (("q1", record.name), ("q1/baseline", "baseline-q1")):
        (root / "zoo" / folder).mkdir()
        (root / "zoo" / folder / WEIGHTS).write_bytes(b"")
        config = {"format": 1, "quality": 1, "trial": name}
        (root / "zoo" / folder / zoo.CONFIG).write_text(json.dumps(config))
    choices, metrics = {1: Choice(record, {})}, card.ZooMetrics.of(search, {1: record}, None, "")
    exporting._write_documents(search, choices, root / "zoo", metrics, card.About())
    return json.loads((root / "zoo" / zoo.MANIFEST).read_text()), record


@pytest.fixture(autouse=True)
def nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the model card and MLflow."""
    (tmp_path / "zoo").mkdir()
    monkeypatch.setattr(card, "readme", lambda *_: "")
    monkeypatch.setattr("search.tracking.registry.run_ids", lambda _: {})


def test_it_has_all_tuned_and_fixed_settings(tmp_path: Path) -> None:
    tune = {"lr": "1e-4..1e-3", "optimizer": "adam,soap"}
    given = "; ".join(f"{name}={values}" for name, values in tune.items())
    manifest, record = written(tmp_path, tune=given, fix="alpha=0", optimizer="adam")
    assert (manifest["tune"], manifest["fix"]) == (tune, {"alpha": 0.0})
    own, baseline = (manifest["files"][f"{folder}/{WEIGHTS}"] for folder in ("q1", "q1/baseline"))
    assert own["tuned"] == dict(record.tuned) and own["tuned"].keys() == tune.keys()
    assert baseline["tuned"]["optimizer"] == "adam" and baseline["tuned"].keys() == tune.keys()


def test_it_has_none_where_none_was_tuned(tmp_path: Path) -> None:
    manifest, _ = written(tmp_path)
    assert not {"tune", "fix"} & manifest.keys()
    assert "tuned" not in manifest["files"][f"q1/{WEIGHTS}"]
