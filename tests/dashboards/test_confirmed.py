"""The report of a search whose points were trained again on fresh seeds."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from dashboards import report
from search.records.confirm import Confirmation, points_to_confirm
from search.records.folder import OpenedSearch, open_search
from search.store.find import STUDY
from search.store.provenance import ENVIRONMENT
from search.store.storage import sqlite_address
from tests.support.made_up import figures, made_up_search


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> OpenedSearch:
    """Three seeds of a gain of 4 %, give or take a hundredth."""
    root = tmp_path_factory.mktemp("made-up")
    folder = made_up_search(root / "mine", confirm="1", seeds="3")
    before = open_search("mine", root)
    points = points_to_confirm(before.records, before.plan, 1, 3)
    storage = sqlite_address(folder / STUDY)
    confirmation = Confirmation(storage, "mine", before.plan, points, "leaves")
    while (candidate := confirmation.suggest()) is not None:
        for epoch in range(1, before.plan.epochs + 1):
            found = figures(candidate, epoch)
            if candidate.alpha:
                found["leaves/bpp"] *= 1 + 1e-4 * (candidate.seed % 2)
            columns = {name: [value] * 3 for name, value in found.items()}
            confirmation.observe(candidate.name, epoch, found, columns)
            confirmation.decide(candidate.name, epoch)
    return open_search("mine", root)


def written(search: OpenedSearch) -> str:
    named = ("command", "machine", "version_torch", "version_compressai", "version_ray", "version_optuna")
    environment = {**search.environment, **dict.fromkeys(named, "x")}
    (search.folder / ENVIRONMENT).write_text(json.dumps(environment))
    assert report.main([str(search.folder)]) == 0
    return html.unescape((search.folder / "report.html").read_text())


def test_it_leads_with_the_confirmed_figures(search: OpenedSearch) -> None:
    text = written(search)
    parts = [
        "confirmed BD-rate on leaves, PSNR<b>-4.00 % [-4.12, -3.87]",
        "<b>2 of 2 points</b>",
        "<h2>Confirmed on fresh seeds</h2>",
        "BD-rate on fresh seeds of the points that were expected to save bits: -4.00 % [-4.12, -3.87]",
        "<h2>The search's own figures</h2>",
        "BD-rate on leaves, PSNR, selection seed",
        "<h2>Comparison with the baselines</h2>",
    ]
    place = [text.index(part) for part in parts]
    assert place == sorted(place)
    section = text[place[2] : place[4]]
    assert re.search(r"Better than the baseline on fresh seeds: quality 1 \(trial-\d+\), quality 3", section)
    assert len(re.findall(r"<td>2</td><td>-4\.00 % \[-4\.12, -3\.87\]</td><td>better</td>", section)) == 2


def test_without_a_confirmation_it_is_as_before(tmp_path: Path) -> None:
    made_up_search(tmp_path / "mine")
    search = open_search("mine", tmp_path)
    assert search.fresh.points == [] and search.records.outcomes == {}
    text = written(search)
    assert "onfirmed" not in text and "selection seed" not in text and "own figures" not in text
