"""The PNG figures show what the interactive ones show."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from dashboards import plots
from dashboards.png import of_plotly
from search.records.folder import open_search

Real = tuple[Path, subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("name", ["rd_curves", "response", "rungs"])
def test_every_pane_has_plotlys_points_title_and_range(real: Real, name: str) -> None:
    source = getattr(plots, name)(open_search("real", real[0]))
    panes = of_plotly(source).axes
    assert [pane.get_title() for pane in panes] == [title.text for title in source.layout.annotations]
    for number, pane in enumerate(panes, 1):
        suffix = "" if number == 1 else str(number)
        traces = [t for t in source.data if (t.xaxis or "x") == f"x{suffix}" and t.visible != "legendonly"]
        drawn = {
            (round(float(x), 9), round(float(y), 6))
            for line in pane.lines
            for x, y in zip(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), strict=True)
        }
        points = [t for t in traces if t.type == "scatter" and t.fill is None]
        wanted = {
            (round(float(x), 9), round(float(y), 6)) for t in points for x, y in zip(t.x, t.y, strict=True)
        }
        assert wanted <= drawn
        assert len(drawn - wanted) <= 2 * len(source.layout.shapes)  # the lines at zero
        assert len(pane.patches) == sum(len(t.x) if t.type == "bar" else t.fill is not None for t in traces)
        limits = source.layout[f"yaxis{suffix}"].range
        if limits is not None:
            assert pane.get_ylim() == pytest.approx(limits)
        across = source.layout[f"xaxis{suffix}"]
        if across.type == "log":
            assert np.log10(pane.get_xlim()) == pytest.approx(across.range)
