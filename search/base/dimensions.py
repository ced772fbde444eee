"""Settings of the training that a search tunes beside alpha and strategy: a range or a few choices each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

Value = float | str

#: Values by name, sorted by name, as a point of the search space holds them.
Tuned = tuple[tuple[str, Value], ...]


@dataclass(frozen=True)
class Dimension:
    """A tuned setting: the range from `low` to `high`, or `choices`. `default` is its value in the baselines,
    which need be neither in the range nor among the choices."""

    name: str
    default: Value
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Value, ...] = ()

    def coordinate(self, value: Value) -> float:
        """Where a value lies for a kernel: the default at 0. Over the range and the default together a
        coordinate grows by 1, linearly or with the logarithm; every choice has a whole number of its own.
        Raises ValueError for a value that is none of these."""
        if self.choices:
            others = [choice for choice in self.choices if choice != self.default]
            return 0.0 if value == self.default else 1.0 + others.index(value)
        if isinstance(value, str) or not (self.low <= value <= self.high or value == self.default):
            raise ValueError(f"{self.name} {value} is not in the range")
        here, default = self._scaled(value), self._scaled(self.default)
        ends = (self._scaled(self.low), self._scaled(self.high), default)
        return (here - default) / (max(ends) - min(ends))

    @property
    def usual(self) -> Value:
        """The default, or what of the range is nearest to it, or the first of choices without it."""
        if self.choices:
            return self.default if self.default in self.choices else self.choices[0]
        assert not isinstance(self.default, str)
        return min(max(self.default, self.low), self.high)

    def at(self, share: float) -> Value:
        """The value at a share of the range, or of the choices, from 0 to 1."""
        if self.choices:
            return self.choices[min(int(share * len(self.choices)), len(self.choices) - 1)]
        low, high = self._scaled(self.low), self._scaled(self.high)
        place = low + (high - low) * share
        return min(max(10**place if self.log else place, self.low), self.high)

    def share(self, value: Value) -> float:
        """The share of the range at which a value lies, from 0 to 1: the inverse of `at`, for numbers."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return min(max((self._scaled(value) - low) / (high - low), 0.0), 1.0)

    def _scaled(self, value: Value) -> float:
        assert not isinstance(value, str)
        if not self.log:
            return float(value)
        # A default of 0 has no logarithm: a decade below the range is as good as nothing.
        return math.log10(value if value > 0 else self.low / 10)

    def __str__(self) -> str:
        if self.choices:
            return f"{self.name} {' or '.join(map(shown_value, self.choices))}"
        scale = "log" if self.log else "linear"
        return f"{self.name} {shown_value(self.low)} to {shown_value(self.high)} ({scale} scale)"


def shown_value(value: Value) -> str:
    """A value of a setting as text, numbers with three digits."""
    return value if isinstance(value, str) else f"{value:.3g}"


def shown_values(tuned: Iterable[tuple[str, Value]]) -> str:
    """Values by name as text: 'clip 2.5, lr 0.000312'."""
    return ", ".join(f"{name} {shown_value(value)}" for name, value in tuned)
