"""The interactive figures of the report, drawn from the records of a search."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboards.examples import Examples
from lic.evaluation.decibels import ms_ssim_to_db
from lic.models.architectures import architecture
from search.base.dimensions import Dimension, Value, shown_value
from search.base.formats import percent
from search.base.space import WITHOUT_TERM, SearchPoint
from search.decide.belief import Prediction
from search.records.figures import COLOURS
from search.records.folder import OpenedSearch
from search.records.response import CEILING, axis_floor, last_change
from search.records.results import best_per_rate, best_trial_per_rate
from search.records.search_records import FAILED, MS_SSIM, PSNR, STOPPED, TrialRecord

#: Strategies differ in shape as well as in colour, for readers who do not see some colours.
SYMBOLS = {"y": "circle", "z": "diamond", "y+z": "triangle-up", WITHOUT_TERM: "circle"}
SELECTED, BASELINE, REFERENCE = "#D55E00", "#7F7F7F", "#A0A0A0"

_RESAMPLES = 1000

#: The model's prediction by the place on the horizontal axis.
_Curve = dict[float, Prediction]


def rd_curves(search: OpenedSearch) -> go.Figure:
    """PSNR and MS-SSIM over bpp on the test set: baselines, the best of each strategy, the selected points
    with the 95 % interval of their paired difference to the baseline, and published codecs on Kodak."""
    figure = make_subplots(1, 2, subplot_titles=("PSNR", "MS-SSIM"), horizontal_spacing=0.08)
    records, kept = search.records, best_per_rate(search.records)
    chosen = {f"best of {s}": best_trial_per_rate(records, s) for s in search.plan.strategies}
    anchors = {q: b for q, b in records.baselines.items() if q in kept}
    for pane, metric in enumerate((PSNR, MS_SSIM), 1):
        style = {"color": BASELINE, "symbol": "square"}
        _rd_trace(figure, pane, search, anchors, metric, "baseline (alpha 0)", style)
        for name, found in chosen.items():
            strategy = name.rpartition(" ")[2]
            style = {"color": COLOURS[strategy], "symbol": SYMBOLS[strategy], "dash": "dash"}
            _rd_trace(figure, pane, search, found, metric, name, style)
        star = {"color": SELECTED, "symbol": "star", "size": 11}
        _rd_trace(figure, pane, search, kept, metric, "selected", star)
        _band(figure, pane, search, kept, metric)
        for name, points in _published(search):
            quality = points["psnr"] if metric == PSNR else ms_ssim_to_db(points["ms_ssim"].to_numpy())
            figure.add_scatter(
                x=points["bpp"], y=quality, mode="lines", name=name, legendgroup=name,
                line={"color": REFERENCE, "dash": "dot" if name == "VTM" else "dashdot", "width": 1.2},
                showlegend=pane == 1, visible=True if records.test_set == "kodak" else "legendonly",
                row=1, col=pane,
            )  # fmt: skip
        figure.update_xaxes(
            title=f"bits per pixel on {_plain(records.test_set)} (entropy estimate)", col=pane
        )
        figure.update_yaxes(title="PSNR, dB" if metric == PSNR else "MS-SSIM, dB", col=pane)
    _zoom(figure, search, {**chosen, "selected": kept, "baseline": anchors})
    return _finish(figure, 480)


def _rd_trace(
    figure: go.Figure,
    pane: int,
    search: OpenedSearch,
    chosen: dict[int, TrialRecord],
    metric: str,
    name: str,
    style: dict[str, Any],
) -> None:
    points = [(record, *point) for record in chosen.values() if (point := _point(search, record, metric))]
    points.sort(key=lambda point: point[1])
    figure.add_scatter(
        x=[rate for _, rate, _ in points], y=[quality for _, _, quality in points], name=name,
        mode="lines+markers", legendgroup=name, showlegend=pane == 1,
        line={"color": style["color"], "dash": style.get("dash", "solid"), "width": 1.6},
        marker={"symbol": style["symbol"], "size": style.get("size", 8), "color": style["color"]},
        text=[_hover(record) for record, _, _ in points],
        hovertemplate="%{text}<br>%{x:.4f} bpp, %{y:.3f} dB<extra></extra>", row=1, col=pane,
    )  # fmt: skip


def _point(search: OpenedSearch, record: TrialRecord, metric: str) -> tuple[float, float] | None:
    metrics = record.readings.get(search.records.epochs, {})
    rate, quality = (metrics.get(f"{search.records.test_set}/{name}") for name in ("bpp", metric))
    return None if rate is None or quality is None else (rate, quality)


def _hover(record: TrialRecord) -> str:
    place = f"{record.point.description}, epoch {record.last_epoch}"
    return f"<b>{_plain(record.name)}</b> (quality {record.quality})<br>{place}"


def _band(
    figure: go.Figure, pane: int, search: OpenedSearch, kept: dict[int, TrialRecord], metric: str
) -> None:
    """The 95 % interval of the selected points' quality relative to the baselines, by bootstrap over the
    images."""
    epoch, test_set = search.records.epochs, search.records.test_set
    column, draw, rows = "psnr" if metric == PSNR else "ms_ssim", np.random.default_rng(0), []
    for quality, record in kept.items():
        columns = [
            r.images.get(epoch, {}).get(f"{test_set}/{column}")
            for r in (record, search.records.baselines[quality])
        ]
        point = _point(search, record, metric)
        if point is None or None in columns:
            continue
        own, other = (np.array(values) for values in columns)
        images = draw.integers(len(own), size=(_RESAMPLES, len(own)))
        # Only the paired difference is resampled; the baseline stays at its mean over all images.
        means = other.mean() + (own - other)[images].mean(axis=1)
        low, high = np.percentile(means, [2.5, 97.5])
        if metric == MS_SSIM:
            low, high = ms_ssim_to_db(np.array([low, high]))
        rows.append((point[0], low, high))
    if not rows:
        return
    rates, lows, highs = zip(*sorted(rows), strict=True)
    figure.add_scatter(
        x=[*rates, *rates[::-1]], y=[*lows, *highs[::-1]], fill="toself", mode="none",
        name="selected, 95 % interval",
        fillcolor="rgba(213, 94, 0, 0.18)", legendgroup="band", showlegend=pane == 1, hoverinfo="skip",
        row=1, col=pane,
    )  # fmt: skip


def _published(search: OpenedSearch) -> Iterator[tuple[str, pd.DataFrame]]:
    table = pd.read_csv(Path(__file__).with_name("anchors.csv"))
    own = architecture(search.settings.model)
    for name, points in table[table["architecture"].isna() | (table["architecture"] == own)].groupby("codec"):
        yield str(name), points


def _zoom(figure: go.Figure, search: OpenedSearch, drawn: dict[str, dict[int, TrialRecord]]) -> None:
    """Set the initial axis ranges to the search's own curves; published ones may lie far away."""
    for pane, metric in enumerate((PSNR, MS_SSIM), 1):
        points = [_point(search, r, metric) for found in drawn.values() for r in found.values()]
        there = np.array([point for point in points if point is not None])
        if len(there):
            low, high = there.min(0), there.max(0)
            edge = 0.08 * np.maximum(high - low, 1e-3)
            for axis, k in ((figure.update_xaxes, 0), (figure.update_yaxes, 1)):
                axis(range=[low[k] - edge[k], high[k] + edge[k]], col=pane)


