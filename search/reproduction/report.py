"""The results of a reproduction: the paper's Tables I to III and figures 2 to 4, with the paper's numbers
beside the new ones, and supporting tables. Needs only the records in the state folder; figures 3 and 4 come
from examples.npz, which a run writes there."""

from __future__ import annotations

import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lic import atomic_io
from lic.evaluation.bdrate import Interval
from lic.evaluation.decibels import ms_ssim_to_db
from lic.evaluation.example import Example
from lic.evaluation.latents import Examined
from lic.models.architectures import architecture
from lic.paper import BD_RATES, CORRELATION_RATIOS, TRAINING_TIME
from search.base.formats import MISSING, interval
from search.base.space import BASELINE, SearchPoint
from search.base.text_table import TextTable, text_console
from search.records import figures
from search.reproduction import evidence
from search.reproduction.evidence import BEST
from search.reproduction.protocol import CHOSEN_ON, SELECTION, Protocol, Record, Records
from search.reproduction.training_time import TrainingTime

TABLES, FIGURES, EXAMPLES = "tables.md", "figures", "examples.npz"


#: Sentences and tables, in order.
Parts = list[str | TextTable]


def write(protocol: Protocol, records: Records, state: Path) -> Parts:
    """Write tables.md and figures/ into the state's folder; returns the tables. Raises OSError."""
    parts = tables(protocol, records)
    atomic_io.write(state / TABLES, markdown(parts))
    drawn = {"rd": rd_curves(protocol, records), "response": response(protocol, records),
             "correlation": correlation(protocol, records)}  # fmt: skip
    if (found := load_examples(state)) is not None:
        subject, examples = found
        drawn |= {"crops": figures.crops(examples, subject), "latents": figures.latents(examples, subject)}
    for name, figure in drawn.items():
        figures.save(figure, state / FIGURES / f"{name}.png")
    return parts


def markdown(parts: Parts) -> str:
    """Sentences and tables as Markdown."""
    return "\n\n".join(part if isinstance(part, str) else part.markdown() for part in parts) + "\n"


def show(parts: Parts) -> None:
    """Print sentences and tables: fitted to the terminal, or as Markdown if redirected."""
    console = text_console()
    if not console.is_terminal:
        print(markdown(parts))
        return
    for part in parts:
        if isinstance(part, str):
            console.print(f"{part}\n", markup=False, soft_wrap=False)
        else:
            console.print(part)


def tables(protocol: Protocol, records: Records) -> Parts:
    """All tables, with the sentences between them."""
    fresh = protocol.seeds - CHOSEN_ON - 1
    head = (
        f"{architecture(protocol.model)}, {protocol.width} channels: {len(records)} training runs of "
        f"{protocol.steps:,} steps ({100 * protocol.fraction:g} % of the paper's), batches of "
        f"{protocol.training['batch']} patches of {protocol.training['patch']}x{protocol.training['patch']}, "
        f"seed {CHOSEN_ON} for selection and {fresh} fresh seeds."
    )
    verdicts = evidence.verdicts(records, protocol)
    found = evidence.response(records, protocol)
    parts: Parts = [
        head,
        *_bd_rates(protocol, verdicts),
        _answer(verdicts),
        _table("Table III: training time", _times(evidence.times(records))),
        _table(
            f"Baselines on {protocol.test_set}: mean and standard deviation over seeds",
            _baselines(evidence.baselines(records, protocol)),
        ),
        _table(
            "Selected points (rate change in percent)",
            _renamed(evidence.points(records, protocol), protocol),
        ),
        _table("Rate change by alpha (percent, on the validation images)", _wide(found)),
        _table(
            "Seed noise: BD-rate in percent between baselines that differ only in the seed",
            evidence.seed_noise(records, protocol),
        ),
        "Seed noise per quality: rate change in percent against the baseline of the first seed, on both "
        f"image sets and on the image of {protocol.test_set} with the largest difference:",
        _table("", evidence.rate_noise(records, protocol)),
        _table(
            "Convergence of the baselines: J above its final value, in percent of the final rate",
            evidence.flatness(records, protocol),
        ),
        _table(
            "Channel correlation (tuned / baseline) and rate change",
            _renamed(_correlations(found), protocol),
        ),
        _table("", evidence.relation(found)),
        _table(
            "Selection on the validation images or on the test images (mean rate change in percent)",
            evidence.optimism(records, protocol),
        ),
    ]
    return [part for part in parts if part]


