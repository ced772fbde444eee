from __future__ import annotations

import math

from lic.evaluation.bdrate import Interval
from search.base.formats import fixed, interval, percent, signed, weight


def test_what_rounds_to_zero_is_not_negative() -> None:
    assert [signed(value) for value in (-0.001, 0.001, -0.0, -0.01)] == ["+0.00", "+0.00", "+0.00", "-0.01"]
    assert interval(Interval(-0.001, -0.004, 0.2)) == "+0.00 % [+0.00, +0.20]"


def test_a_figure_that_there_is_not_is_a_dash() -> None:
    for value in (None, math.nan):
        assert (signed(value), percent(value), fixed(value, 2)) == ("-", "-", "-")
    assert interval(None) == interval(Interval(math.nan, math.nan, math.nan)) == "-"


def test_an_interval_without_ends_is_the_figure_alone() -> None:
    assert interval(Interval(-1.234, math.nan, math.nan)) == "-1.23 %"


def test_the_baselines_weight_is_no_measured_zero() -> None:
    assert (weight(8.14e-6), weight(0.0)) == ("8.14e-06", "0 (baseline)")
