"""A rank other than 0 of a training run on several devices: `python -m lic.training.rank`, which
lic.training.parallel starts."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from lic.files import one_line
from lic.ranks import Ranks
from lic.training import parallel
from lic.training.trainer import DivergedError, Trainer
from lic.training.trial import Trial, TrialConfig


class Rank:
    """Executes rank 0's commands, its public methods, on the training run that `begin` makes."""

    trainer: Trainer

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def begin(self, config: TrialConfig) -> None:
        self.__dict__.pop("trainer", None)  # its memory first
        self.trainer = Trial(config, self._ranks).trainer

    def load(self, path: Path, other: tuple[str, ...]) -> None:
        self.trainer.load(path, other)

    def train(self, schedule: dict[str, Any]) -> None:
        """Train an epoch, with rank 0's state of the schedule: only rank 0 knows the validation losses."""
        self.trainer.schedule.load_state_dict(schedule)
        self.trainer.run_epoch()


def serve(link: Connection, device: str, ranks: Ranks, store: Path) -> None:
    """Execute the commands from the other end of the link until one fails or rank 0 closes it. Answers each,
    and the start, with the time and why it failed, or an empty string."""
    if device == "cuda":
        torch.cuda.set_device(ranks.rank)
    link.send((time.time(), ""))
    parallel.join(device, ranks.rank, ranks.count, store)
    rank, failure = Rank(ranks), ""
    while not failure:
        try:
            command, arguments = link.recv()
        except EOFError:
            return
        try:
            getattr(rank, command)(*arguments)
        except DivergedError:  # on all ranks
            pass
        except Exception as error:
            failure = f"failed: {type(error).__name__}: {one_line(error)}"
        link.send((time.time(), failure))


def _end_with_parent() -> None:
    """End this process, whatever it does, when rank 0 has ended, whose end of this pipe is then closed."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for rank 0
    threading.Thread(target=_end_with_parent, daemon=True).start()
    handle, kind, number, count, meeting = sys.argv[1:]
    serve(Connection(int(handle)), kind, Ranks(int(number), int(count)), Path(meeting))
