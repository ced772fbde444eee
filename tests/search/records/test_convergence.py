"""What is said of whether the baselines had come to rest."""

from __future__ import annotations

import dataclasses

import pytest

from search.base.space import BASELINE, TRIAL, Candidate, SearchPoint, three_quarters
from search.engine.tune import training_config_of
from search.records.convergence import last_gains, statement
from search.records.folder import open_search
from search.records.search_records import SearchRecords
from search.session import summary
from search.settings.config import resolve
from search.settings.plan import template_of
from tests.support.made_up import made_up_search


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> SearchRecords:
    folder = made_up_search(tmp_path_factory.mktemp("results") / "search", epochs="8")
    return open_search(folder.name, folder.parent, with_model=False).records


@pytest.mark.parametrize(("epochs", "begin"), [(1, None), (2, 1), (3, 2), (4, 3), (8, 6), (9, 7), (100, 75)])
def test_where_the_last_quarter_begins(epochs: int, begin: int | None) -> None:
    assert three_quarters(epochs) == begin


def test_the_gain_is_the_baselines_own_rate_change(records: SearchRecords) -> None:
    """Made up: the rate falls as one over the epoch, the distortion stays. So from 6 to 8 a quarter goes."""
    assert last_gains(records) == pytest.approx({1: -25.0, 3: -25.0})


def test_it_is_stated_and_warned_of_where_more_than_what_is_reported(records: SearchRecords) -> None:
    told, warning = statement(records, {1: -30.0, 3: -4.0})
    assert told == (
        "rate change of the baselines over the last 2 of 8 epochs, on val: -25.00 % (quality 1), "
        "-25.00 % (quality 3)"
    )
    assert "(quality 3: reported -4.00 %, still gaining -25.00 %)" in warning
    assert "quality 1" not in warning
    assert len(statement(records, {1: -30.0})) == 1
    assert summary.convergence(records)[0] == told


def test_nothing_is_said_without_the_readings(records: SearchRecords) -> None:
    assert statement(dataclasses.replace(records, baselines={}), {}) == []
    assert statement(dataclasses.replace(records, epochs=1), {}) == []


def test_a_baseline_is_measured_there_and_no_trial() -> None:
    settings = resolve({"preset": "tiny", "model": "hyperprior"}, {}, lambda _: 0).settings
    template = template_of(settings)
    assert (template.val_epochs, template.rest_epoch) == ((1, 3, 9), 7)
    for role, alpha, expected in ((BASELINE, 0.0, 7), (TRIAL, 1e-7, None)):
        candidate = Candidate(role, role, SearchPoint(3, "y", alpha), seed=0)
        assert training_config_of(candidate, template).rest_epoch == expected
