"""Limits on the time a search may take, besides its budget of trials; a signal is one."""

from __future__ import annotations

import time
from collections.abc import Callable


class Limits:
    """Wall hours of this sitting and GPU hours of the whole search; None is no limit. GPU hours count while a
    training runs."""

    def __init__(
        self,
        hours: float | None,
        gpu_hours: float | None,
        gpus_per_trial: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hours, self._gpu_hours, self._gpus = hours, gpu_hours, gpus_per_trial
        self._clock, self._began, self._spent = clock, clock(), 0.0
        self._running: dict[str, float] = {}
        #: Whether the end was asked for: what has not ended is to be gone on with another time.
        self.interrupted = False
        #: Why the search cannot go on now, if that is so.
        self.trouble = ""

    def halt(self, trouble: str) -> None:
        """End the search, to be gone on with once the trouble is over."""
        self.trouble = self.trouble or trouble
        self.interrupted = True

    def spent(self, seconds: float) -> None:
        """Count what trainings took in earlier sittings."""
        self._spent += seconds

    def started(self, name: str) -> None:
        self._running[name] = self._clock()

    def ended(self, name: str) -> None:
        self._spent += self._clock() - self._running.pop(name, self._clock())

    @property
    def gpu_hours(self) -> float:
        """GPU hours used so far."""
        now = self._clock()
        return (self._spent + sum(now - start for start in self._running.values())) * self._gpus / 3600

    def reached(self) -> str:
        """Which limit is reached, in words; empty while none is."""
        if self.interrupted:
            return "it was interrupted"
        if self._hours is not None and self._clock() - self._began >= 3600 * self._hours:
            return f"max_hours {self._hours:g} is over"
        if self._gpu_hours is not None and self.gpu_hours >= self._gpu_hours:
            return f"max_gpu_hours {self._gpu_hours:g} is used up"
        return ""
