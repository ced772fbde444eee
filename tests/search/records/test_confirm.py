"""Confirmation on fresh seeds: which trainings, and what is made of them, without any training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from optuna.storages import InMemoryStorage

from lic.evaluation.bdrate import CurveError, Interval
from search.base.space import BASELINE, Candidate, Plan
from search.decide.core import Core
from search.records.confirm import Confirmation, points_to_confirm
from search.records.confirmed import bd_rates, confirmed, confirmed_bd_rate
from search.records.search_records import PSNR, SearchRecords, read_records

PLAN = Plan(
    qualities=(1, 2, 3, 4, 5, 6), strategies=("y", "z", "y+z"), alpha_min=1e-8, alpha_max=1e-5, epochs=2,
    rungs=(), eta=3, budget=14, seed=4, sampler="random", selection="val",
)  # fmt: skip
SAVING = 0.96


def columns(candidate: Candidate) -> dict[str, list[float]]:
    """24 images on an RD curve; every point but the baseline saves 4 % of the bits, give or take what
    its seed does."""
    draw = np.random.default_rng([candidate.quality, 7])
    hard = draw.uniform(0.6, 1.4, 24)
    luck = np.random.default_rng(candidate.seed).normal(1, 0.01)
    factor = SAVING * luck if candidate.alpha else 1.0
    bpp = 0.1 * 1.6**candidate.quality * hard * factor
    mse = 200 * hard / 1.6**candidate.quality
    return {
        "kodak/bpp": bpp.tolist(),
        "kodak/mse": mse.tolist(),
        "kodak/psnr": (10 * np.log10(255**2 / mse)).tolist(),
        "kodak/ms_ssim": (1 - 0.2 * hard / 2**candidate.quality).tolist(),
    }


def train(core: Core | Confirmation) -> list[Candidate]:
    done = []
    while (candidate := core.suggest()) is not None:
        images = columns(candidate)
        figures = {name: float(np.mean(values)) for name, values in images.items()}
        figures |= {"val/bpp": figures["kodak/bpp"], "val/mse": figures["kodak/mse"]}
        for epoch in (1, 2):
            core.observe(candidate.name, epoch, figures, images)
            core.decide(candidate.name, epoch)
        done.append(candidate)
    return done


@pytest.fixture
def searched() -> SearchRecords:
    core = Core(InMemoryStorage(), "s", PLAN)
    train(core)
    return read_records((core.trials, core.baselines), PLAN, "kodak")


def test_baselines_and_best_points_on_fresh_seeds(searched: SearchRecords) -> None:
    points = points_to_confirm(searched, PLAN, best=2, seeds=3)
    assert {c.seed for c in points} == {5, 6, 7}  # the search's own seed is 4
    assert [c.role for c in points[:6]] == [BASELINE] * 6
    of_rate_one = [c for c in points if c.quality == 1 and c.seed == 5 and c.role != BASELINE]
    assert len(of_rate_one) == 2
    finished = {r.name: r for r in searched.finished()}
    assert all(finished[c.name.rpartition("-s")[0]].alpha == c.alpha for c in of_rate_one)
    assert len({c.name for c in points}) == len(points) == 3 * (6 + 12)


def test_the_mean_over_seeds_with_its_interval(searched: SearchRecords) -> None:
    points = points_to_confirm(searched, PLAN, best=1, seeds=3)
    confirmation = Confirmation(InMemoryStorage(), "s", PLAN, points, "kodak")
    assert train(confirmation) == points
    found = confirmed(confirmation.repetitions(), "kodak")
    luck = np.mean([np.random.default_rng(seed).normal(1, 0.01) for seed in (5, 6, 7)])
    assert [item.quality for item in found] == [1, 2, 3, 4, 5, 6]
    for item in found:
        assert item.seeds == 3
        assert item.rate_change.value == pytest.approx(100 * (SAVING * luck - 1))
        assert item.rate_change.low < item.rate_change.value < item.rate_change.high
    for figure in bd_rates(confirmation.repetitions(), searched).values():
        assert not isinstance(figure, str)
        assert figure.value == pytest.approx(100 * (SAVING * luck - 1), abs=0.02)
        assert figure.low < figure.value < figure.high


def test_what_is_confirmed_is_trained_in_full(searched: SearchRecords) -> None:
    """Whether the search forked or not, and nothing waits for a baseline."""
    points = points_to_confirm(searched, PLAN, best=1, seeds=1)
    confirmation = Confirmation(InMemoryStorage(), "s", replace(PLAN, fork=1), points, "kodak")
    assert (confirmation.plan, confirmation.waits()) == (PLAN, False)
    assert [confirmation.suggest() for _ in points] == points


def test_one_seed_speaks_of_the_images_alone(searched: SearchRecords) -> None:
    points = points_to_confirm(searched, PLAN, best=1, seeds=1)
    confirmation = Confirmation(InMemoryStorage(), "s", PLAN, points, "kodak")
    train(confirmation)
    interval = confirmed(confirmation.repetitions(), "kodak")[0].rate_change
    luck = np.random.default_rng(5).normal(1, 0.01)
    assert (interval.low, interval.high) == pytest.approx((100 * (SAVING * luck - 1),) * 2)


def test_what_is_not_complete_is_not_claimed(searched: SearchRecords) -> None:
    """A failed training leaves its seed out, of its point and of the curve."""
    points = points_to_confirm(searched, PLAN, best=1, seeds=1)
    confirmation = Confirmation(InMemoryStorage(), "s", PLAN, points, "kodak")
    first = confirmation.suggest()
    assert first is not None
    assert first.quality == 1
    confirmation.fail(first.name, "out of memory")
    train(confirmation)
    assert [item.quality for item in confirmed(confirmation.repetitions(), "kodak")] == [2, 3, 4, 5, 6]
    with pytest.raises(CurveError, match="no seed has all points"):
        confirmed_bd_rate(confirmation.repetitions(), searched, PSNR)


def test_a_metric_without_a_curve_hides_no_other_and_no_error(
    searched: SearchRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = points_to_confirm(searched, PLAN, best=1, seeds=1)
    confirmation = Confirmation(InMemoryStorage(), "s", PLAN, points, "kodak")
    train(confirmation)
    found = bd_rates(confirmation.repetitions(), replace(searched, without_ms_ssim="small.png is 150 x 150"))
    assert found["BD-rate (MS-SSIM)"] == "small.png is 150 x 150"
    assert isinstance(found["BD-rate"], Interval) and -10 < found["BD-rate"].value < 0

    def broken(*_: object, **__: object) -> None:
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr("search.records.curves.bd_rate_interval", broken)
    with pytest.raises(ValueError, match="broadcast"):
        bd_rates(confirmation.repetitions(), searched)
