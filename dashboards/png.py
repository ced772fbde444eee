"""Writes the report's figures as PNG files, for papers and READMEs. matplotlib draws them from the Plotly
figures, so both show the same points."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from dashboards.examples import Examples
from search.records.figures import crops, latents, save

_DPI = 160
_WIDTH = 11.0  # inches; one Plotly pixel of height is 1/100 inch
_POINTS = 0.75  # points per Plotly pixel

#: Up to this ratio of the ends of a logarithmic axis there are labels between the powers of ten.
_FEW_DECADES = 300

_MARKERS = {
    "circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "star": "*", "star-open": "*",
    "arrow-up": "^", "arrow-down": "v",
}  # fmt: skip
_DASHES = {None: "-", "solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}


def write(figures: dict[str, go.Figure], found: Examples | None, folder: Path) -> list[Path]:
    """Write NAME.png for each interactive figure, and latents.png and crops.png for the example images;
    returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {name: of_plotly(figure) for name, figure in figures.items()}
    if found is not None:
        drawn |= {
            "latents": latents(found.images, found.subject),
            "crops": crops(found.images, found.subject),
        }
    paths = []
    for name, figure in drawn.items():
        paths.append(save(figure, folder / f"{name}.png", _DPI))
    return paths


def of_plotly(source: go.Figure) -> Figure:
    """Convert a figure of dashboards.plots to matplotlib: lines, markers, filled areas and grouped bars on
    linear and logarithmic axes, with the same panes, titles, ranges and legend."""
    figure = Figure(figsize=(_WIDTH, source.layout.height / 100))
    panes = _panes(source, figure)
    handles: dict[str, Artist] = {}
    for number, pane in panes.items():
        traces = [t for t in source.data if (t.xaxis or "x") == f"x{number}" and t.visible != "legendonly"]
        bars = sum(trace.type == "bar" for trace in traces)
        for place, trace in enumerate(traces):  # bars first; later traces are drawn on top
            bar = trace.type == "bar"
            handle = _bar(pane, trace, place, bars) if bar else _scatter(pane, trace, place + 2)
            if trace.name and trace.showlegend is not False:
                handles.setdefault(trace.name, handle)
        _axes(pane, source.layout[f"xaxis{number}"], source.layout[f"yaxis{number}"])
        for shape in source.layout.shapes:
            if shape.yref == f"y{number}":
                pane.axhline(shape.y0, color=shape.line.color, linewidth=shape.line.width, zorder=1)
    for pane, title in zip(panes.values(), source.layout.annotations, strict=True):
        pane.set_title(html.unescape(title.text), fontsize=10, parse_math=False)
    names = list(handles)
    lines = [handles[name] for name in names]
    figure.legend(lines, names, loc="lower center", ncols=6, frameon=False, fontsize=8.5)
    return figure


def _panes(source: go.Figure, figure: Figure) -> dict[str, Axes]:
    """Axes at the places of Plotly's panes, by pane number ('', '2', '3', ...), in that order."""
    left, right = 0.065, 0.985  # fractions of the width
    bottom, top = (inches / figure.get_figheight() for inches in (1.05, 0.4))
    # Plotly lists a layout's parts in no fixed order; make_subplots orders the titles by pane number.
    numbers = [found[1] for key in source.layout if (found := re.fullmatch(r"xaxis(\d*)", key))]
    panes = {}
    for number in sorted(numbers, key=lambda text: int(text or 1)):
        (x0, x1), (y0, y1) = (source.layout[f"{axis}axis{number}"].domain for axis in "xy")
        width, height = right - left, 1 - bottom - top
        panes[number] = figure.add_axes(
            (left + x0 * width, bottom + y0 * height, (x1 - x0) * width, (y1 - y0) * height)
        )
    return panes


def _axes(pane: Axes, across: Any, up: Any) -> None:
    for layout, axis, scale, limits, label, ticks in (
        (across, pane.xaxis, pane.set_xscale, pane.set_xlim, pane.set_xlabel, pane.set_xticks),
        (up, pane.yaxis, pane.set_yscale, pane.set_ylim, pane.set_ylabel, pane.set_yticks),
    ):
        logarithmic = layout.type == "log"
        if logarithmic:
            scale("log")
        if layout.range is not None:
            limits(*(10**end if logarithmic else end for end in layout.range))
        if logarithmic:
            _log_ticks(axis)
        if layout.ticktext is not None:
            ticks(layout.tickvals, layout.ticktext)
        label(html.unescape(layout.title.text or ""), fontsize=9, parse_math=False)
    pane.grid(alpha=0.3, linewidth=0.6)
    pane.set_axisbelow(True)
    pane.spines[["top", "right"]].set_visible(False)
    pane.tick_params(labelsize=8.5)


def _log_ticks(axis: Axis) -> None:
    """Label 1, 2 and 5 of each decade where there are few: Matplotlib labels all of 1 to 9, which overlap."""
    low, high = axis.get_view_interval()
    if high / low < _FEW_DECADES:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())


def _bar(pane: Axes, trace: Any, place: int, count: int) -> Artist:
    width = 0.8 / count
    at = np.arange(len(trace.x)) - 0.4 + width * (place + 0.5)
    pane.bar(at, trace.y, width, color=trace.marker.color)
    pane.set_xticks(np.arange(len(trace.x)), trace.x)
    return Patch(color=trace.marker.color)


def _scatter(pane: Axes, trace: Any, order: int) -> Artist:
    if trace.fill == "toself":
        pane.fill(trace.x, trace.y, color=_colour(trace.fillcolor), linewidth=0, zorder=order)
        return Patch(color=_colour(trace.fillcolor))
    with_lines, with_markers = "lines" in trace.mode, "markers" in trace.mode
    colour = _colour(trace.line.color or trace.marker.color)
    style: dict[str, Any] = {
        "linestyle": _DASHES[trace.line.dash] if with_lines else "none",
        "linewidth": trace.line.width or 1.5, "color": colour, "alpha": trace.opacity,
        "zorder": order,
    }  # fmt: skip
    symbols, sizes = trace.marker.symbol or "circle", trace.marker.size
    if isinstance(symbols, str):
        if with_markers:
            style |= {"marker": _MARKERS[symbols], "markersize": _POINTS * (sizes or 6)}
        if symbols.endswith("-open"):
            style |= {"markerfacecolor": "none", "markeredgewidth": 1.5}
        return pane.plot(trace.x, trace.y, **style)[0]
    for x, y, symbol, size in zip(trace.x, trace.y, symbols, sizes, strict=True):
        pane.plot(
            x, y, _MARKERS[symbol], color=colour, markersize=_POINTS * size, alpha=trace.marker.opacity,
            markeredgewidth=0, zorder=order,
        )  # fmt: skip
    usual = next((symbol for symbol in symbols if not symbol.startswith("arrow")), "circle")
    return Line2D([], [], linestyle="none", marker=_MARKERS[usual], color=colour, markersize=6)


def _colour(text: str) -> tuple[float, float, float, float]:
    """Convert a Plotly colour, #RRGGBB or rgba(R, G, B, A), to RGBA values from 0 to 1."""
    if not text.startswith("rgba"):
        return to_rgba(text)
    red, green, blue, alpha = (float(part) for part in text[5:-1].split(","))
    return red / 255, green / 255, blue / 255, alpha
