"""Figures drawn by matplotlib, for papers and READMEs; only `rd_figure` and `rd_plot` read records."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lic import atomic_io
from lic.evaluation.example import Example
from search.base.formats import fixed
from search.base.space import WITHOUT_TERM

if TYPE_CHECKING:
    from search.records.search_records import SearchRecords, TrialRecord

# Okabe and Ito's palette, for readers with red-green colour blindness.
COLOURS = {"y": "#0072B2", "z": "#E69F00", "y+z": "#009E73", WITHOUT_TERM: "#0072B2"}

#: Styles of the curves of the baseline and of the selected points.
BASELINE_STYLE = {"color": "black", "marker": "o"}
KEPT_STYLE = {"color": "#D55E00", "marker": "*", "markersize": 11, "linewidth": 1.2}

#: Colour maps for readers with colour blindness and for print; the second is centred at 0.
SEQUENTIAL, DIVERGING = "viridis", "PuOr"

#: Absolute correlations above this get the last colour; few exceed it except on the diagonal.
STRONG = 0.5

_DPI = 130


@dataclass(frozen=True)
class Drawn:
    """A rate-distortion curve to draw: points (bpp, PSNR in dB) and (bpp, MS-SSIM in dB), in order."""

    label: str
    psnr: list[tuple[float, float]]
    ms_ssim: list[tuple[float, float]]
    style: dict[str, Any] = field(default_factory=dict)


def strategy_style(strategy: str) -> dict[str, Any]:
    """The style of the curve of a strategy."""
    return {"color": COLOURS[strategy], "marker": "^", "linestyle": "--", "alpha": 0.8}


def rd_figure(records: SearchRecords, strategies: tuple[str, ...], path: Path) -> Path:
    """Write the rate-distortion curves as PNG; returns the path. Raises OSError."""
    return save(rd_plot(records, strategies), path)


def rd_plot(records: SearchRecords, strategies: tuple[str, ...]) -> Figure:
    """PSNR and MS-SSIM over bpp on the test set: baselines, the best of each strategy, the selected
    points."""
    from search.records.results import best_per_rate, best_trial_per_rate

    anchors = {q: b for q, b in records.baselines.items() if b.last_epoch == records.epochs}
    curves = [_drawn(records, anchors, "baseline (alpha 0)", BASELINE_STYLE)]
    for strategy in strategies:
        best = best_trial_per_rate(records, strategy)
        curves.append(_drawn(records, best, f"best of {strategy}", strategy_style(strategy)))
    curves.append(_drawn(records, best_per_rate(records), "selected", KEPT_STYLE))
    title = f"{records.name}: {len(records.trials)} trials, measured on {records.test_set}"
    return rd_curves(curves, title)


def _drawn(
    records: SearchRecords, chosen: dict[int, TrialRecord], label: str, style: dict[str, Any]
) -> Drawn:
    from search.records.search_records import MS_SSIM, PSNR

    figures = [record.readings[records.epochs] for _, record in sorted(chosen.items())]
    rate = f"{records.test_set}/bpp"
    psnr, ms_ssim = (
        [(f[rate], f[name]) for f in figures if rate in f and name in f]
        for name in (f"{records.test_set}/{metric}" for metric in (PSNR, MS_SSIM))
    )
    return Drawn(label, psnr, ms_ssim, style)


def rd_curves(curves: Sequence[Drawn], title: str) -> Figure:
    """The paper's figure 2: PSNR and MS-SSIM over bpp."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panes = figure.subplots(1, 2)
    for pane, metric, label in zip(panes, ("psnr", "ms_ssim"), ("PSNR (dB)", "MS-SSIM (dB)"), strict=True):
        for curve in curves:
            if points := getattr(curve, metric):
                pane.plot(*zip(*points, strict=True), label=curve.label, **curve.style)
        pane.set_xlabel("rate (bits per pixel, entropy estimate)")
        pane.set_ylabel(label)
        pane.grid(alpha=0.3)
    if panes[0].lines:
        panes[0].legend()
    figure.suptitle(title, parse_math=False)  # a '$' in a name must not start a formula
    return figure


def save(figure: Figure, path: Path, dpi: int = _DPI) -> Path:
    """Write a figure as PNG, atomically; returns the path. Raises OSError."""
    with atomic_io.replacing(path) as partial, warnings.catch_warnings():
        # Characters that matplotlib's font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure.savefig(partial, dpi=dpi)
    return path


def scale_of(*maps: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """The common colour range of several maps, so that they can be compared."""
    return float(min(part.min() for part in maps)), float(max(part.max() for part in maps))


def latents(examples: Sequence[Example], subject: str) -> Figure:
    """The paper's figure 4: per image, the feature maps and channel correlations of both models."""
    figure = Figure(figsize=(11, 2.3 * len(examples) + 0.5), layout="constrained")
    panes = figure.subplots(len(examples), 4, squeeze=False, width_ratios=[1.4, 1.4, 1, 1])
    for row, example in zip(panes, examples, strict=True):
        models = (example.baseline, example.tuned)
        low, high = scale_of(*(model.feature_map for model in models))
        for pane, model, name in zip(row[:2], models, ("baseline", "tuned"), strict=True):
            maps = pane.imshow(model.feature_map, cmap=SEQUENTIAL, vmin=low, vmax=high)
            _bare(pane, f"{example.name}, sum of y over channels: {name}")
        figure.colorbar(maps, ax=row[:2], shrink=0.75)
        for pane, model, name in zip(row[2:4], models, ("baseline", "tuned"), strict=True):
            matrix = pane.imshow(model.correlation, cmap=DIVERGING, vmin=-STRONG, vmax=STRONG)
            _bare(pane, f"correlation: {name}")
        row[3].set_xlabel(f"sum, tuned / baseline: {fixed(example.ratio, 2)}", fontsize=9)
        figure.colorbar(matrix, ax=row[2:4], shrink=0.75, extend="both")
    figure.suptitle(subject, fontsize=10, parse_math=False)
    return figure


def crops(examples: Sequence[Example], subject: str) -> Figure:
    """The paper's figure 3: per image, the same crop of the original and both reconstructions."""
    figure = Figure(figsize=(9.5, 3.5 * len(examples) + 0.4), layout="constrained")
    for row, example in zip(figure.subplots(len(examples), 3, squeeze=False), examples, strict=True):
        for pane, (caption, pixels) in zip(row, example.captioned(), strict=True):
            pane.imshow(pixels, interpolation="nearest")
            _bare(pane, caption)
    title = f"{subject}; bpp, PSNR and MS-SSIM of the whole image"
    figure.suptitle(title, fontsize=10, parse_math=False)
    return figure


def _bare(pane: Axes, title: str) -> None:
    pane.set_title(title, fontsize=9, parse_math=False)  # a '$' in a name must not start a formula
    pane.set_xticks([])
    pane.set_yticks([])
