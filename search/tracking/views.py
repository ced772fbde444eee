"""Saved views of a search in MLflow: leaderboard, learning curves per quality, parallel coordinates.

By default, MLflow's page opens without any metric. A saved view is an experiment tag with the state of the
page; a link with its key shows this state in any browser. The tag and the state are undocumented and follow
MLflow 3.17, so its minor version is pinned, and a browser tests them.
"""

from __future__ import annotations

import base64
import json
import time
import urllib.parse
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from search.base.space import TRIAL

if TYPE_CHECKING:
    from mlflow import MlflowClient

VIEW_TAG = "mlflow.sharedViewState."

LEADERBOARD, PARALLEL = "leaderboard", "parallel-coordinates"

_TRIALS = f"params.`role` = '{TRIAL}'"

#: Initial range of rate-change curves in percent: outliers outside of it would flatten the others.
_SHOWN = {"yMin": -15, "yMax": 30}

#: Groups of metrics that start collapsed: MLflow adds a chart for each of them.
_FOLDED = ("train", "time", "memory")


def final_figure(selection: str) -> str:
    """The name of the metric 'rate change after full training on the selection images'."""
    return f"{selection}/final_rate_change"


def curves(quality: int) -> str:
    """The key of the view with the learning curves of this quality."""
    return f"curves-q{quality}"


def link(base: str, experiment_id: str, view: str) -> str:
    """The URL of a view on the MLflow server at `base`; a search filter in the URL would disable the view."""
    query = {"workflowType": "machine_learning", "viewStateShareKey": view}
    if view != LEADERBOARD:
        query["compareRunsMode"] = "CHART"
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?{urllib.parse.urlencode(query)}"


def install_views(
    client: MlflowClient,
    experiment_id: str,
    test_set: str,
    selection: str,
    qualities: tuple[int, ...],
    tuned: tuple[str, ...] = (),
) -> None:
    """Write the views of a search into its experiment, unless they are up to date.

    `selection` and `test_set` name the selection and test images, `tuned` the tuned settings. Raises
    MlflowException if MLflow cannot be reached.
    """
    there = client.get_experiment(experiment_id).tags
    for key, (name, state) in _views(test_set, selection, qualities, tuned).items():
        packed = packed_state(state)
        known = json.loads(there.get(VIEW_TAG + key, "{}"))
        if (known.get("name"), known.get("state")) == (name, packed):
            continue
        now = int(time.time() * 1000)
        view = {"name": name, "createdAt": known.get("createdAt", now), "updatedAt": now, "state": packed}
        client.set_experiment_tag(experiment_id, VIEW_TAG + key, json.dumps(view))


def packed_state(state: Mapping[str, Any]) -> str:
    """The state of a page in MLflow's encoding: JSON, deflated, in base 64."""
    return "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()


def _views(
    test_set: str, selection: str, qualities: tuple[int, ...], tuned: tuple[str, ...]
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Key -> name and state of each view."""
    changes = [f"{image_set}/rate_change" for image_set in dict.fromkeys((selection, test_set))]
    bd_rates = [f"{test_set}/bd_rate_psnr", f"{test_set}/bd_rate_msssim"]
    views = {
        LEADERBOARD: ("Leaderboard", _leaderboard(final_figure(selection), changes, bd_rates, tuned)),
        PARALLEL: ("Parallel coordinates", _parallel(changes, bd_rates, tuned)),
    }
    for quality in qualities:
        views[curves(quality)] = (f"Learning curves, quality {quality}", _curves(quality, test_set, changes))
    return views


def _sorted_by(metric: str, filter: str) -> dict[str, Any]:
    return {"searchFilter": filter, "orderByKey": f"metrics.`{metric}`", "orderByAsc": True}


def _leaderboard(
    final: str, changes: list[str], bd_rates: list[str], tuned: tuple[str, ...]
) -> dict[str, Any]:
    """Trials trained in full first, best on top; then stopped trials."""
    columns = {
        "attributes.`Run Name`": 150,
        "runDateAndNestInfo": 130,  # time of creation, with an icon for the run's status
        "params.`alpha`": 85,
        "params.`strategy`": 75,
        **{f"params.`{name}`": 85 for name in tuned},
        "params.`lambda`": 75,
        "params.`quality`": 65,
        **{f"metrics.`{metric}`": 155 for metric in (final, *changes, *bd_rates)},
        "tags.`lictune.epochs`": 110,
        "tags.`lictune.state`": 105,
    }
    return {
        **_sorted_by(final, _TRIALS),
        "selectedColumns": list(columns),
        "columnOrder": list(columns),
        "columnWidths": columns,
    }


def _parallel(changes: list[str], bd_rates: list[str], tuned: tuple[str, ...]) -> dict[str, Any]:
    chart = {
        "type": "PARALLEL",
        "uuid": PARALLEL,
        "metricSectionId": PARALLEL,
        "deleted": False,
        "isGenerated": False,
        "selectedParams": ["quality", "strategy", "log10_alpha", *tuned],
        "selectedMetrics": [*bd_rates, *reversed(changes)],
        "showAllRuns": False,
    }
    return {**_sorted_by(changes[0], _TRIALS), **_charts("Parallel coordinates", PARALLEL, [chart])}


def _curves(quality: int, test_set: str, changes: list[str]) -> dict[str, Any]:
    charts = [
        {
            "type": "LINE",
            "uuid": metric,
            "metricSectionId": "curves",
            "deleted": False,
            "isGenerated": False,
            "metricKey": metric,
            "selectedMetricKeys": [metric],
            "displayName": metric,
            "lineSmoothness": 0,
            "scaleType": "linear",
            "xAxisKey": "step",
            "xAxisScaleType": "linear",
            "range": _SHOWN if metric in changes else {},
            "useGlobalXaxisKey": True,
            "useGlobalLineSmoothing": True,
        }
        for metric in (*changes, f"{test_set}/bpp", f"{test_set}/psnr")
    ]
    return {
        **_sorted_by(changes[0], f"params.`quality` = '{quality}'"),
        **_charts(f"Learning curves, quality {quality}", "curves", charts),
    }


def _charts(title: str, key: str, charts: list[dict[str, Any]]) -> dict[str, Any]:
    """A page with these charts, expanded, above those that MLflow adds for every metric."""
    own = {"uuid": key, "name": title, "display": True, "columns": min(2, len(charts)), "cardHeight": 400}
    sections = [own, *({"uuid": name, "name": name, "display": False} for name in _FOLDED)]
    return {
        "compareRunCharts": charts,
        "compareRunSections": [{**section, "isReordered": True, "deleted": False} for section in sections],
        "isAccordionReordered": True,
        "runsHiddenMode": "SHOW_ALL",
        "selectedColumns": ["params.`alpha`"],
    }
