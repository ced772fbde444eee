"""Local servers that stop with the command that started them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from lic.errors import LictuneError
from search.base.foreign_variables import for_server

HOST = "127.0.0.1"

#: Seconds to wait for a server; on a busy machine with two cores it takes 10 to 30.
_PATIENCE = 300

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ServerError(LictuneError):
    """A server did not start, or ended; the message has its name and last line of output."""


@dataclass(frozen=True)
class _Server:
    name: str
    address: str
    process: subprocess.Popen[bytes]
    log: Path


class Servers:
    """A context in which servers run. All stop when it is left by Ctrl-C, a closed terminal or an error.

    Each server leads its own process group, so that its workers stop as well.
    """

    def __init__(self) -> None:
        self._running: list[_Server] = []
        self._logs = tempfile.TemporaryDirectory(prefix="lictune-")

    def __enter__(self) -> Servers:
        self._handlers = {s: signal.signal(s, signal.default_int_handler) for s in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C would leave servers running
        for number in (signal.SIGTERM, signal.SIGKILL):
            for server in self._running:
                _signal_group(server.process, number)
            deadline = time.monotonic() + 10
            while any(_group_lives(server.process) for server in self._running):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.1)
        self._logs.cleanup()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def start(
        self, name: str, command: Sequence[str], address: str, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start a server; it answers at `address` once it is ready."""
        log = Path(self._logs.name) / f"{len(self._running)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env={**for_server(os.environ), **(environment or {})}, start_new_session=True,
            )  # fmt: skip
        self._running.append(_Server(name, address, process, log))

    def wait_until_ready(self) -> None:
        """Return once all servers answer. Raises ServerError."""
        deadline = time.monotonic() + _PATIENCE
        for server in self._running:
            while not _answers(server.address):
                self._check()
                if time.monotonic() > deadline:
                    raise ServerError(f"no answer from {server.name} after {_PATIENCE} s; try again")
                time.sleep(0.2)

    def watch(self) -> None:
        """Wait for Ctrl-C, which raises KeyboardInterrupt. Raises ServerError if a server ends first."""
        while True:
            self._check()
            time.sleep(0.5)

    def _check(self) -> None:
        for server in self._running:
            if server.process.poll() is not None:
                lines = server.log.read_text(errors="replace").strip().splitlines()
                raise ServerError(f"{server.name} ended ({lines[-1] if lines else 'without output'})")


def usable_port(wanted: int) -> int:
    """The wanted port, or a free one if it is in use."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServerError(f"no free port on {HOST}")


def fetch(address: str) -> bytes:
    """The answer of a local server, bypassing any proxy. Raises OSError."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(address, timeout=10) as answer:
        return bytes(answer.read())


def _answers(address: str) -> bool:
    try:
        fetch(address)
    except OSError:
        return False
    return True


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # reap the leader, or its group would still exist
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True