def _bd_rates(protocol: Protocol, found: pd.DataFrame) -> Parts:
    """Table I (cheng) or II (hyperprior), one table per metric."""
    number = "II" if "hyperprior" in architecture(protocol.model) else "I"
    paper = BD_RATES.get(architecture(protocol.model), {})
    parts: Parts = []
    for place, (metric, name) in enumerate((("psnr", "PSNR"), ("ms_ssim", "MS-SSIM"))):
        rows = []
        for strategy, part in found[found["metric"] == metric].groupby("strategy", sort=False):
            by = {row["seeds"]: row for row in part.to_dict("records")}
            fresh = by["fresh"]
            reported = paper.get(str(strategy))
            rows.append({
                "strategy": strategy,
                "BD-rate, selection seed": _interval(by["chosen on"]),
                "BD-rate, fresh seeds": _interval(fresh),
                "per seed": ", ".join(f"{value:+.2f}" for value in fresh["by_seed"]) or "-",
                f"BD-{name}": "-" if math.isnan(fresh["bd_quality"]) else f"{fresh['bd_quality']:+.3f} dB",
                "paper": "-" if reported is None else f"{reported[place]:+.2f} %",
            })  # fmt: skip
        parts.append(_table(f"Table {number}: BD-rate on {protocol.test_set} by {name}", pd.DataFrame(rows)))
    reasons = dict.fromkeys(reason for reason in found["refused"] if reason)
    return [*parts, *(f"No value: {reason}." for reason in reasons)]


def _answer(found: pd.DataFrame) -> str:
    """Whether any strategy saves bits beyond the variation over seeds and images, in words."""
    sentences = []
    for row in found[(found["metric"] == "psnr") & (found["seeds"] == "fresh")].to_dict("records"):
        if not math.isnan(row["bd_rate"]):
            below = (
                "below zero"
                if row["high"] < 0
                else "above zero"
                if row["low"] > 0
                else "not different from zero"
            )
            sentences.append(f"{row['strategy']}: {below} ({_interval(row)})")
    return (
        f"BD-rate (PSNR) on fresh seeds, over seeds and images: {'; '.join(sentences)}." if sentences else ""
    )


def _baselines(table: pd.DataFrame) -> pd.DataFrame:
    digits = {"bpp": 4, "psnr": 3, "ms_ssim": 3}
    shown = table[["quality", "lambda", "seeds"]].astype({"lambda": str})
    for name, label in (("bpp", "bpp"), ("psnr", "PSNR, dB"), ("ms_ssim", "MS-SSIM, dB")):
        if name in table:
            shown[label] = [
                "-"
                if math.isnan(mean)
                else f"{mean:.{digits[name]}f}" + ("" if math.isnan(sd) else f" ± {sd:.{digits[name]}f}")
                for mean, sd in zip(table[name], table[f"{name} sd"], strict=True)
            ]
    return shown


def _interval(row: dict[Hashable, Any]) -> str:
    return (
        MISSING if math.isnan(row["bd_rate"]) else interval(Interval(row["bd_rate"], row["low"], row["high"]))
    )


def _times(found: list[TrainingTime]) -> pd.DataFrame:
    rows = [
        {
            "strategy": row.strategy, "training runs": str(row.trainings),
            "ms per step": f"{1000 * row.seconds:.1f}", "increase": interval(row.increase, 1),
        }
        for row in found
    ]  # fmt: skip
    low, high = TRAINING_TIME
    return pd.DataFrame([*rows, {"strategy": "paper", "increase": f"+{low:g} to +{high:g} %"}])


def _wide(table: pd.DataFrame) -> pd.DataFrame:
    """One row per quality and strategy, one column per alpha."""
    if table.empty:
        return table
    wide = table.pivot_table(
        index=["quality", "strategy"], columns="alpha", values="on_selection", sort=False
    )
    wide = wide.sort_index(axis=1)
    wide.columns = [f"{alpha:.3g}" for alpha in wide.columns]
    return wide.reset_index()


