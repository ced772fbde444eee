"""Rate changes along the baselines' curve, through the decision core: when they appear, and what they are."""

from __future__ import annotations

import dataclasses
import itertools
import random

import numpy as np
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from lic.evaluation.bdrate import Curve, point_bd_rate
from search.base.space import (
    BASELINE,
    BD_RATE_MSSIM,
    BD_RATE_PSNR,
    RD_COST,
    Candidate,
    SearchPoint,
    baseline_name,
)
from search.decide.belief import VARIANCE
from search.decide.core import BY_LAMBDA, Core
from tests.search.decide import test_core
from tests.search.decide.test_core import PLAN, records

CURVED = dataclasses.replace(PLAN, objective=BD_RATE_PSNR, budget=4, sampler="random", epochs=3, rungs=())
ALONE = dataclasses.replace(CURVED, qualities=(3,))


def figures(candidate: Candidate, epoch: int) -> dict[str, float]:
    """Those of the other tests with the quality that the objectives take."""
    found = test_core.figures(candidate, epoch)
    return {**found, "val/psnr": 27.0 + candidate.quality + 0.1 * epoch,
            "val/ms_ssim": 0.9, "val/ms_ssim_db": 9.0 + candidate.quality}  # fmt: skip


def observe(core: Core, candidate: Candidate | None, *epochs: int) -> None:
    assert candidate is not None
    for epoch in epochs:
        core.observe(candidate.name, epoch, figures(candidate, epoch))


def values(core: Core, candidate: Candidate) -> dict[int, float]:
    return core.trials.trials[int(candidate.name[-3:])].intermediate_values


def expected(candidate: Candidate, epoch: int, qualities: tuple[int, ...] = PLAN.qualities) -> float:
    """The integrand along the curve of these qualities' baselines."""
    base = [figures(Candidate("", BASELINE, SearchPoint(q), 0), epoch) for q in qualities]
    curve = Curve.of([f["val/bpp"] for f in base], [f["val/psnr"] for f in base])
    own = figures(candidate, epoch)
    return point_bd_rate(curve, own["val/bpp"], own["val/psnr"])


def begun(plan: object = CURVED) -> tuple[Core, list[Candidate], Candidate]:
    core = Core(InMemoryStorage(), "s", plan)  # type: ignore[arg-type]
    baselines = [core.suggest() for _ in core.plan.qualities]
    trial = core.suggest()
    assert trial is not None and all(baseline is not None for baseline in baselines)
    return core, [baseline for baseline in baselines if baseline is not None], trial


@pytest.mark.parametrize("order", itertools.permutations(range(4)))
def test_a_value_takes_the_baselines_of_all_rates_in_any_order(order: tuple[int, ...]) -> None:
    core, baselines, trial = begun()
    for place, who in enumerate(order):
        assert values(core, trial) == {}
        observe(core, [*baselines, trial][who], 1)
        assert (1 in values(core, trial)) == (place == 3)
    assert values(core, trial) == {1: pytest.approx(expected(trial, 1))}
    observe(core, trial, 2, 3)
    assert set(values(core, trial)) == {1}  # the baselines are not there yet
    for baseline in baselines:
        observe(core, baseline, 2, 3)
    assert values(core, trial) == {e: pytest.approx(expected(trial, e)) for e in (1, 2, 3)}
    ended = core.trials.trials[0]
    assert ended.state == TrialState.COMPLETE and ended.value == pytest.approx(expected(trial, 3))
    assert not any(key.startswith((BY_LAMBDA, VARIANCE)) for key in ended.user_attrs)


def test_of_the_cost_its_own_baseline_is_enough() -> None:
    core, baselines, trial = begun(dataclasses.replace(CURVED, objective=RD_COST))
    own = next(b for b in baselines if b.quality == trial.quality)
    observe(core, trial, 1)
    assert values(core, trial) == {}
    observe(core, own, 1)
    assert set(values(core, trial)) == {1}


@pytest.mark.parametrize("seed", range(6))
def test_the_order_of_arrival_and_a_new_process_change_nothing(seed: int) -> None:
    """All readings of three baselines and four trials, each training's in its order."""
    found = []
    for restarts in (False, True):
        draw, storage = random.Random(seed if restarts else 99), InMemoryStorage()
        core = Core(storage, "s", CURVED)
        running = {c.name: (c, 0) for c in (core.suggest() for _ in range(7)) if c is not None}
        while running:
            candidate, epoch = running.pop(draw.choice(sorted(running)))
            observe(core, candidate, epoch + 1)
            if restarts and draw.random() < 0.4:
                core = Core(storage, "s", CURVED)
            if epoch + 1 < CURVED.epochs:
                running[candidate.name] = (candidate, epoch + 1)
        found.append([(t.state, t.values, t.intermediate_values) for t in core.trials.trials])
    assert found[0] == found[1]
    assert all(state == TrialState.COMPLETE and len(each) == 3 for state, _, each in found[0])


def test_what_a_killed_process_had_not_drawn_is_drawn_by_the_next() -> None:
    """The baseline's reading was recorded, and the process died before the trials got their values."""
    core, baselines, trial = begun()
    storage = core.trials._storage
    observe(core, trial, 1)
    for baseline in baselines[:-1]:
        observe(core, baseline, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "_settle_waiting", lambda: None)
        observe(core, baselines[-1], 1)
    assert values(core, trial) == {}
    again = Core(storage, "s", CURVED)
    assert values(again, trial) == {1: pytest.approx(expected(trial, 1))}


