"""Handling of Ctrl-C and of termination signals: a command ends within a time limit and can be resumed.

SIGINT, SIGTERM, SIGHUP and SIGQUIT raise KeyboardInterrupt. During training, all but SIGQUIT first give the
running epochs some seconds to finish (`ends_on_signal`).

Python runs signal handlers only in the main thread, between two bytecode instructions. That can be minutes
later: Ray's C++ code may wait for Ray processes that the same signal has ended. So `ends_in_time` also starts
a thread that is notified of every signal at once and ends the process if the main thread does not.
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

from lic.cli import INTERRUPTED
from search.base.limits import Limits

#: Signals that end a command, sent by Ctrl-C, schedulers, a closed terminal and Ctrl-\.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

#: Seconds that running epochs get to finish.
_GRACE = 12.0

#: Seconds from the first signal until the process is forced to end: less than the 30 s after which Slurm and
#: Kubernetes kill it.
_PATIENCE = 22.0


class _Answer:
    """The handler of all signals in `ENDING`."""

    def __init__(self) -> None:
        #: While training runs: the limits to set on a signal, and a function that prints a message.
        self.training: tuple[Limits, Callable[[str], None]] | None = None
        #: Whether a signal has arrived; whether cleanup is running, during which further signals are ignored.
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
        # Keep SIGHUP ignored if it is (nohup).
        numbers = [n for n in ENDING if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self) for number in (*numbers, signal.SIGALRM)}

    def remove(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)


#: The installed handler, if any.
_answer: _Answer | None = None


@contextlib.contextmanager
def _answered(to_the_end: bool = False) -> Iterator[_Answer]:
    """Install the handler if this is the main thread (no other can). With `to_the_end`, the process ends
    after a signal, so further signals are ignored from then on."""
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
    """During training: the first signal sets `limits.interrupted` and gives the running epochs some seconds
    to finish and be saved; then, or at a second Ctrl-C, KeyboardInterrupt is raised. SIGQUIT raises it at
    once."""
    with _answered() as answer:
        answer.training = (limits, say)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            answer.training = None


#: Returns the last line to print for a reason, with the command to resume (`ends_in_time`).
_last_words: Callable[[str], str] = str


@contextlib.contextmanager
def ends_in_time(last_words: Callable[[str], str]) -> Iterator[None]:
    """A signal raises KeyboardInterrupt in this context. If the process has not ended some seconds later, or
    at a third Ctrl-C, all its child processes are killed, `last_words` is printed, and it exits with status
    130."""
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
    """End the process within the time limit once a signal has arrived."""
    until, ctrl_c = math.inf, 0
    while True:
        left = None if until == math.inf else max(0.0, until - time.monotonic())
        if not select.select([heard], [], [], left)[0]:
            end_process("interrupted", INTERRUPTED)
        numbers = os.read(heard, 64)
        if not numbers:  # the context ended without a signal
            os.close(heard)
            return
        if set(numbers) & set(ENDING):
            until = min(until, time.monotonic() + _PATIENCE)
        ctrl_c += numbers.count(signal.SIGINT)
        if ctrl_c > 2:
            end_process("interrupted", INTERRUPTED)


def end_process(why: str, status: int) -> None:
    """End this process and all its children when the main thread cannot; prints the last words for `why`.
    Never returns."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    # Printing in a thread: a blocked reader must not delay the exit.
    words = f"{_last_words(why)}\n"
    printing = threading.Thread(target=lambda: print(words, end="", file=sys.stderr, flush=True), daemon=True)
    printing.start()
    printing.join(1.0)
    os._exit(status)
