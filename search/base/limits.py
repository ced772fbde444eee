"""Time limits of a search, besides its budget of trials. A signal counts as a limit too."""

from __future__ import annotations

import time
from collections.abc import Callable


class Limits:
    """Wall hours of this driver session and GPU hours of the whole search; None: no limit. GPU hours count
    while training runs."""

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
        #: Whether the search is being stopped early; unfinished training runs continue on resume.
        self.interrupted = False
        #: Why the search cannot continue, or empty.
        self.trouble = ""

    def halt(self, trouble: str) -> None:
        """Stop the search because of this problem; it can be resumed once the problem is fixed."""
        self.trouble = self.trouble or trouble
        self.interrupted = True

    def spent(self, seconds: float) -> None:
        """Add the training time of earlier driver sessions."""
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
        """Which limit is reached, in words; empty if none."""
        if self.interrupted:
            return "interrupted"
        if self._hours is not None and self._clock() - self._began >= 3600 * self._hours:
            return f"max_hours {self._hours:g} reached"
        if self._gpu_hours is not None and self.gpu_hours >= self._gpu_hours:
            return f"max_gpu_hours {self._gpu_hours:g} reached"
        return ""
