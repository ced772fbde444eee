"""Tables and figures of a search, from records made by hand."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from lic.evaluation.decibels import ms_ssim_to_db
from search.base.space import SearchPoint
from search.decide.belief import Prediction
from search.records.confirmed import BETTER, UNDECIDED, WORSE
from search.records.figures import rd_figure
from search.records.results import (
    OVERALL,
    best_per_rate,
    parent_figures,
    rate_table,
    selected,
    strategy_results,
    strategy_table,
    trial_table,
)
from search.records.search_records import FAILED, FINISHED, STOPPED, SearchRecords, TrialRecord

QUALITIES = (1, 2, 3, 4, 5, 6)


def record(name: str, quality: int, gain: float, strategy: str = "", state: str = FINISHED,
           epoch: int = 9) -> TrialRecord:  # fmt: skip
    """A codec that takes (1 + gain/100) of the baseline's bits at the baseline's quality."""
    draw = np.random.default_rng(quality)  # the same images for every codec
    bpp = 0.1 * 1.6**quality * draw.lognormal(0, 0.3, 24) * (1 + gain / 100)
    psnr = 26 + 1.5 * quality + draw.normal(0, 1, 24)
    ms_ssim = 1 - 0.1 / 1.5**quality * draw.uniform(0.9, 1.1, 24)
    mse = 255**2 / 10 ** (psnr / 10)
    figures = {
        "kodak/bpp": bpp.mean(), "kodak/mse": mse.mean(), "kodak/psnr": psnr.mean(),
        "kodak/ms_ssim": ms_ssim.mean(), "kodak/ms_ssim_db": ms_ssim_to_db(ms_ssim.mean()),
        "val/bpp": bpp.mean(), "val/mse": mse.mean(),
    }  # fmt: skip
    images = {"bpp": bpp, "mse": mse, "psnr": psnr, "ms_ssim": ms_ssim}
    return TrialRecord(
        name, "trial" if strategy else "baseline",
        SearchPoint(quality, strategy or None, 1e-7 if strategy else 0.0), 0, state, "",
        {epoch: {k: float(v) for k, v in figures.items()}},
        {epoch: {f"kodak/{k}": v.tolist() for k, v in images.items()}},
    )  # fmt: skip


def search(*trials: TrialRecord) -> SearchRecords:
    baselines = {q: record(f"baseline-q{q}", q, 0.0) for q in QUALITIES}
    return SearchRecords("s", QUALITIES, 9, "val", "kodak", baselines, list(trials))


def test_a_gain_at_every_rate_is_the_bd_rate() -> None:
    records = search(*(record(f"trial-{q:03d}", q, -4.0, "y") for q in QUALITIES))
    own, overall = strategy_results(records, ("y",))
    for row in (own, overall):
        assert row.bd_rate_psnr is not None and row.bd_rate_msssim is not None
        assert row.bd_rate_psnr.value == pytest.approx(-4)
        assert row.bd_rate_msssim.value == pytest.approx(-4)
        assert row.bd_psnr is not None and row.bd_psnr > 0
        assert row.tuned == 6
        assert not row.refused
    for trial in records.trials:
        derived = records.derived(trial, 9)
        for name in ("kodak/rate_change", "val/rate_change", "kodak/bd_rate_psnr", "kodak/bd_rate_msssim"):
            assert derived[name] == pytest.approx(-4), name
    assert parent_figures([own, overall], "kodak")["kodak/bd_rate_psnr_y"] == pytest.approx(-4)


def test_fresh_seeds_have_the_last_word_on_what_is_selected() -> None:
    """Of three points of quality 1 the model is sure of the first, which costs bits on fresh seeds; it doubts
    the other two, of which the last saves bits there."""
    trials = [record(f"trial-{number:03d}", 1, -1.0, "y") for number in (1, 2, 3)]
    expected = {"trial-001": Prediction(-3.0, 0.5), "trial-002": Prediction(-0.5, 1.0),
                "trial-003": Prediction(-0.2, 1.0)}  # fmt: skip
    records = dataclasses.replace(search(*trials), expected=expected)
    chosen = [
        best_per_rate(dataclasses.replace(records, outcomes=outcomes))[1].name
        for outcomes in (
            {}, {"trial-001": UNDECIDED}, {"trial-001": WORSE}, {"trial-001": WORSE, "trial-003": BETTER}
        )
    ]  # fmt: skip
    assert chosen == ["trial-001", "trial-001", "baseline-q1", "trial-003"]
    alone = dataclasses.replace(records, outcomes={"trial-001": WORSE})
    assert selected(alone, [trials[0]]) is trials[0]


def test_the_best_per_rate_is_chosen_on_the_selection_images_among_the_finished() -> None:
    records = search(
        record("trial-000", 1, -1.0, "y"),
        record("trial-001", 1, -3.0, "z"),
        record("trial-002", 1, -9.0, "y", STOPPED, epoch=3),  # promising, but stopped
        record("trial-003", 2, +2.0, "y"),  # worse than the baseline
    )
    best = best_per_rate(records)
    assert best[1].name == "trial-001"
    assert best[2].name == "baseline-q2"
    table = rate_table(records).set_index("quality")
    assert table.loc[1, "strategy"] == "z"
    assert table.loc[1, "rate_change"] == pytest.approx(-3)
    assert table.loc[2, "alpha"] == 0
    assert len(trial_table(records)) == 10


def test_a_strategy_takes_the_baseline_where_it_has_no_finished_trial() -> None:
    records = search(record("trial-000", 3, -6.0, "y"), record("trial-001", 4, +5.0, "z"))
    y, z, both, overall = strategy_results(records, ("y", "z", "y+z"))
    assert (y.tuned, z.tuned, both.tuned, overall.tuned) == (1, 1, 0, 1)
    assert overall.strategy == OVERALL
    assert y.bd_rate_psnr is not None and z.bd_rate_psnr is not None and overall.bd_rate_psnr is not None
    assert -6 < y.bd_rate_psnr.value < 0 < z.bd_rate_psnr.value
    assert overall.bd_rate_psnr.value == pytest.approx(y.bd_rate_psnr.value)
    assert both.bd_rate_psnr is None
    assert "trained at full length" in both.refused


def test_the_best_of_all_is_no_missing_figure_where_every_rate_keeps_its_baseline() -> None:
    y, overall = strategy_results(search(record("trial-000", 3, +6.0, "y")), ("y",))
    assert (y.tuned, overall.tuned, overall.refused) == (1, 0, "")
    assert overall.bd_rate_psnr is not None and overall.bd_rate_psnr.value == pytest.approx(0)


def test_a_trial_has_no_bd_rate_until_every_baseline_is_there() -> None:
    records = search(record("trial-000", 1, -1.0, "y"))
    whole = records.derived(records.trials[0], 9)
    late = records.baselines.pop(6)
    assert records.derived(records.trials[0], 9).keys() == {"kodak/rate_change", "val/rate_change"}
    records.baselines[6] = dataclasses.replace(late, state=FAILED, readings={})
    partly = records.derived(records.trials[0], 9)  # the five others make the curve
    assert partly.keys() == whole.keys()
    assert partly["kodak/bd_rate_psnr"] == pytest.approx(-1)


def test_two_baselines_make_no_curve_and_so_no_bd_rate_of_a_trial() -> None:
    records = search(record("trial-000", 1, -1.0, "y"))
    for qualities, known in (((1, 2, 3), True), ((1, 2), False), ((1,), False)):
        few = {quality: records.baselines[quality] for quality in qualities}
        found = dataclasses.replace(records, qualities=qualities, baselines=few).derived(records.trials[0], 9)
        assert {"kodak/rate_change", "val/rate_change"} <= found.keys()
        assert ("kodak/bd_rate_psnr" in found) == ("kodak/bd_rate_msssim" in found) == known


def test_a_broken_baseline_curve_gives_no_bd_rate_but_a_trial_has_its_own() -> None:
    records = search(record("trial-000", 1, -1.0, "y"))
    figures = records.baselines[3].readings[9]
    figures["kodak/psnr"] = 10.0
    records.baselines[3].images[9]["kodak/psnr"] = [10.0] * 24
    row = strategy_results(records, ("y",))[0]
    assert row.bd_rate_psnr is None
    assert "not monotone" in row.refused
    # The broken baseline is beaten by others; against those the trial still has a figure.
    assert records.derived(records.trials[0], 9)["kodak/bd_rate_psnr"] == pytest.approx(-1)
    for baseline in records.baselines.values():
        baseline.readings[9]["kodak/psnr"] = 40.0 - baseline.quality  # all but the first are beaten
    assert "kodak/bd_rate_psnr" not in records.derived(records.trials[0], 9)
    assert math.isnan(float(strategy_table([row])["bd_rate_psnr"].astype(float)[0]))


def test_a_refused_figure_is_named_and_hides_no_other() -> None:
    """MS-SSIM falls from one rate to the next, PSNR does not; then the other way round."""
    trials = [record(f"trial-{q:03d}", q, -4.0, "y") for q in QUALITIES]
    records = search(*trials)
    for column, other in (("kodak/ms_ssim", "psnr"), ("kodak/psnr", "msssim")):
        kept = records.baselines[3].images[9][column]
        records.baselines[3].images[9][column] = [0.1] * 24
        (row, _) = strategy_results(records, ("y",))
        records.baselines[3].images[9][column] = kept
        found = getattr(row, f"bd_rate_{other}")
        assert found is not None and found.value == pytest.approx(-4) and found.low < found.high + 1e-9
        name = {"kodak/ms_ssim": "MS-SSIM", "kodak/psnr": "PSNR"}[column]
        assert row.refused.startswith(f"BD-rate ({name}), BD-{name}: the rate-distortion curve is not mono")
        assert strategy_table([row])["refused"][0] == row.refused


def test_a_quality_that_is_refused_leaves_the_rate() -> None:
    """Half the bits at the same quality: the curves share all of their range of quality, little of rate."""
    (row, _) = strategy_results(search(*(record(f"trial-{q:03d}", q, -95.0, "y") for q in QUALITIES)), ("y",))
    assert row.bd_psnr is row.bd_msssim is None
    assert row.bd_rate_psnr is not None and row.bd_rate_psnr.value == pytest.approx(-95)
    assert row.refused.startswith("BD-PSNR, BD-MS-SSIM: the two curves share 0 % of their range of rate")


def test_an_error_that_is_no_curves_is_not_called_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> float:
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr("search.records.results.bd_quality", broken)
    with pytest.raises(ValueError, match="broadcast"):
        strategy_results(search(record("trial-000", 3, -4.0, "y")), ("y",))


def test_ms_ssim_that_was_not_measured_is_named_and_leaves_psnr(tmp_path: Path) -> None:
    """One of the images is too small for it: no figure of the whole set has it."""
    records = search(*(record(f"trial-{q:03d}", q, -4.0, "y") for q in QUALITIES))
    for training in records.everything():
        training.images[9]["kodak/ms_ssim"][5] = math.nan
        for name in ("kodak/ms_ssim", "kodak/ms_ssim_db"):
            del training.readings[9][name]
    why = "MS-SSIM needs images of at least 161 pixels on each side; small.png is 150 x 150"
    for told, reason in ((why, why), ("", "the rate-distortion curve has a point that is not finite")):
        (row, _) = strategy_results(dataclasses.replace(records, without_ms_ssim=told), ("y",))
        assert row.bd_rate_psnr is not None and row.bd_rate_psnr.value == pytest.approx(-4)
        assert row.bd_psnr is not None and row.bd_rate_msssim is row.bd_msssim is None
        assert row.refused == f"BD-rate (MS-SSIM), BD-MS-SSIM: {reason}"
    table = rate_table(records)
    assert table["ms_ssim"].isna().all() and table["psnr"].notna().all()
    assert rd_figure(records, ("y",), tmp_path / "rd.png").stat().st_size > 1000


def test_the_expected_rate_change_decides_and_the_best_observed_is_shown() -> None:
    lucky, sound = record("trial-000", 1, -3.0, "y"), record("trial-001", 1, -2.0, "z")
    hopeless = record("trial-002", 2, -1.0, "y")
    records = dataclasses.replace(
        search(lucky, sound, hopeless),
        expected={
            "trial-000": Prediction(-1.0, 0.3),
            "trial-001": Prediction(-2.5, 0.2),
            "trial-002": Prediction(0.5, 0.2),
        },
    )
    kept = best_per_rate(records)
    assert kept[1].name == "trial-001"
    assert kept[2].name == "baseline-q2"  # not expected to save bits, whatever it read
    rows = {row["quality"]: row for row in rate_table(records).to_dict("records")}
    assert (rows[1]["expected_rate_change"], rows[1]["expected_sigma"]) == (-2.5, 0.2)
    assert rows[1]["best_observed_trial"] == "trial-000"
    assert rows[1]["best_observed_rate_change"] == pytest.approx(-3.0)
    assert rows[3]["best_observed_trial"] == "-"


def test_a_search_cut_short_before_its_baselines_has_tables_and_a_figure(tmp_path: Path) -> None:
    records = dataclasses.replace(search(), baselines={})
    for row in strategy_results(records, ("y",)):
        assert row.refused == "no baseline was trained at full length"
    assert len(rate_table(records)) == len(trial_table(records)) == 0
    assert rd_figure(records, ("y",), tmp_path / "rd.png").stat().st_size > 1000
