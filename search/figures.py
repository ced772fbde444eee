"""Rate-distortion figures of a search, as PNG."""

from __future__ import annotations

from pathlib import Path

from search.records import MS_SSIM, PSNR, SearchRecords, TrialRecord
from search.results import best_per_rate, best_trial_per_rate

# Okabe and Ito's palette: told apart by people who do not see red and green apart.
COLOURS = {"y": "#0072B2", "z": "#E69F00", "y+z": "#009E73"}


def rd_figure(records: SearchRecords, strategies: tuple[str, ...], path: Path) -> Path:
    """PSNR and MS-SSIM over bpp on the test set: baselines, each strategy's best, the kept."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    anchors = {q: b for q, b in records.baselines.items() if b.last_epoch == records.epochs}
    figure, panes = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for pane, metric, label in zip(panes, (PSNR, MS_SSIM), ("PSNR (dB)", "MS-SSIM (dB)"), strict=True):
        _draw(pane, records, anchors, metric, color="black", marker="o", label="baseline (alpha 0)")
        for strategy in strategies:
            best = best_trial_per_rate(records, strategy)
            style = {"color": COLOURS[strategy], "marker": "^", "linestyle": "--", "alpha": 0.8}
            _draw(pane, records, best, metric, label=f"best of {strategy}", **style)
        kept = best_per_rate(records)
        style = {"color": "#D55E00", "marker": "*", "markersize": 11, "linewidth": 1.2}
        _draw(pane, records, kept, metric, label="kept", **style)
        pane.set_xlabel("rate (bits per pixel, entropy estimate)")
        pane.set_ylabel(label)
        pane.grid(alpha=0.3)
    if panes[0].lines:
        panes[0].legend()
    title = f"{records.name}: {len(records.trials)} trials, measured on {records.test_set}"
    figure.suptitle(title, parse_math=False)  # a '$' in a name is no formula
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path


def _draw(
    pane: object, records: SearchRecords, chosen: dict[int, TrialRecord], metric: str, **style: object
) -> None:
    figures = [record.readings[records.epochs] for _, record in sorted(chosen.items())]
    rate, quality = f"{records.test_set}/bpp", f"{records.test_set}/{metric}"
    points = [(f[rate], f[quality]) for f in figures if rate in f and quality in f]
    if points:
        pane.plot(*zip(*points, strict=True), **style)  # type: ignore[attr-defined]
