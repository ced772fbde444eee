"""Limits of time, on a clock of our own."""

from __future__ import annotations

from search.base.limits import Limits


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_no_limit_is_never_reached() -> None:
    clock = Clock()
    limits = Limits(None, None, 1.0, clock)
    clock.now += 1e9
    assert limits.reached() == ""


def test_wall_hours() -> None:
    clock = Clock()
    limits = Limits(0.5, None, 0.0, clock)
    clock.now += 1799
    assert limits.reached() == ""
    clock.now += 1
    assert limits.reached() == "max_hours 0.5 reached"


def test_gpu_hours_count_trainings_that_run() -> None:
    """Two at once on half a GPU each are one GPU; waiting costs nothing."""
    clock = Clock()
    limits = Limits(None, 1.0, 0.5, clock)
    clock.now += 5000
    limits.started("a")
    limits.started("b")
    clock.now += 1800
    limits.ended("a")
    assert limits.gpu_hours == 0.5
    assert limits.reached() == ""
    clock.now += 3600
    assert limits.gpu_hours == 1.0
    assert limits.reached() == "max_gpu_hours 1 reached"
    limits.ended("b")
    clock.now += 3600
    assert limits.gpu_hours == 1.0
