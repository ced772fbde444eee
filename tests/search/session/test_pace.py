"""Plans for a GPU that is elsewhere, by what was measured on it."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from search.run import main
from search.session.pace import GPUS, Pace, pace_on
from search.settings.complaints import ConfigError
from search.settings.config import resolve
from search.settings.plan import template_of

MEASURED = Path(__file__).resolve().parents[3] / "docs" / "bench" / "gpu"


def table(name: str) -> list[dict[str, str]]:
    with (MEASURED / name).open(newline="") as file:
        return list(csv.DictReader(file))


def pace(model: str, preset: str, **given: Any) -> tuple[Pace, str]:
    return pace_on(
        "H200", template_of(resolve({"preset": preset, "model": model, **given}, {}, lambda _: 1).settings)
    )


def test_the_table_is_what_was_measured() -> None:
    steps = {}
    for row in table("optimizers.csv"):
        if row["decay"].startswith("0.3") and row["step"] == row["total"] == "4000":
            steps[row["model"], "bf16", row["optimizer"]] = float(row["ms"])
    for row in table("step.csv"):
        precision = {"all": "tf32", "bf16 instead of tf32": "bf16"}.get(row["variant"])
        if precision:
            steps[row["model"], precision, "adam"] = float(row["ms_per_step"])
    assert dict(GPUS["H200"].steps) == steps
    evaluations = {
        row["model"]: (float(row["val_s"]), float(row["lictune_s"])) for row in table("evaluation.csv")
    }
    assert dict(GPUS["H200"].evaluation) == evaluations


def test_presets_have_a_pace_and_other_steps_are_interpolated() -> None:
    assert pace("cheng", "paper") == (Pace(0.0184096, 0.17854, 0.41624), "measured")
    assert pace("cheng", "fast")[0].step == 0.0124718
    soap, how = pace("hyperprior", "fast")
    assert soap.step == 0.00992324 and "not measured" in how
    muon, how = pace("cheng", "paper", optimizer="muon")
    assert muon.step == pytest.approx((18.4096 + 12.4718 - 9.8518) / 1000)
    assert how.startswith("interpolated: 18.4 ms of Adam in tf32 and the 2.6 ms that muon adds")


@pytest.mark.parametrize(
    "given", [{"width": "64"}, {"batch": "8"}, {"patch": "128"}, {"optimizer": "soap"}, {"compile": False},
              {"precision": "fp32"}]
)  # fmt: skip
def test_what_was_not_measured_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="nothing like this training was measured there"):
        pace("cheng", "paper", **given)


def test_a_plan_for_a_gpu_measures_nothing_and_adds_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("search.session.estimate.measure", lambda _: pytest.fail("a step was measured"))
    arguments = [
        "--model",
        "cheng",
        "--preset",
        "paper",
        "--budget",
        "8",
        "--rates",
        "1,3",
        "--sampler",
        "random",
    ]
    arguments += ["--data", "deadleaves", "--test", "deadleaves", "--test-images", "2", "--val-images", "2"]
    arguments += ["--no-stopping", "--trials-per-gpu", "2", "--cache", str(tmp_path)]
    assert main([*arguments, "--plan", "H200"]) == 0
    printed = capsys.readouterr().out
    assert "18.41 ms per step alone, measured; as 2 share it, 2 times as long (not measured)" in printed
    assert (
        "8 trials x 100.0 % + 2 baselines = 10.00 full trainings; x 33,000 steps x 36.82 ms = 3.38 h;"
        in printed
    )
    total = float(re.findall(r"of evaluation = ([\d.]+) h", printed)[0])
    hours = float(re.findall(r"GPU hours +([\d.]+)", printed)[0])
    assert hours == pytest.approx(total / 2, abs=0.02)


def test_an_unknown_gpu_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--plan", "H2000"]) == 2
    assert "plan 'H2000': no step was measured on such a GPU, only on H200" in capsys.readouterr().err
