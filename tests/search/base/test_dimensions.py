"""Tuned settings: their coordinates, values and texts, and points that have them."""

from __future__ import annotations

import pytest

from search.base.dimensions import Dimension, shown_values
from search.base.space import SearchPoint

LR = Dimension("lr", 1e-3, 1e-4, 1e-2, log=True)
OUTSIDE = Dimension("lr", 1e-5, 1e-4, 1e-2, log=True)
EMA = Dimension("ema", 0.0, 0.5, 1.0)
OPTIMIZER = Dimension("optimizer", "adam", choices=("adam", "soap", "muon"))


def test_coordinates_begin_at_the_default_and_span_one() -> None:
    assert [LR.coordinate(value) for value in (1e-4, 1e-3, 1e-2)] == pytest.approx([-0.5, 0, 0.5])
    assert [OUTSIDE.coordinate(value) for value in (1e-5, 1e-4, 1e-2)] == pytest.approx([0, 1 / 3, 1])
    assert [EMA.coordinate(value) for value in (0.0, 0.5, 1.0)] == pytest.approx([0, 0.5, 1])
    assert [OPTIMIZER.coordinate(value) for value in ("adam", "soap", "muon")] == [0, 1, 2]
    without = Dimension("optimizer", "adamw", choices=("soap", "muon"))
    assert [without.coordinate(value) for value in ("adamw", "soap", "muon")] == [0, 1, 2]


def test_a_default_of_zero_on_a_log_scale_is_a_decade_below_the_range() -> None:
    ema = Dimension("ema", 0.0, 0.01, 1.0, log=True)
    assert [ema.coordinate(value) for value in (0.0, 0.01, 1.0)] == pytest.approx([0, 1 / 3, 1])


@pytest.mark.parametrize(("dimension", "value"), [(LR, 2e-2), (LR, "adam"), (OPTIMIZER, "adamw")])
def test_other_values_have_no_coordinate(dimension: Dimension, value: float | str) -> None:
    with pytest.raises(ValueError):
        dimension.coordinate(value)


def test_values_at_shares() -> None:
    assert [LR.at(share) for share in (0.0, 0.5, 1.0)] == pytest.approx([1e-4, 1e-3, 1e-2])
    assert float(LR.at(1.0)) <= 1e-2 and float(LR.at(0.0)) >= 1e-4
    assert [OPTIMIZER.at(share) for share in (0.0, 0.4, 0.99, 1.0)] == ["adam", "soap", "muon", "muon"]
    assert LR.share(LR.at(0.3)) == pytest.approx(0.3)


def test_the_usual_value_can_be_searched() -> None:
    assert LR.usual == 1e-3 and OUTSIDE.usual == 1e-4 and OPTIMIZER.usual == "adam"
    assert Dimension("optimizer", "adamw", choices=("soap", "muon")).usual == "soap"


def test_texts() -> None:
    assert str(LR) == "lr 0.0001 to 0.01 (log scale)"
    assert str(OPTIMIZER) == "optimizer adam or soap or muon"
    assert shown_values((("lr", 3.123e-4), ("optimizer", "soap"))) == "lr 0.000312, optimizer soap"


def test_a_point_and_its_row() -> None:
    plain, tuned = SearchPoint(3, "y", 1e-7), SearchPoint(3, "y", 1e-7, (("clip", 2.0), ("lr", 1e-3)))
    without = SearchPoint(3, tuned=(("lr", 1e-3),))
    assert "tuned" not in plain.as_row()  # files of earlier versions stay as they were
    for point in (plain, tuned, without, SearchPoint(3)):
        assert SearchPoint.of_row(point.as_row()) == point
    params = {"quality": 3, "strategy": "y", "lr": 1e-3, "clip": 2.0, "alpha": 1e-7}
    assert SearchPoint.of_params(3, params) == tuned
    assert [p.is_baseline for p in (plain, tuned, without, SearchPoint(3))] == [False] * 3 + [True]
    assert tuned.description == "y, alpha 1.00e-07, clip 2, lr 0.001"
    assert (without.description, without.strategy_name) == ("lr 0.001", "tuned")
    assert (SearchPoint(3).description, SearchPoint(3).strategy_name) == ("baseline", "baseline")
