"""The other ranks of a training run on several devices (lic.ranks): child processes on this host, each with a
device, which do all that changes the weights along with this process, rank 0. Only rank 0 evaluates and
writes.

They end with this process, however that ends; until then they are reused by its next training run. Gradients
go over NCCL between GPUs, over gloo between CPU processes.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed as dist

from lic.ranks import all_ranks

#: Seconds after which a rank that takes no part in an exchange, or does not answer, counts as lost. Until it
#: does, it may compile.
_PATIENCE = 600.0

#: Seconds in which the other ranks notice an error in an exchange and answer.
_GRACE = 10.0


class RankError(RuntimeError):
    """A rank has failed or ended; the message says which and why. The others have been ended."""


def join(device: str, rank: int, count: int, store: Path) -> None:
    """Join the group of ranks that meet at `store`, a file; returns when all have. Raises RuntimeError."""
    for library in ("GLOO", "NCCL"):  # all ranks are on this host, and their ports need not be open to others
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        store=dist.FileStore(str(store), count),  # type: ignore[attr-defined]  # its stubs export less
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=_PATIENCE),
    )


class Others:
    """Ranks 1, 2, ... as rank 0 sees them."""

    def __init__(self, device: str, count: int) -> None:
        """Start them; returns when they have joined. Raises RankError."""
        self.device, self.count, self.closed = device, count, False
        #: The training run that they take part in.
        self.run: object = None
        self._folder = TemporaryDirectory(prefix="lictune-")
        self._links: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        store = Path(self._folder.name) / "store"
        atexit.register(self.close)
        for rank in range(1, count):
            self._start(rank, store)
        with self._in_step():
            pass  # they answer when they are ready to join
        try:
            join(device, 0, count, store)
        except BaseException:
            self.close()
            raise

    def _start(self, rank: int, store: Path) -> None:
        ours, theirs = Pipe()
        arguments = (theirs.fileno(), self.device, rank, self.count, store)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "lic.training.rank", *map(str, arguments)],
                stdin=subprocess.PIPE,  # closed when this process ends
                pass_fds=(theirs.fileno(),),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # it finds what this one finds
            )
        self._links.append(ours)
        self._processes.append(process)
        if self.device == "cuda":
            threading.Thread(target=self._abort_after, args=(process,), daemon=True).start()

    def _abort_after(self, process: subprocess.Popen[bytes]) -> None:
        """When a rank has ended, end the exchange that rank 0 may be in. (NCCL would wait for the rank; gloo
        notices.)"""
        process.wait()
        if not self.closed and dist.is_initialized():
            all_ranks().abort()

    @property
    def alive(self) -> bool:
        return not self.closed and all(process.poll() is None for process in self._processes)

    @contextlib.contextmanager
    def together(self, command: str, *arguments: Any) -> Iterator[None]:
        """The others execute a command of lic.training.rank while this process does the same in the context.
        Raises RankError if one of them fails. If this process fails alone, they are ended."""
        with self._in_step():
            for link in self._links:
                with contextlib.suppress(OSError):  # it has ended, and there is no answer
                    link.send((command, arguments))
            yield

    @contextlib.contextmanager
    def _in_step(self) -> Iterator[None]:
        """Wait for the answers after the context. Raises RankError; an error of the context passes, unless it
        is the consequence of another rank's."""
        failure: str | None = None
        try:
            yield
            failure = self._failure(_PATIENCE)
            if failure is None:
                failure = f"the other ranks do not answer within {_PATIENCE:g} s"
            if failure:
                raise RankError(failure)
        except RankError:
            raise
        except Exception as error:
            failure = self._failure(_GRACE)
            if failure and isinstance(error, RuntimeError):  # of the exchange
                raise RankError(failure) from error
            raise
        finally:
            if failure != "":
                self.close()

    def _failure(self, seconds: float) -> str | None:
        """The first failure among the answers to a command; empty if all ranks have executed it, None if some
        do not answer in time and none has failed."""
        until, silent, failures = time.monotonic() + seconds, False, []
        for rank, (link, process) in enumerate(zip(self._links, self._processes, strict=True), 1):
            try:
                if not link.poll(max(0.0, until - time.monotonic())):
                    silent = True
                    continue
                when, why = link.recv()
            except (EOFError, OSError):  # others only fail because of one that ends
                when, why = 0.0, f"ended with exit status {process.wait()}"
            if why:
                failures.append((when, f"rank {rank} of {self.count} {why}"))
        if failures:
            return min(failures)[1]
        return None if silent else ""

    def close(self) -> None:
        """End them."""
        if self.closed:
            return
        self.closed, self.run = True, None
        atexit.unregister(self.close)
        for process in self._processes:
            process.kill()
        for link, process in zip(self._links, self._processes, strict=True):
            process.wait()
            link.close()
            assert process.stdin is not None
            process.stdin.close()
        if dist.is_initialized():
            if self.device == "cuda":
                all_ranks().abort()
            dist.destroy_process_group()
        self._folder.cleanup()


_others: Others | None = None


def others(device: str, count: int) -> Others:
    """The other ranks of this process's training runs: those of the last one, or new ones. Raises
    RankError."""
    global _others
    if _others is not None and not (_others.alive and (_others.device, _others.count) == (device, count)):
        _others.close()
        _others = None
    if _others is None:
        _others = Others(device, count)
    return _others