@dataclass(frozen=True)
class _Axis:
    """The horizontal axis of a response: alpha, or a tuned setting."""

    dimension: Dimension | None = None

    def of(self, record: TrialRecord) -> float:
        """Where a trial is drawn; of choices, at the number of its choice."""
        if self.dimension is None:
            return record.alpha
        return self._place(dict(record.tuned)[self.dimension.name])

    def _place(self, value: Value) -> float:
        if self.dimension is not None and self.dimension.choices:
            return float(self.dimension.choices.index(value))
        return float(value)

    def curve(self, search: OpenedSearch, record: TrialRecord | None, point: SearchPoint) -> _Curve:
        """The model's prediction along the axis, with the other settings of a selected record."""
        tuned = record.tuned if record is not None else ()
        if self.dimension is None:
            return search.response(point.quality, str(point.strategy), tuned=tuned)
        if record is not None and not record.point.is_baseline and record.strategy != point.strategy:
            return {}
        found = search.tuned_response(record.point if record else point, self.dimension)
        return {self._place(value): expected for value, expected in found.items()}

    def layout(self, search: OpenedSearch) -> dict[str, Any]:
        """Title, scale and range, as Plotly takes them."""
        dimension = self.dimension
        if dimension is None:
            ends = np.log10([search.plan.alpha_min / 1.2, search.plan.alpha_max * 1.2]).tolist()
            return {"type": "log", "title": "alpha", "exponentformat": "power", "dtick": 1, "range": ends}
        if dimension.choices:
            names = [shown_value(choice) for choice in dimension.choices]
            return {"title": dimension.name, "tickvals": list(range(len(names))), "ticktext": names,
                    "range": [-0.5, len(names) - 0.5]}  # fmt: skip
        ends = [dimension.low, dimension.high]
        ends = np.log10(ends).tolist() if dimension.log else ends
        edge = 0.04 * (ends[1] - ends[0])
        scale = "log" if dimension.log else "linear"
        return {"type": scale, "title": dimension.name, "range": [ends[0] - edge, ends[1] + edge]}


