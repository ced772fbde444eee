"""The PNG figures show what the interactive ones show."""

from __future__ import annotations

import io
import itertools
import subprocess
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots

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


@pytest.mark.parametrize("low, high, wanted", [
    (3e-4, 5e-3, ["0.0005", "0.001", "0.002", "0.005"]), (1e-8, 1e-5, 4), (0.5, 4.0, ["0.5", "1", "2"]),
])  # fmt: skip
def test_labels_of_a_logarithmic_axis_do_not_overlap(
    low: float, high: float, wanted: list[str] | int
) -> None:
    source = make_subplots(rows=1, cols=3, subplot_titles=["a", "b", "c"])
    for column in (1, 2, 3):
        trace = go.Scatter(x=[low, high], y=[0, 1], mode="lines", line={"color": "#000000"})
        source.add_trace(trace, row=1, col=column)
    source.update_layout(height=300)
    source.update_xaxes(type="log", range=[np.log10(low), np.log10(high)])
    drawn = of_plotly(source)
    drawn.savefig(io.BytesIO())
    for pane in drawn.axes:
        inside = [
            label for which in ("major", "minor") for label in pane.get_xticklabels(which=which)
            if label.get_text() and low * 0.999 <= label.get_position()[0] <= high * 1.001
        ]  # fmt: skip
        assert len(inside) == wanted if isinstance(wanted, int) else [t.get_text() for t in inside] == wanted
        boxes = sorted((box.x0, box.x1) for box in (label.get_window_extent() for label in inside))
        assert all(left[1] < right[0] for left, right in itertools.pairwise(boxes))