@pytest.mark.parametrize("end", ["fail", "end", "close"])
def test_a_failed_baseline_is_not_waited_for(end: str) -> None:
    """The values are then along the curve of the others."""
    core, baselines, trial = begun()
    other = next(b for b in baselines if b.quality != trial.quality)
    observe(core, trial, 1)
    for baseline in baselines:
        if baseline is not other:
            observe(core, baseline, 1, 2, 3)
    assert values(core, trial) == {}
    if end == "close":
        core.close()
        left = tuple(q for q in PLAN.qualities if q != other.quality)
        assert values(core, trial) == {1: pytest.approx(expected(trial, 1, left))}
        assert core.trials.trials[0].user_attrs["reason"] == "interrupted"
        return
    getattr(core, end)(other.name, "NaN")
    left = tuple(q for q in PLAN.qualities if q != other.quality)
    assert values(core, trial) == {1: pytest.approx(expected(trial, 1, left))}
    observe(core, trial, 2, 3)
    assert core.trials.trials[0].state == TrialState.COMPLETE


def test_without_its_own_baseline_a_trial_has_no_value() -> None:
    core, baselines, trial = begun()
    observe(core, trial, 1)
    for baseline in baselines:
        if baseline.quality == trial.quality:
            core.fail(baseline.name, "NaN")
        else:
            observe(core, baseline, 1)
    assert values(core, trial) == {}


@pytest.mark.parametrize("late", [False, True])
def test_what_a_baseline_measured_before_it_failed_counts(late: bool) -> None:
    """Whether the trial's reading came before the failure or after it."""
    core, baselines, trial = begun()
    other = next(b for b in baselines if b.quality != trial.quality)
    for candidate in baselines if late else (*baselines, trial):
        observe(core, candidate, 1)
    core.fail(other.name, "lost")
    if late:
        observe(core, trial, 1)
    assert values(core, trial) == {1: pytest.approx(expected(trial, 1))}
    found = records(core)
    assert found.rate_change(found.trials[0], 1, "val") == values(core, trial)[1]


@pytest.mark.parametrize("objective", [BD_RATE_PSNR, BD_RATE_MSSIM])
def test_one_rate_is_compared_by_lambda_and_says_so(objective: str) -> None:
    core, (baseline,), trial = begun(dataclasses.replace(ALONE, objective=objective))
    for candidate in (baseline, trial):
        observe(core, candidate, 1)
    assert set(values(core, trial)) == {1}
    assert core.trials.trials[0].user_attrs[f"{BY_LAMBDA}1"] is True


def test_the_images_give_the_variance() -> None:
    core, baselines, trial = begun()
    draw = np.random.default_rng(0)
    for candidate in (*baselines, trial):
        mean = figures(candidate, 1)
        noise = draw.lognormal(0, 0.1, 16)
        columns = {name: (mean[name] * noise).tolist() for name in ("val/bpp", "val/mse")}
        core.observe(candidate.name, 1, mean, columns)
    assert core.trials.trials[0].user_attrs[f"{VARIANCE}1"] > 0


def test_a_reading_without_the_objectives_quality_has_no_value() -> None:
    core, baselines, trial = begun(dataclasses.replace(CURVED, objective=BD_RATE_MSSIM))
    for candidate in (*baselines, trial):
        found = {k: v for k, v in figures(candidate, 1).items() if not k.startswith("val/ms_ssim")}
        core.observe(candidate.name, 1, found)
    assert values(core, trial) == {}
    for candidate in (*baselines, trial):
        observe(core, candidate, 2)
    assert set(values(core, trial)) == {2}


@pytest.mark.parametrize("objective", [BD_RATE_PSNR, BD_RATE_MSSIM, RD_COST])
@pytest.mark.parametrize("failed", [None, 1, 6])
def test_the_records_say_what_the_core_decided_by(objective: str, failed: int | None) -> None:
    plan = dataclasses.replace(CURVED, objective=objective)
    core = Core(InMemoryStorage(), "s", plan)
    for _ in PLAN.qualities:
        candidate = core.suggest()
        assert candidate is not None
        if candidate.quality == failed:
            core.fail(baseline_name(failed), "NaN")
        else:
            observe(core, candidate, 1, 2, 3)
    while (candidate := core.suggest()) is not None:
        observe(core, candidate, 1, 2, 3)
    found = records(core)
    assert found.objective == objective
    for record, trial in zip(found.trials, core.trials.trials, strict=True):
        assert len(trial.intermediate_values) == 3
        for epoch, value in trial.intermediate_values.items():
            assert found.rate_change(record, epoch, "val") == value
            assert found.comparable(record, epoch)
        assert found.rate_change(record, 1, "kodak") is None
        assert found.rate_change(record, 9, "val") is None


def test_records_wait_as_the_core_does() -> None:
    core, baselines, trial = begun()
    observe(core, trial, 1)
    for baseline in baselines:
        found = records(core)
        assert found.rate_change(found.trials[0], 1, "val") is None
        assert not found.comparable(found.trials[0], 1)
        observe(core, baseline, 1)
    found = records(core)
    assert found.rate_change(found.trials[0], 1, "val") == values(core, trial)[1]
    assert found.comparable(found.trials[0], 1)
