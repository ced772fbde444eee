"""Confirmation, seed after seed until a point is decided, without any training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from optuna.storages import BaseStorage, InMemoryStorage

from search.base.space import BASELINE, CONFIRMATION, RD_COST, Candidate, Plan, SearchPoint, repeated_name
from search.records.confirm import Confirmation, baselines_on
from search.records.confirmed import (
    BETTER,
    UNDECIDED,
    WORSE,
    confirmed,
)
from tests.bench.racing import race

PLAN = Plan(
    qualities=(1, 2, 3), strategies=("y",), alpha_min=1e-8, alpha_max=1e-5, epochs=1, rungs=(), eta=3,
    budget=3, seed=4, sampler="random", selection="val", objective=RD_COST,
)  # fmt: skip

#: By quality, the rate change in percent on each seed: decided at once, late, and not at all.
CHANGES = {
    1: lambda seed: -5 + 0.001 * (seed % 2),
    2: lambda seed: 2 + 0.2 * (seed % 3),
    3: lambda seed: (-1.0) ** seed,
}


def candidates(seeds: int, plan: Plan = PLAN) -> list[Candidate]:
    found = []
    for seed in range(PLAN.seed + 1, PLAN.seed + 1 + seeds):
        found += baselines_on(plan, seed)
        for q in plan.qualities:
            name = repeated_name(f"trial-00{q}", seed)
            found.append(Candidate(name, CONFIRMATION, SearchPoint(q, "y", 1e-7), seed))
    return found


def opened(storage: BaseStorage, seeds: int = 5, plan: Plan = PLAN) -> Confirmation:
    return Confirmation(storage, "s", plan, candidates(seeds), "kodak")


def finish(confirmation: Confirmation, candidate: Candidate) -> None:
    change = 0.0 if candidate.role == BASELINE else CHANGES[candidate.quality](candidate.seed)
    bpp = 0.1 * 2**candidate.quality * (1 + change / 100) * np.ones(4)
    psnr = np.full(4, 30.0 + 2 * candidate.quality)
    images = {"kodak/bpp": bpp, "kodak/mse": 255**2 / 10 ** (psnr / 10), "kodak/psnr": psnr}
    columns = {name: values.tolist() for name, values in images.items()}
    confirmation.observe(candidate.name, 1, {k: v[0] for k, v in columns.items()}, columns)
    assert not confirmation.decide(candidate.name, 1)


def train(reopened: Callable[[], Confirmation], most: int = 99) -> list[str]:
    done: list[str] = []
    while len(done) < most and (candidate := reopened().suggest()) is not None:
        finish(reopened(), candidate)
        done.append(candidate.name)
    return done


def seeds_of(names: list[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        trial = name.rpartition("-s")[0]
        counts[trial] = counts.get(trial, 0) + 1
    return counts


def results(confirmation: Confirmation) -> list[tuple[int, str]]:
    return [(item.seeds, item.outcome) for item in confirmed(confirmation.repetitions(), "kodak")]


def test_a_decided_point_gets_no_further_seeds_and_needs_no_baseline() -> None:
    confirmation = opened(InMemoryStorage())
    counts = seeds_of(train(lambda: confirmation))
    assert [counts[f"trial-00{quality}"] for quality in PLAN.qualities] == [2, 3, 5]
    assert [counts[f"baseline-q{quality}"] for quality in PLAN.qualities] == [2, 3, 5]
    assert results(confirmation) == [(2, BETTER), (3, WORSE), (5, UNDECIDED)]
    assert [item.trial for item in confirmation.decided()] == ["trial-001", "trial-002"]
    assert not confirmation.waits() and confirmation.most() == 2 * (2 + 3 + 5)


def test_a_curve_takes_the_baselines_of_all_rates_as_long_as_one_point_is_open() -> None:
    confirmation = opened(InMemoryStorage(), plan=replace(PLAN, objective="bd-rate-psnr"))
    counts = seeds_of(train(lambda: confirmation))
    assert [counts[f"trial-00{quality}"] for quality in PLAN.qualities] == [2, 3, 5]
    assert [counts[f"baseline-q{quality}"] for quality in PLAN.qualities] == [5, 5, 5]


def test_the_number_of_trainings_is_known_at_most() -> None:
    confirmation = opened(InMemoryStorage())
    assert confirmation.most() == len(candidates(5)) == 30
    train(lambda: confirmation, most=12)  # two seeds of everything
    assert confirmation.most() == 30 - 2 * 3  # quality 1 is decided


def test_what_is_trained_depends_on_the_records_alone() -> None:
    """Opened anew for every question, and broken off anywhere, it trains the same."""
    confirmation, storage = opened(InMemoryStorage()), InMemoryStorage()
    whole = train(lambda: confirmation)
    assert train(lambda: opened(storage)) == whole
    for most in (1, 11, 13, 17):
        storage = InMemoryStorage()
        assert train(lambda: opened(storage), most) + train(lambda: opened(storage)) == whole  # noqa: B023


def test_the_next_seed_waits_for_the_decision_and_workers_change_nothing() -> None:
    """Many at a time, ending in any order, are the same trainings."""
    one, confirmation = opened(InMemoryStorage()), opened(InMemoryStorage())
    running: list[Candidate] = []
    names = set()
    draw = np.random.default_rng(0)
    while True:
        while (candidate := confirmation.suggest()) is not None:
            running.append(candidate)
            names.add(candidate.name)
        assert running or not confirmation.waits()
        if not running:
            break
        assert confirmation.waits() == any(seed < 9 for seed in (c.seed for c in running))
        finish(confirmation, running.pop(draw.integers(len(running))))
    assert names == set(train(lambda: one))


@pytest.mark.parametrize(("seeds", "last"), [(1, BETTER), (2, UNDECIDED)])
def test_with_one_or_two_seeds_nothing_is_looked_at_before_the_end(seeds: int, last: str) -> None:
    confirmation = opened(InMemoryStorage(), seeds)
    assert train(lambda: confirmation) == [candidate.name for candidate in candidates(seeds)]
    # One seed decides by the images, which do not differ here; two say little of what seeds do.
    assert results(confirmation)[2] == (seeds, last)


def test_what_was_recorded_earlier_counts() -> None:
    """Three seeds of everything, as an earlier version trained them; then up to five."""
    storage = InMemoryStorage()
    earlier = opened(storage, 3)
    for candidate in candidates(3):
        earlier._due = lambda candidate=candidate: [candidate]  # type: ignore[method-assign, misc]
        assert earlier.suggest() == candidate
        finish(earlier, candidate)
    assert train(lambda: opened(storage, 3)) == []
    assert results(opened(storage, 3)) == [(3, BETTER), (3, WORSE), (3, UNDECIDED)]
    assert seeds_of(train(lambda: opened(storage, 5))) == {"baseline-q3": 2, "trial-003": 2}


def test_a_failed_seed_is_left_out_and_not_repeated() -> None:
    confirmation = opened(InMemoryStorage())
    names = []
    while (candidate := confirmation.suggest()) is not None:
        names.append(candidate.name)
        if candidate.name in ("trial-001-s5", "baseline-q2-s6"):
            confirmation.fail(candidate.name, "out of memory")
        else:
            finish(confirmation, candidate)
    assert seeds_of(names)["trial-001"] == 3  # two that count
    assert seeds_of(names)["trial-002"] == 4
    assert results(confirmation) == [(2, BETTER), (3, WORSE), (5, UNDECIDED)]


def test_looking_after_every_seed_decides_wrongly_as_rarely_as_stated() -> None:
    assert race("bootstrap", 5, 0.0, 200).decided > 20
    assert race("t, corrected", 5, 0.0, 1000).decided < 5
    assert race("t, corrected", 5, 8.0, 100).decided > 95
