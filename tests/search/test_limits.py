"""Limits of time, on a clock of our own."""

from __future__ import annotations

import os
import signal
import time

import pytest

from search import limits as module
from search.limits import Limits, ends_on_signal


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
    assert limits.reached() == "max_hours 0.5 is over"


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
    assert limits.reached() == "max_gpu_hours 1 is used up"
    limits.ended("b")
    clock.now += 3600
    assert limits.gpu_hours == 1.0


def test_who_is_told_to_end_does_so_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The running epochs are given some seconds, no more; then the signals mean again what they did."""
    monkeypatch.setattr(module, "_GRACE", 0.3)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    limits, said = Limits(None, None, 1.0), []
    with ends_on_signal(limits, said.append):
        os.kill(os.getpid(), signal.SIGTERM)
        assert limits.reached() == "it was interrupted"
        assert "told to end" in said[0]
    time.sleep(0.4)  # those that ended in time are not disturbed
    with pytest.raises(KeyboardInterrupt), ends_on_signal(limits, said.append):
        began = time.monotonic()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert 0.2 < time.monotonic() - began < 2
    with pytest.raises(KeyboardInterrupt), ends_on_signal(limits, said.append):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
