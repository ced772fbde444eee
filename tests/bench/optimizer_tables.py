"""The tables of tests.bench.optimizers, from what it measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from lic.evaluation.bdrate import Curve, CurveError, bd_rate, point_bd_rate
from lic.recipe import LAMBDAS
from search.base.space import BD_RATE_PSNR, SearchPoint
from search.decide.objective import LEAST_POINTS, Reading, rate_change

#: What is alike in trainings that are compared.
_SETTING = ["preset", "model", "width", "latent_width", "start", "batch", "patch", "settings"]
_OPTIMIZER = ["optimizer", "lr", "total"]

#: Of a training, after which changes are compared with it.
_SHARES = (0.25, 0.5, 0.75, 1.0)

#: What columns on latents begin with: Pearson, and equation (9) (lic.evaluation.latents).
_LATENT = ("pearson_", "eq9_")


def tables(rows: pd.DataFrame) -> str:
    """All of them, in text."""
    if rows.empty:
        return "nothing was measured"
    parts = []
    for setting, own in rows.groupby(_SETTING, sort=False):
        title = "{} {}, {} and {} channels, from {}, batch {} of {}".format(
            setting[1], setting[0], *setting[2:-1]
        )
        title += f", {setting[-1]}" if setting[-1] else ""
        plain = _plain(own)
        parts += [f"\n## {title}\n", _text(costs(plain)), _text(curves(plain)), _text(reached(plain))]
        parts += [_text(changes(own)), _text(ahead(own)), _text(progress(own))]
    return "\n".join(part for part in parts if part)


def _text(table: pd.DataFrame) -> str:
    return "" if table.empty else table.to_string(index=False, float_format="{:.5g}".format) + "\n"


def ended(rows: pd.DataFrame) -> pd.DataFrame:
    """The last reading of each training that came to its end."""
    return rows[rows["step"] == rows["total"]]


def costs(rows: pd.DataFrame) -> pd.DataFrame:
    """J on the validation images at the end, mean and standard deviation over seeds, and Kodak."""
    measured = [key for key in ("J", "kodak_bpp", "kodak_psnr", "ms") if key in rows]
    found = ended(rows).groupby(["quality", *_OPTIMIZER], sort=False)
    table = found[measured].mean()
    table.insert(1, "J_sd", found["J"].std())
    table.insert(0, "seeds", found["J"].size())
    return table.reset_index().sort_values(["quality", "J"])


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """The Kodak BD-rate of each optimiser's curve over all rates against the first optimiser's, mean over
    seeds; `noise` is the root mean square of the BD-rates between its own curves of two seeds, `top` and
    `span` are PSNR at the highest rate and from there to the lowest, dB."""
    if "kodak_psnr" not in rows:
        return pd.DataFrame()
    by_case = {key: _curves(own) for key, own in ended(rows).groupby(_OPTIMIZER, sort=False)}
    by_case = {key: found for key, found in by_case.items() if found}
    if not by_case:
        return pd.DataFrame()
    anchor, told = next(iter(by_case.values())), []
    for key, found in by_case.items():
        against = [_bd_rate(anchor.get(seed), curve) for seed, curve in found.items()]
        pairs = [_bd_rate(found[a], found[b]) for a, b in itertools.combinations(found, 2)]
        points = [curve.quality for curve in found.values() if isinstance(curve, Curve)]
        told.append({
            **dict(zip(_OPTIMIZER, key, strict=True)), "seeds": len(found),
            "bd_rate_%": np.nanmean(against) if not np.isnan(against).all() else np.nan,
            "each": " ".join(f"{value:+.2f}" for value in against),
            "noise": float(np.sqrt(np.mean(np.square(pairs)))) if pairs else np.nan,
            "pairs": " ".join(f"{value:+.2f}" for value in pairs),
            "top": np.mean([q[-1] for q in points]) if points else np.nan,
            "span": np.mean([q[-1] - q[0] for q in points]) if points else np.nan,
            "monotone": f"{len(points)}/{len(found)}",
        })  # fmt: skip
    return pd.DataFrame(told)


def _curves(rows: pd.DataFrame, least: int = len(LAMBDAS)) -> dict[int, Curve | None]:
    """By seed, of those that have this many rates; None if it is not monotone."""
    found: dict[int, Curve | None] = {}
    for seed, own in rows.groupby("seed"):
        if own["quality"].nunique() >= least:
            try:
                found[int(str(seed))] = Curve.of(own["kodak_bpp"], own["kodak_psnr"])
            except CurveError:
                found[int(str(seed))] = None
    return found


def _bd_rate(anchor: Curve | None, test: Curve | None) -> float:
    if anchor is None or test is None:
        return np.nan
    try:
        return bd_rate(anchor, test)
    except CurveError:
        return np.nan


def reached(rows: pd.DataFrame) -> pd.DataFrame:
    """After how many steps and seconds each comes to the first optimiser's J at the end (means over seeds of
    what is between the readings, in which both fall as powers of the step); NaN where it does not."""
    firsts = ended(rows)
    if firsts.empty:
        return pd.DataFrame()
    told = []
    first = firsts.iloc[0]
    same = (firsts[_OPTIMIZER] == first[_OPTIMIZER]).all(axis=1)
    for (quality, seed), goal in firsts[same].groupby(["quality", "seed"]):
        own = rows[(rows["quality"] == quality) & (rows["seed"] == seed)]
        for key, run in own.groupby(_OPTIMIZER, sort=False):
            steps = _crossing(run, float(goal["J"].iloc[0]))
            told.append({
                "quality": quality, **dict(zip(_OPTIMIZER, key, strict=True)), "steps": steps,
                "seconds": steps * run["ms"].iloc[-1] / 1000,
            })  # fmt: skip
    table = pd.DataFrame(told)
    return table.groupby(["quality", *_OPTIMIZER], sort=False)[["steps", "seconds"]].mean().reset_index()


def _crossing(run: pd.DataFrame, goal: float) -> float:
    steps, costs = run["step"].to_numpy(float), run["J"].to_numpy(float)
    below = np.flatnonzero(costs <= goal)
    if not len(below):
        return np.nan
    last = below[0]
    if not last:
        return float(steps[0])
    ends = slice(last - 1, last + 1)
    return float(np.exp(np.interp(-np.log(goal), -np.log(costs[ends]), np.log(steps[ends]))))


def changes(rows: pd.DataFrame) -> pd.DataFrame:
    """Every point of the decorrelation loss and every other change against the same training without, means
    over seeds with intervals of 95 % (Student's t): the change of J in percent of the rate, that of the Kodak
    rate at equal PSNR, the fraction of the steps after which it has the J that the other ends with, and the
    ratios of the summed channel correlation and covariance of y on the paper's images."""
    told = []
    by_case = rows.groupby(_OPTIMIZER, sort=False)
    measured = {
        key: _curves(ended(_plain(own)), LEAST_POINTS) if "kodak_psnr" in own else {} for key, own in by_case
    }
    for key, label, run, plain in _pairs(rows):
        there = measured[key[:-2]]
        curve = there.get(int(key[-1])) or next(iter(there.values()), None)
        row, base = run.iloc[-1], plain.iloc[-1]
        told.append({
            **dict(zip([*_OPTIMIZER, "quality"], key, strict=False)), "change": label,
            "J_%": 100 * (row["J"] - base["J"]) / base["bpp"],
            "kodak_%": _rate_change(row, base, curve) if "kodak_psnr" in row else np.nan,
            "steps": _crossing(run, float(base["J"])) / base["total"],
            **{name: row[name] / base[name] for name in row.index if name.startswith(_LATENT)},
        })  # fmt: skip
    if not told:
        return pd.DataFrame()
    found = pd.DataFrame(told).groupby([*_OPTIMIZER, "quality", "change"], sort=False)
    table = found[[name for name in told[0] if name.startswith(("J_", "kodak_", "steps", *_LATENT))]].mean()
    for name in ("kodak_%", "J_%"):
        half = found[name].sem() * student.ppf(0.975, found[name].size() - 1)
        table.insert(list(table).index(name) + 1, f"{name[:-2]}_+-", half)
    table.insert(0, "seeds", found["J_%"].size())
    return table.reset_index().sort_values(["quality", "kodak_%"])


def _pairs(rows: pd.DataFrame) -> Iterator[tuple[tuple[Any, ...], str, pd.DataFrame, pd.DataFrame]]:
    """Every training with a change that came to its end, beside the one of the same seed without: what both
    have in common, the change's name, and the readings of either, first to last."""
    for key, own in rows.groupby([*_OPTIMIZER, "quality", "seed"], sort=False):
        plain = _plain(own)
        if ended(plain).empty:
            continue
        for (change, strategy, alpha), run in own.groupby(["changes", "strategy", "alpha"], sort=False):
            if (change or alpha) and not ended(run).empty:
                yield tuple(key), str(change or f"{strategy}={alpha:g}"), run, plain


def ahead(rows: pd.DataFrame) -> pd.DataFrame:
    """Whether a change makes training begin faster: the fraction of the plain training's steps after which it
    has the J that the other has after a quarter, a half, three quarters and all of them, means over seeds
    with intervals of 95 % (Student's t), over those that reach it; `reached` counts those for all of them."""
    told = []
    for key, label, run, plain in _pairs(rows):
        steps = {}
        for share in _SHARES:
            there = plain[plain["step"] >= share * plain["total"]].iloc[0]
            steps[f"at {share:.0%}"] = _crossing(run, float(there["J"])) / there["step"]
        told.append({**dict(zip([*_OPTIMIZER, "quality"], key, strict=False)), "change": label, **steps})
    if not told:
        return pd.DataFrame()
    found = pd.DataFrame(told).groupby([*_OPTIMIZER, "quality", "change"], sort=False)
    names = [f"at {share:.0%}" for share in _SHARES]
    table = found[names].mean()
    for name in names:
        half = found[name].sem() * student.ppf(0.975, found[name].count() - 1)
        table.insert(list(table).index(name) + 1, "+-", half, allow_duplicates=True)
    table["reached"] = found["at 100%"].count()
    table.insert(0, "seeds", found.size())
    return table.reset_index()


def progress(rows: pd.DataFrame) -> pd.DataFrame:
    """J on the validation images after every part, means over seeds, if some trainings have a change."""
    if (rows["changes"] == "").all():
        return pd.DataFrame()
    key = ["quality", "optimizer", "lr", "total", "changes"]
    return rows.pivot_table("J", key, "step").reset_index().rename_axis(columns=None)


def _plain(rows: pd.DataFrame) -> pd.DataFrame:
    """The trainings without a change."""
    return rows[(rows["alpha"] == 0) & (rows["changes"] == "")]


def _rate_change(row: Any, base: Any, curve: Curve | None) -> float:
    """Of the Kodak rate at equal PSNR, percent, along a curve without the change, of the same seed or of
    another against the same seed's point; without one along the slope that lambda gives at the baseline,
    which says nothing a decibel away from it."""
    if curve is not None:
        own, its = (point_bd_rate(curve, r["kodak_bpp"], r["kodak_psnr"]) for r in (row, base))
        return own - its
    if abs(row["kodak_psnr"] - base["kodak_psnr"]) > 1:
        return np.nan
    reading, anchor = (
        Reading({f"kodak/{key}": of[f"kodak_{key}"] for key in ("bpp", "psnr")}, {}) for of in (row, base)
    )
    point = SearchPoint(int(base["quality"]))
    return rate_change(BD_RATE_PSNR, point, reading, {point.quality: anchor}, "kodak").value
