"""The tutorial's notebook runs as it is written, in a kernel, and leaves no process behind."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import nbformat
import psutil
import pytest

from tests.docs import notebook


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = uuid.uuid4().hex
    monkeypatch.setenv("TUTORIAL_RUN", mark)  # which all that it starts inherits
    done = notebook.execute(notebook.read(), tmp_path)
    assert (tmp_path / "results" / "tutorial" / "report.html").is_file()
    assert list((tmp_path / "zoo").rglob("*.safetensors"))
    assert (tmp_path / "picture.lic").stat().st_size > 100
    shown = [output.get("data", {}) for cell in done.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in data for data in shown) == 2
    assert sum("text/html" in data for data in shown) == 2
    assert [process for process in psutil.process_iter() if is_of(process, mark)] == []


def is_of(process: psutil.Process, mark: str) -> bool:
    """Whether a process, other than this one, was started by the run with this mark."""
    try:
        return process.pid != os.getpid() and process.environ().get("TUTORIAL_RUN") == mark
    except psutil.Error:
        return False


def test_it_is_kept_with_what_it_shows() -> None:
    kept = notebook.read()
    nbformat.validate(kept)
    text, pictures = notebook.page(kept)
    assert len(pictures) == 2
    assert text.count("<table") == 2
    assert str(notebook.NOTEBOOK.parents[1]) not in nbformat.writes(kept)
    assert notebook.NOTEBOOK.stat().st_size < 1 << 18