def _correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Correlation ratios of the selected points per quality and strategy, by both readings of the paper's
    figure, which is in the column titles: Pearson's, and the covariances of equation (9)."""
    named = {
        f"{what} {name}": f"{name}, {shown} ({ratio:g} in the paper)"
        for what, shown in (("correlation", "Pearson"), ("covariance", "equation (9)"))
        for name, ratio in CORRELATION_RATIOS.items()
    }
    columns = [name for name in named if name in table]
    if table.empty or not columns:
        return pd.DataFrame()
    best = table.loc[table.groupby(["quality", "strategy"], sort=False)["on_selection"].idxmin()].copy()
    for name in columns:  # ratios have no sign
        best[name] = [f"{ratio:.2f}" for ratio in best[name]]
    return best[["quality", "strategy", "alpha", "on_selection", *columns]].rename(columns=named)


def _renamed(table: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """Rename the columns for display."""
    names = {"on_selection": "rate change, val", "on_test": protocol.test_set, "fresh": "fresh seeds"}
    return table.rename(columns=names)


def _table(title: str, table: pd.DataFrame) -> TextTable:
    """A text table: numbers with two decimals, alphas in scientific notation."""
    rows = [[_cell(name, value) for name, value in row.items()] for row in table.to_dict("records")]
    # Quality and strategy together identify a row.
    names = 2 if "strategy" in table.columns[1:2] else 1
    return TextTable(title, [str(name) for name in table.columns], rows, names)


def _cell(name: object, value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "-"
    if name in ("alpha", "p"):
        return f"{value:.3g}"
    return f"{value:.4f}" if name in ("bpp", "J") else f"{value:+.2f}" if abs(value) < 20 else f"{value:+.0f}"


def rd_curves(protocol: Protocol, records: Records) -> Figure:
    """Figure 2: the curves of the baselines and of each strategy, as means over the available seeds."""
    anchors = {quality: SearchPoint(quality) for quality in protocol.rates}
    curves = [_mean_curve(protocol, records, BASELINE, anchors, figures.BASELINE_STYLE)]
    for strategy, points in evidence.chosen(records, protocol, SELECTION).items():
        style = figures.KEPT_STYLE if strategy == BEST else figures.strategy_style(strategy)
        curves.append(_mean_curve(protocol, records, strategy, points, style))
    name = architecture(protocol.model)
    return figures.rd_curves(
        curves, f"{name}, {protocol.width} channels, on {protocol.test_set}; means over seeds"
    )


def _mean_curve(
    protocol: Protocol, records: Records, label: str, points: evidence.Chosen, style: dict[str, Any]
) -> figures.Drawn:
    drawn: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    for _, point in sorted(points.items()):
        found = [evidence.trained(records, point, seed) for seed in range(protocol.seeds)]
        there = [record for record in found if record is not None]
        if there:
            rate, psnr, ms_ssim = (
                float(np.mean([r.mean(f"{protocol.test_set}/{name}") for r in there]))
                for name in ("bpp", "psnr", "ms_ssim")
            )
            drawn[0].append((rate, psnr))
            drawn[1].append((rate, ms_ssim_to_db(ms_ssim)))
    return figures.Drawn(label, *drawn, style)


def response(protocol: Protocol, records: Records) -> Figure:
    """Rate change over alpha, one pane per quality, on validation and test images."""
    table, columns = evidence.response(records, protocol), min(3, len(protocol.rates))
    rows = -(-len(protocol.rates) // columns)
    figure = Figure(figsize=(11, 3.1 * rows + 0.5), layout="constrained")
    panes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
    for pane, quality in zip(panes, protocol.rates, strict=False):
        pane.axhline(0, color="black", linewidth=0.8)
        for strategy in protocol.strategies if len(table) else ():
            part = table[(table["quality"] == quality) & (table["strategy"] == strategy)]
            colour = figures.COLOURS[strategy]
            pane.plot(
                part["alpha"], part["on_selection"], marker="o", color=colour, label=strategy,
                markersize=4 if "z" in strategy else 8,  # y+z often lies on y
            )  # fmt: skip
            pane.plot(part["alpha"], part["on_test"], linestyle=":", color=colour)
        pane.set_xscale("log")
        _percent(pane)
        pane.set_title(f"quality {quality}, lambda {SearchPoint(quality).lmbda:g}", fontsize=10)
        pane.grid(alpha=0.3)
    figure.supxlabel("alpha")
    figure.supylabel("rate change, % (logarithmic above 5)")
    axes = figure.axes[0]
    if axes.lines[1:]:
        axes.legend(fontsize=8)
    figure.suptitle(
        f"{architecture(protocol.model)}: solid on the validation images, dotted on {protocol.test_set}"
    )
    return figure


def _percent(pane: Axes) -> None:
    """A scale for gains below one percent and losses of hundreds: linear up to 5 %, then logarithmic."""
    pane.set_yscale("symlog", linthresh=5)
    pane.yaxis.set_major_formatter("{x:+g}")


def correlation(protocol: Protocol, records: Records) -> Figure:
    """Rate change over the correlation ratio, for all points of the search."""
    table = evidence.response(records, protocol)
    columns = [name for name in table if str(name).startswith("correlation ")]
    figure = Figure(figsize=(6.5, 4.6), layout="constrained")
    pane = figure.subplots()
    pane.axhline(0, color="black", linewidth=0.8)
    for strategy in protocol.strategies if columns else ():
        part = table[table["strategy"] == strategy]
        ratio, colour = part[columns].mean(axis=1), figures.COLOURS[strategy]
        pane.scatter(ratio, part["on_selection"], s=18, color=colour, label=strategy)
    _percent(pane)
    pane.set_xlabel("summed channel correlation of y, tuned / baseline, mean of kodim07 and kodim08")
    pane.set_ylabel("rate change on the validation images, %")
    pane.grid(alpha=0.3)
    if columns:
        pane.legend()
    return figure


def save_examples(found: tuple[Record, list[Example]], state: Path) -> None:
    """Save the content of figures 3 and 4: crops, feature maps, correlations, metrics. Raises OSError."""
    record, examples = found
    arrays: dict[str, NDArray[Any]] = {"subject": np.array(_subject(record))}
    for number, example in enumerate(examples):
        arrays[f"{number}/name"] = np.array(example.name)
        arrays[f"{number}/original"] = example.original[example.crop]
        for role, seen in (("baseline", example.baseline), ("tuned", example.tuned)):
            arrays[f"{number}/{role}/figures"] = np.array([seen.metrics[k] for k in _SHOWN])
            for key in _ARRAYS:
                value = getattr(seen, key)
                part = value[example.crop] if key == "decoded" else value
                arrays[f"{number}/{role}/{key}"] = part.astype(np.float32) if part.dtype == float else part
    with atomic_io.replacing(state / EXAMPLES) as partial:
        np.savez_compressed(partial, **arrays)


#: The metrics of an image that are shown, and what is saved whole.
_SHOWN = ("bpp", "psnr", "ms_ssim")
_ARRAYS = ("decoded", "feature_map", "correlation", "channel_bits")


def load_examples(state: Path) -> tuple[str, list[Example]] | None:
    """Load what `save_examples` saved: subject and examples; None if there is nothing."""
    try:
        kept = np.load(state / EXAMPLES, allow_pickle=False)
    except (OSError, ValueError):
        return None
    found: list[Example] = []
    while f"{len(found)}/name" in kept:
        at = str(len(found))
        models = []
        for role in ("baseline", "tuned"):
            parts = {key: kept[f"{at}/{role}/{key}"] for key in _ARRAYS}
            shown = dict(zip(_SHOWN, kept[f"{at}/{role}/figures"].tolist(), strict=True))
            models.append(Examined(metrics=shown, **parts))
        original = kept[f"{at}/original"]
        whole = (slice(0, original.shape[0]), slice(0, original.shape[1]))
        found.append(Example(str(kept[f"{at}/name"]), original, models[0], models[1], whole))
    return str(kept["subject"]), found


def _subject(record: Record) -> str:
    return f"quality {record.quality}: the baseline and {record.strategy} with alpha {record.alpha:.2e}"
