"""Number formats for the terminal and the report: a missing value is a dash, never 'nan', and zero is never
negative."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lic.evaluation.bdrate import Interval

#: Shown for a missing value.
MISSING = "-"

#: Shown where the baseline was selected: the difference is zero by definition, not by measurement.
NONE_BETTER = "0 (baseline)"


def signed(value: float | None, digits: int = 2) -> str:
    """A difference with its sign and this many decimals: '+1.23'; -0.001 is '+0.00'."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{value:+z.{digits}f}"


def percent(value: float | None, digits: int = 2) -> str:
    """A difference in percent, with its sign: '+1.23 %'."""
    text = signed(value, digits)
    return text if text == MISSING else f"{text} %"


def interval(figure: Interval | None, digits: int = 2) -> str:
    """A difference in percent with its 95 % interval, if it has one: '-1.23 % [-2.00, -0.46]'."""
    if figure is None:
        return MISSING
    ends = "" if math.isnan(figure.low) else f" [{signed(figure.low, digits)}, {signed(figure.high, digits)}]"
    return f"{percent(figure.value, digits)}{ends}"


def format_db(value: float | None) -> str:
    """A difference in dB, with its sign: '+0.123 dB'."""
    text = signed(value, 3)
    return text if text == MISSING else f"{text} dB"


def fixed(value: float | None, digits: int) -> str:
    """A measured value with this many decimals."""
    return MISSING if value is None or math.isnan(value) else f"{value:.{digits}f}"


def weight(alpha: float) -> str:
    """A decorrelation weight: '8.14e-06'."""
    return f"{alpha:.2e}" if alpha else NONE_BETTER
