"""Where the processes that a test starts wait for connections."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator

import psutil

from tests.conftest import meanwhile

#: Seconds between two looks.
_EVERY = 0.3


@contextlib.contextmanager
def watched(seen: set[tuple[str, str, int]]) -> Iterator[None]:
    """Put into `seen` the name, address and port of every process below this one that waits meanwhile."""
    with meanwhile(lambda: seen.update(waiting(psutil.Process())), _EVERY):
        yield


def waiting(process: psutil.Process) -> set[tuple[str, str, int]]:
    """The name, address and port of every process below this one that waits for connections or datagrams."""
    found: set[tuple[str, str, int]] = set()
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            for bound in child.net_connections("inet"):
                datagrams = bound.type == socket.SOCK_DGRAM and not bound.raddr
                if datagrams or bound.status == psutil.CONN_LISTEN:
                    found.add((child.name(), bound.laddr.ip, bound.laddr.port))
    return found


def is_local(address: str) -> bool:
    """Whether only this machine can connect to it."""
    parsed = ipaddress.ip_address(address)
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback
