"""The saved views of MLflow's page; what the page makes of them is in tests/dashboards/test_browser.py."""

from __future__ import annotations

import base64
import json
import zlib
from types import SimpleNamespace
from typing import Any

import pytest

from search.tracking.views import (
    LEADERBOARD,
    PARALLEL,
    VIEW_TAG,
    curves,
    final_figure,
    install_views,
    link,
    packed_state,
)

ADDRESS = "http://127.0.0.1:5000/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey="


class Experiments:
    """A client of MLflow that has one experiment, and counts what is written."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}
        self.written: list[str] = []

    def get_experiment(self, _: str) -> SimpleNamespace:
        return SimpleNamespace(tags=dict(self.tags))

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        assert experiment_id == "7"
        self.tags[key] = value
        self.written.append(key)

    def install(
        self, test_set: str = "kodak", selection: str = "val", qualities: tuple[int, ...] = (1, 3)
    ) -> None:
        install_views(self, "7", test_set, selection, qualities)  # type: ignore[arg-type]

    def view(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.tags[VIEW_TAG + key])
        return found

    def state(self, key: str) -> dict[str, Any]:
        return unpacked(self.view(key)["state"])


def unpacked(state: str) -> dict[str, Any]:
    kind, _, packed = state.partition(";")
    assert kind == "deflate"
    found: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return found


@pytest.fixture
def experiments() -> Experiments:
    made = Experiments()
    made.install()
    return made


def test_a_state_is_packed_without_loss() -> None:
    state = {"searchFilter": "params.`role` = 'trial'", "columns": ["équipe", 1.5, None]}
    assert unpacked(packed_state(state)) == state


def test_a_link_opens_the_charts_but_for_the_leaderboard() -> None:
    assert link("http://127.0.0.1:5000/", "7", LEADERBOARD) == ADDRESS + LEADERBOARD
    assert link("http://127.0.0.1:5000", "7", curves(3)) == f"{ADDRESS}curves-q3&compareRunsMode=CHART"


def test_there_is_a_view_of_the_curves_of_every_quality(experiments: Experiments) -> None:
    keys = [LEADERBOARD, PARALLEL, "curves-q1", "curves-q3"]
    assert [key.removeprefix(VIEW_TAG) for key in experiments.written] == keys
    assert [experiments.view(key)["name"] for key in keys] == [
        "Leaderboard", "Parallel coordinates", "Learning curves, quality 1", "Learning curves, quality 3",
    ]  # fmt: skip
    assert experiments.state("curves-q3")["searchFilter"] == "params.`quality` = '3'"


def test_views_that_are_up_to_date_are_not_written_again(experiments: Experiments) -> None:
    experiments.written.clear()
    experiments.install()
    assert experiments.written == []


def test_what_has_changed_is_written_and_keeps_its_date(
    experiments: Experiments, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = experiments.view(LEADERBOARD)["createdAt"]
    experiments.written.clear()
    monkeypatch.setattr("search.tracking.views.time.time", lambda: created / 1000 + 60)
    experiments.install(test_set="leaves")
    assert len(experiments.written) == 4
    view = experiments.view(LEADERBOARD)
    assert (view["createdAt"], view["updatedAt"]) == (created, created + 60_000)
    experiments.written.clear()
    experiments.install(test_set="leaves", qualities=(1, 3, 6))
    assert experiments.written == [VIEW_TAG + "curves-q6"]


def test_the_leaderboard_has_the_lowest_final_rate_change_on_top(experiments: Experiments) -> None:
    state = experiments.state(LEADERBOARD)
    assert final_figure("val") == "val/final_rate_change"
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`val/final_rate_change`", True)
    assert state["searchFilter"] == "params.`role` = 'trial'"
    assert state["selectedColumns"] == state["columnOrder"] == list(state["columnWidths"])
    metrics = [column for column in state["selectedColumns"] if column.startswith("metrics.")]
    assert metrics == [
        f"metrics.`{name}`"
        for name in ("val/final_rate_change", "val/rate_change", "kodak/rate_change", "kodak/bd_rate_psnr",
                     "kodak/bd_rate_msssim")
    ]  # fmt: skip


def test_where_the_test_images_select_their_rate_change_is_there_once(experiments: Experiments) -> None:
    experiments.install(selection="kodak")
    columns = experiments.state(LEADERBOARD)["selectedColumns"]
    assert columns.count("metrics.`kodak/rate_change`") == 1 and len(set(columns)) == len(columns)
    charts = experiments.state("curves-q1")["compareRunCharts"]
    assert [chart["metricKey"] for chart in charts] == ["kodak/rate_change", "kodak/bpp", "kodak/psnr"]


def test_outliers_do_not_flatten_the_curves_of_the_rate_change(experiments: Experiments) -> None:
    charts = {chart["metricKey"]: chart for chart in experiments.state("curves-q1")["compareRunCharts"]}
    assert list(charts) == ["val/rate_change", "kodak/rate_change", "kodak/bpp", "kodak/psnr"]
    assert charts["val/rate_change"]["range"] == {"yMin": -15, "yMax": 30}
    assert charts["kodak/psnr"]["range"] == {}


@pytest.mark.parametrize("key", [PARALLEL, "curves-q1"])
def test_every_chart_lies_in_a_section_that_is_open_and_the_others_are_closed(
    key: str, experiments: Experiments
) -> None:
    state = experiments.state(key)
    sections = {section["uuid"]: section["display"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == {
        name for name, display in sections.items() if display
    }
    assert [name for name, display in sections.items() if not display] == ["train", "time", "memory"]
