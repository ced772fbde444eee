"""Atomic file writes: a file is written completely or not at all, even if the process is killed or power
fails."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Suffix of a file that is not complete yet.
PARTIAL = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write instead of `path`. If the context ends without an error, the file is flushed
    to disk and atomically replaces `path`; otherwise `path` is unchanged. Creates the folder if it does not
    exist. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes, even on two hosts, may write the same file; libraries infer the format from the suffix.
    own = f"{socket.gethostname()}-{os.getpid()}"
    partial = path.with_name(f".{path.stem}.{own}{PARTIAL}{path.suffix}")
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)  # flush the new name as well
    finally:
        partial.unlink(missing_ok=True)


def write(path: Path, content: bytes | str) -> None:
    """Replace a file atomically. Raises OSError."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
