"""Files that are written whole or not at all, also when the process is killed or the power fails."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: How the name of a file that is not whole yet ends.
PARTIAL = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write in place of `path`: when the context ends well, what is there has reached the disk and
    is `path` at once; when it does not, `path` is what it was. Its folder is made if it is not there. Raises
    OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes, on two hosts even, may write the same file; the ending tells libraries the format.
    own = f"{socket.gethostname()}-{os.getpid()}"
    partial = path.with_name(f".{path.stem}.{own}{PARTIAL}{path.suffix}")
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)  # the new name, too
    finally:
        partial.unlink(missing_ok=True)


def write(path: Path, content: bytes | str) -> None:
    """Write a file so that it is the old or the new one, never a part. Raises OSError."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
