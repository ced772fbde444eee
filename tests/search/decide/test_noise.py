"""Baselines on other seeds, and what the model takes from them, without any training."""

from __future__ import annotations

import dataclasses
import math

import pytest
from optuna.storages import InMemoryStorage

from search.base.space import Candidate
from search.decide.belief import SurrogateModel
from search.decide.core import Core
from search.decide.noise import NoiseReading, measured_noise
from search.decide.recommend import believe
from search.records.noise import WithNoise
from search.store.optuna_internals import storage_of
from tests.search.decide.test_belief import SURROGATE, spread
from tests.search.decide.test_core import PLAN, figures, first_epoch

NOISY = dataclasses.replace(PLAN, sampler="surrogate", budget=9, noise_seeds=2, rungs=())

#: By seed and quality, the rate change of a baseline in percent.
CHANGES = {1: {1: 0.3, 3: -0.4, 6: 2.0}, 2: {1: -0.1, 3: 0.4, 6: -4.0}}


def measured(candidate: Candidate, epoch: int) -> dict[str, float]:
    """As in the tests of the core, but baselines on other seeds differ."""
    found = figures(candidate, epoch)
    change = CHANGES.get(candidate.seed, {}).get(candidate.quality, 0.0) if not candidate.alpha else 0.0
    return {**found, "val/bpp": found["val/bpp"] * (1 + change / 100)}


def trained(scheduler: WithNoise) -> list[Candidate]:
    done = []
    while (candidate := scheduler.suggest()) is not None:
        for epoch in range(first_epoch(scheduler.plan, candidate), scheduler.plan.epochs + 1):
            scheduler.observe(candidate.name, epoch, measured(candidate, epoch))
            scheduler.decide(candidate.name, epoch)
        done.append(candidate)
    return done


def test_the_noise_is_that_of_one_training() -> None:
    core = Core(InMemoryStorage(), "s", NOISY)
    assert core.noise() == []
    trained(WithNoise(core))
    assert [(r.quality, r.seed) for r in core.noise()] == [(q, s) for q in (1, 3, 6) for s in (1, 2)]
    for reading in core.noise():
        assert reading.change == pytest.approx(CHANGES[reading.seed][reading.quality])
    noise = measured_noise(core.noise())
    assert noise[1] == pytest.approx(math.sqrt((0.3**2 + 0.1**2) / 2 / 2))
    assert noise[6] == pytest.approx(math.sqrt((2.0**2 + 4.0**2) / 2 / 2))
    again = Core(storage_of(core.trials), "s", NOISY)
    assert again.noise() == core.noise()
    assert Core(storage_of(core.trials), "s", dataclasses.replace(NOISY, noise_seeds=0)).noise() == []


def test_one_that_failed_says_nothing() -> None:
    core = Core(InMemoryStorage(), "s", dataclasses.replace(NOISY, noise_seeds=1))
    scheduler = WithNoise(core)
    while (candidate := scheduler.suggest()) is not None:
        if candidate.name == "baseline-q3-s1":
            scheduler.fail(candidate.name, "out of memory")
            continue
        for epoch in range(1, NOISY.epochs + 1):
            scheduler.observe(candidate.name, epoch, measured(candidate, epoch))
            scheduler.decide(candidate.name, epoch)
    assert [reading.quality for reading in core.noise()] == [1, 6]


def readings(size: dict[int, float]) -> list[NoiseReading]:
    return [NoiseReading(q, s, sign * v, 0.0) for q, v in size.items() for s, sign in ((1, 1), (2, -1))]


def test_the_model_takes_its_noise_from_them() -> None:

    def fitted(noise: list[NoiseReading]) -> dict[int, float]:
        model = SurrogateModel(SURROGATE, spread(), noise=noise)
        model.fit()
        return model.seed_noise()

    alone = fitted([])
    quiet = fitted(readings({1: 0.05, 3: 0.1, 6: 0.2}))
    loud = fitted(readings({1: 1.0, 3: 3.0, 6: 8.0}))
    assert set(alone) == {1, 3, 6}
    for quality in (3, 6):
        assert quiet[quality] <= alone[quality] < loud[quality]  # the trials of `spread` have none
    assert loud[6] == pytest.approx(8.0 / math.sqrt(2), rel=0.65)


def test_their_sign_says_nothing_and_they_move_no_prediction_of_a_gain() -> None:
    for sign in (1, -1):
        noise = [NoiseReading(q, 1, sign * 0.4, 0.0) for q in PLAN.qualities]
        model = SurrogateModel(SURROGATE, spread(), noise=noise)
        model.fit()
        found = model.response(3, "y", [6e-8])[0]
        if sign == 1:
            first = found
    assert found == first
    plain = SurrogateModel(SURROGATE, spread())
    plain.fit()
    assert found.mean == pytest.approx(plain.response(3, "y", [6e-8])[0].mean, abs=0.3)


def test_without_them_the_model_is_what_it_was() -> None:
    core = Core(InMemoryStorage(), "s", dataclasses.replace(NOISY, noise_seeds=0, budget=8))
    while (candidate := core.suggest()) is not None:
        for epoch in range(1, NOISY.epochs + 1):
            core.observe(candidate.name, epoch, figures(candidate, epoch))
            core.decide(candidate.name, epoch)
    plan = core.plan
    first, second = believe(core.trials, plan), believe(core.trials, plan, (), core.noise())
    assert first is not None and second is not None
    assert first.theta is not None and second.theta is not None
    assert first.theta.tolist() == second.theta.tolist()
