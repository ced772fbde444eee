"""What a driver session says of a confirmation: how much it trains at most, and which points are decided."""

from __future__ import annotations

from collections.abc import Callable

from search.base.formats import interval
from search.base.space import Plan
from search.records.confirm import Confirmation
from search.session.monitor import Monitor


def at_most(plan: Plan, best: int, seeds: int) -> int:
    """The number of training runs of a confirmation at most: the baselines and the `best` points of each
    quality on all seeds."""
    return seeds * len(plan.qualities) * (1 + best)


def announced(best: int, seeds: int, runs: int) -> str:
    """What a confirmation trains, in words."""
    points = "the best point" if best == 1 else f"the best {best} points"
    until = ", each until its 95 % interval excludes 0" if seeds > 2 else ""
    fresh = "1 fresh seed" if seeds == 1 else f"{seeds} fresh seeds"
    return f"at most {runs} training runs: baselines and {points} per quality on {fresh}{until}"


class Followup:
    """Follows a confirmation: keeps the number of planned training runs up to date, which falls as points
    are decided, and prints each decision once. To be called in the driver's loop whenever something
    changed."""

    def __init__(self, confirmation: Confirmation, monitor: Monitor, say: Callable[[str], None]) -> None:
        self._confirmation, self._monitor, self._say = confirmation, monitor, say
        self._told: set[str] = set()
        monitor.confirming = confirmation.most()

    def changed(self) -> None:
        for item in self._confirmation.decided():
            if item.trial not in self._told:
                self._told.add(item.trial)
                what = f"quality {item.quality}, {item.trial}: {item.outcome} than the baseline"
                change = interval(item.rate_change)
                self._say(f"{'decided':<12} {what}, {change} on {item.seeds} of at most {item.limit} seeds")
        self._monitor.confirming = self._confirmation.most()
        self._monitor.changed()
