"""Files that are the old or the new one, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lic import atomic_io


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.json"
    atomic_io.write(target, "old")
    atomic_io.write(target, b"new")
    assert target.read_bytes() == b"new"
    assert [path.name for path in target.parent.iterdir()] == ["file.json"]


@pytest.mark.parametrize("step", ["write", "fsync", "replace", "fsync of the folder"])
def test_a_disk_that_is_full_at_any_step_tears_nothing(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, calls = tmp_path / "file.json", 0
    atomic_io.write(target, "old")

    def fail(*_args: object) -> None:
        nonlocal calls
        calls += 1
        if step != "fsync of the folder" or calls == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    name = {"write": "pathlib.Path.write_bytes", "replace": "pathlib.Path.replace"}.get(step, "os.fsync")
    with monkeypatch.context() as patch:
        patch.setattr(name, fail)
        with pytest.raises(OSError, match="No space left"):
            atomic_io.write(target, "new")
    assert target.read_text() == ("new" if step == "fsync of the folder" else "old")
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


def test_a_writer_that_is_killed_tears_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    code = (
        "import sys, itertools, pathlib; from lic import atomic_io\n"
        "target = pathlib.Path(sys.argv[1])\n"
        "for count in itertools.count(): atomic_io.write(target, bytes([count % 256]) * 999_999)"
    )
    draw = random.Random(0)
    for _ in range(8):
        target.unlink(missing_ok=True)
        with subprocess.Popen([sys.executable, "-c", code, str(target)]) as writer:
            while not target.exists():
                assert writer.poll() is None, "it ended by itself"
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.1))
            writer.kill()
        content = target.read_bytes()
        assert len(content) == 999_999 and len(set(content)) == 1
