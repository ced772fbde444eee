"""Limits on the time a search may take, besides its budget of trials; one is Ctrl-C or SIGTERM."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

#: Seconds that a search which is told to end gives its running epochs; with what ending takes they stay
#: below the 30 s after which Slurm and Kubernetes kill it.
_GRACE = 15.0


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


@contextlib.contextmanager
def ends_on_signal(limits: Limits, say: Callable[[str], None]) -> Iterator[None]:
    """The first Ctrl-C lets the running epochs finish and be saved; the second stops at once, by
    KeyboardInterrupt. SIGTERM, by which schedulers end a job, does the one and soon after the other."""

    def finish(number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        limits.interrupted = True
        if number == signal.SIGTERM:
            signal.setitimer(signal.ITIMER_REAL, _GRACE)
            say(f"told to end: what the running epochs do not finish in {_GRACE:g} s is trained again")
        else:
            say("finishing the running epochs and saving them; Ctrl-C again stops at once")

    handlers = {
        signal.SIGINT: finish,
        signal.SIGTERM: finish,
        signal.SIGALRM: signal.default_int_handler,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
