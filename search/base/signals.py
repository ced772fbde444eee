"""Ctrl-C and the signals by which terminals and schedulers end a command: it ends in time, to be resumed.

SIGINT, SIGTERM, SIGHUP and SIGQUIT interrupt a command at once, by KeyboardInterrupt; while it trains, all
but SIGQUIT first give the running epochs some seconds (`ends_on_signal`).

Python answers a signal in the main thread alone, and only between two of its instructions. That may be
minutes away: Ray's C++ code waits for processes of Ray's that the same signal has ended. So `ends_in_time`
also starts a thread that hears of every signal at once and ends the process itself if the main thread does
not.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

import psutil

from search.base.limits import Limits

#: What ends a command: Ctrl-C; schedulers; a terminal that is closed; Ctrl-\.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

#: Seconds that running epochs are given to finish.
_GRACE = 12.0

#: Seconds from the first signal until the process ends, whatever it waits for: less than the 30 s after which
#: Slurm and Kubernetes kill it.
_PATIENCE = 22.0

INTERRUPTED = 130


class _Answer:
    """The handler of all signals in `ENDING`."""

    def __init__(self) -> None:
        #: What is told to end while trainings run, and how the user hears of it.
        self.training: tuple[Limits, Callable[[str], None]] | None = None
        #: Whether a signal has come, and whether what runs now cleans up and is not to be disturbed.
        self.heard = self.cleaning = False
        self._before: dict[int, Any] = {}

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        self.heard = True
        if self.cleaning:
            return
        if self.training is None or number in (signal.SIGQUIT, signal.SIGALRM):
            self._interrupt()
        limits, say = self.training
        if not limits.interrupted:
            limits.interrupted = True
            signal.setitimer(signal.ITIMER_REAL, _GRACE)
            again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
            say(
                f"{signal.Signals(number).name}: finishing the running epochs ({_GRACE:g} s at most); "
                f"unfinished ones are repeated on resume{again}"
            )
        elif number == signal.SIGINT:  # the others may be sent twice: to the process, and to its group
            self._interrupt()

    def _interrupt(self) -> NoReturn:
        self.cleaning = True
        raise KeyboardInterrupt

    def install(self) -> None:
        # A SIGHUP that is ignored (nohup) stays so.
        numbers = [n for n in ENDING if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self) for number in (*numbers, signal.SIGALRM)}

    def remove(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)


#: The handler that is in place, if one is.
_answer: _Answer | None = None


@contextlib.contextmanager
def _answered(to_the_end: bool = False) -> Iterator[_Answer]:
    """Answer signals, if this is the main thread; no other can. With `to_the_end` the process is about to end
    where a signal has come: further ones do not disturb that."""
    global _answer
    if _answer is not None or threading.current_thread() is not threading.main_thread():
        yield _answer or _Answer()
        return
    answer = _answer = _Answer()
    answer.install()
    try:
        yield answer
    finally:
        _answer = None
        if to_the_end and answer.heard:
            answer.cleaning = True
        else:
            answer.remove()


@contextlib.contextmanager
def ends_on_signal(limits: Limits, say: Callable[[str], None]) -> Iterator[None]:
    """While trainings run: the first signal sets `limits.interrupted`, and the running epochs are given some
    seconds to finish and be saved; then, or at a second Ctrl-C, KeyboardInterrupt is raised. SIGQUIT raises
    it at once."""
    with _answered() as answer:
        answer.training = (limits, say)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            answer.training = None


#: What is said last, and how to go on, by what has happened (`ends_in_time`).
_last_words: Callable[[str], str] = str


@contextlib.contextmanager
def ends_in_time(last_words: Callable[[str], str]) -> Iterator[None]:
    """A signal interrupts what runs here by KeyboardInterrupt. If the process has not ended some seconds
    later, or at a third Ctrl-C, all that it started is killed, `last_words` are printed, and it ends with
    status 130."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _last_words
    _last_words = last_words
    with _answered(to_the_end=True) as answer:
        heard, said = os.pipe()
        os.set_blocking(said, False)
        before = signal.set_wakeup_fd(said, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(heard,), name="signals", daemon=True).start()
        try:
            yield
        finally:
            if not answer.heard:
                signal.set_wakeup_fd(before)
                os.close(said)


def _watch(heard: int) -> None:
    """End the process in time once a signal has come."""
    until, ctrl_c = math.inf, 0
    while True:
        left = None if until == math.inf else max(0.0, until - time.monotonic())
        if not select.select([heard], [], [], left)[0]:
            end_process("interrupted", INTERRUPTED)
        numbers = os.read(heard, 64)
        if not numbers:  # no signal came
            os.close(heard)
            return
        if set(numbers) & set(ENDING):
            until = min(until, time.monotonic() + _PATIENCE)
        ctrl_c += numbers.count(signal.SIGINT)
        if ctrl_c > 2:
            end_process("interrupted", INTERRUPTED)


def end_process(why: str, status: int) -> None:
    """End this process and all that it started, where its main thread cannot: the last words about `why` are
    printed. Returns in no case."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    # Whoever does not read cannot hold it up.
    words = f"{_last_words(why)}\n"
    printing = threading.Thread(target=lambda: print(words, end="", file=sys.stderr, flush=True), daemon=True)
    printing.start()
    printing.join(1.0)
    os._exit(status)