def response(search: OpenedSearch, dimension: Dimension | None = None) -> go.Figure:
    """Rate change over alpha, or over a tuned setting, one pane per quality: all trials, sized by their
    epochs, the surrogate model's prediction for full training with two standard deviations (with the other
    settings of the selected trial), and the selected trial."""
    axis, qualities = _Axis(dimension), search.plan.qualities
    columns = min(3, len(qualities))
    rows = -(-len(qualities) // columns)
    titles = [f"quality {q}, lambda {search.plan.point(q).lmbda:g}" for q in qualities]
    figure = make_subplots(
        rows, columns, subplot_titles=titles, shared_yaxes="all", vertical_spacing=0.36 / rows
    )
    chosen = best_per_rate(search.records)
    kept = {q: record for q, record in chosen.items() if not record.point.is_baseline}
    named: set[str] = set()
    for place, quality in enumerate(qualities):
        cell = {"row": place // columns + 1, "col": place % columns + 1}
        for strategy in search.plan.strategy_names:
            trials = [
                t
                for t in search.records.trials
                if (t.quality, t.strategy_name) == (quality, strategy)
                and last_change(search.records, t) is not None
            ]
            own = strategy if strategy in search.plan.strategies else None
            _model_band(
                figure, axis.curve(search, chosen.get(quality), SearchPoint(quality, own)), strategy, cell
            )
            # Named in the first pane that has trials: Plotly's legend omits a trace without points.
            _trials(figure, search, trials, strategy, cell, bool(trials) and strategy not in named, axis)
            named |= {trial.strategy_name for trial in trials}
        record = kept.get(quality)
        if record is not None:
            figure.add_scatter(
                x=[axis.of(record)], y=[min(last_change(search.records, record) or 0.0, CEILING)],
                mode="markers", name="selected", legendgroup="selected",
                marker={"symbol": "star-open", "size": 18, "color": SELECTED, "line": {"width": 2}},
                showlegend=quality == min(kept),
                hoverinfo="skip", **cell,
            )  # fmt: skip
        figure.add_hline(y=0, line={"color": BASELINE, "width": 1}, **cell)
    figure.update_xaxes(**axis.layout(search))
    figure.update_yaxes(range=[axis_floor(search.records) * 1.05, CEILING * 1.05])
    figure.update_yaxes(title="rate change, %", col=1)
    return _finish(figure, 330 * rows + 60)


def _trials(
    figure: go.Figure,
    search: OpenedSearch,
    trials: list[TrialRecord],
    strategy: str,
    cell: dict[str, Any],
    legend: bool,
    axis: _Axis,
) -> None:
    measured = [(t, change) for t in trials if (change := last_change(search.records, t)) is not None]
    texts = [
        f"<b>{_plain(t.name)}</b> ({t.state})<br>{t.point.description}<br>"
        f"epoch {t.last_epoch}: {percent(change)}"
        for t, change in measured
    ]
    floor = axis_floor(search.records)
    arrows = {True: "arrow-up", False: "arrow-down"}
    figure.add_scatter(
        x=[axis.of(t) for t, _ in measured], y=[min(max(change, floor), CEILING) for _, change in measured],
        mode="markers", name=f"trials of {strategy}", legendgroup=strategy, showlegend=legend,
        marker={
            "symbol": [
                SYMBOLS[strategy] if floor <= c <= CEILING else arrows[c > CEILING] for _, c in measured
            ],
            "color": COLOURS[strategy], "opacity": 0.85,
            "size": [7 + 7 * t.last_epoch / search.records.epochs for t, _ in measured],
        },
        text=texts, hovertemplate="%{text}<extra></extra>", **cell,
    )  # fmt: skip


def _model_band(figure: go.Figure, found: _Curve, strategy: str, cell: dict[str, Any]) -> None:
    if not found:
        return
    alphas, expected = list(found), list(found.values())
    edges = [_clipped(expected, 2.0), _clipped(expected, -2.0)[::-1]]
    figure.add_scatter(
        x=[*alphas, *alphas[::-1]], y=[*edges[0], *edges[1]], fill="toself", mode="none",
        fillcolor=_translucent(COLOURS[strategy]), legendgroup=strategy, showlegend=False, hoverinfo="skip",
        **cell,
    )  # fmt: skip
    figure.add_scatter(
        x=alphas, y=_clipped(expected, 0.0), mode="lines", legendgroup=strategy, showlegend=False,
        line={"color": COLOURS[strategy], "width": 1.5}, hoverinfo="skip", **cell,
    )  # fmt: skip


def _clipped(expected: list[Prediction], sigmas: float) -> list[float]:
    return [min(e.mean + sigmas * e.std, CEILING * 1.05) for e in expected]


def _translucent(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.13)"


def rungs(search: OpenedSearch) -> go.Figure:
    """How many trials of each quality reached each rung, and the learning curves relative to the baseline."""
    levels = (*search.plan.rungs, search.records.epochs)
    figure = make_subplots(
        1, 2, subplot_titles=("Trials that reached each rung", "Learning curves"), column_widths=[0.35, 0.65]
    )
    shades = ("#9FD3F2", "#56B4E9", "#0072B2", "#2F5D8C")  # each visible on white and on black
    for place, level in enumerate(levels):
        counts = [
            sum(t.quality == q and t.last_epoch >= level for t in search.records.trials)
            for q in search.plan.qualities
        ]
        figure.add_bar(
            x=[f"q{q}" for q in search.plan.qualities], y=counts, row=1, col=1,
            name=f"epoch {level}", marker={"color": shades[place % len(shades)]},
            hovertemplate=f"%{{y}} trials reached epoch {level}<extra></extra>",
        )  # fmt: skip
    seen: set[str] = set()
    for trial in search.records.trials:
        changes = {e: change for e in sorted(trial.readings) if (change := _at(search, trial, e)) is not None}
        strategy, dash = trial.strategy_name, "dot" if trial.state == STOPPED else "solid"
        figure.add_scatter(
            x=list(changes), y=[min(change, CEILING) for change in changes.values()], mode="lines+markers",
            name=strategy, legendgroup=strategy, showlegend=strategy not in seen,
            line={"color": COLOURS[strategy], "width": 1, "dash": dash},
            marker={"size": 5, "symbol": SYMBOLS[strategy]},
            opacity=0.35 if trial.state == FAILED else 0.85,
            hovertemplate=f"<b>{_plain(trial.name)}</b> (q{trial.quality}, {trial.state})<br>"
            f"{trial.point.description}<br>epoch %{{x}}: %{{text}}<extra></extra>",
            text=[percent(change) for change in changes.values()],  # the value, even if drawn at the edge
            row=1, col=2,
        )  # fmt: skip
        seen.add(strategy)
    figure.update_xaxes(title="quality", row=1, col=1)
    figure.update_yaxes(title="number of trials", row=1, col=1)
    figure.update_xaxes(title="epoch", row=1, col=2)
    figure.update_yaxes(
        title="rate change, %", range=[axis_floor(search.records), CEILING * 1.05], row=1, col=2
    )
    return _finish(figure.update_layout(barmode="group"), 420)


def _at(search: OpenedSearch, trial: TrialRecord, epoch: int) -> float | None:
    return search.records.rate_change(trial, epoch, search.records.selection)


def channel_bits(found: Examples) -> go.Figure:
    """Bits per channel of y in descending order, one pane per image: baseline and tuned model."""
    images = found.images
    titles = [f"{_plain(example.name)}: bits per channel of y, sorted" for example in images]
    figure = make_subplots(1, len(images), subplot_titles=titles, horizontal_spacing=0.08)
    for pane, example in enumerate(images, 1):
        for name, model, colour, dash in (
            ("baseline", example.baseline, BASELINE, "solid"),
            ("tuned", example.tuned, SELECTED, "dash"),
        ):
            channels = np.argsort(-model.channel_bits, kind="stable")
            figure.add_scatter(
                x=list(range(1, len(channels) + 1)), y=model.channel_bits[channels].tolist(),
                mode="lines", name=name, legendgroup=name, showlegend=pane == 1,
                line={"color": colour, "dash": dash, "width": 2},
                text=[f"{name}, channel {channel}" for channel in channels],
                hovertemplate="%{text}: %{y:.0f} bits<extra></extra>", row=1, col=pane,
            )  # fmt: skip
        top = max(model.channel_bits.max() for model in (example.baseline, example.tuned))
        figure.update_yaxes(range=[0, 1.05 * top], col=pane)
    figure.update_xaxes(title="channel, sorted by bits")
    figure.update_yaxes(title="bits", col=1)
    return _finish(figure, 340)


def _plain(name: str) -> str:
    """Escape a user-given name for Plotly, whose texts render HTML such as links."""
    return html.escape(name)


def _finish(figure: go.Figure, height: int) -> go.Figure:
    """The layout that all figures share; the page sets text and grid colours for dark and light mode."""
    return figure.update_layout(
        template="none", height=height, margin={"l": 60, "r": 20, "t": 50, "b": 90},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", hovermode="closest",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": REFERENCE, "activecolor": SELECTED},
        legend={"orientation": "h", "yref": "container", "y": 0.01, "yanchor": "bottom"}, font={"size": 12},
    )  # fmt: skip
