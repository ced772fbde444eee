"""Baselines that start from the one of the next higher quality (Plan.chain)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection

import numpy as np
import pytest
from optuna.storages import InMemoryStorage

from search.base.space import BASELINE, Candidate
from search.decide.core import Core
from search.records.confirm import Confirmation
from search.records.noise import WithNoise
from search.simulation.simulator import SELECTION, simulate
from search.simulation.surfaces import Family
from search.store.optuna_internals import storage_of
from tests.search.decide.test_core import PLAN, train
from tests.search.decide.test_noise import NOISY, measured
from tests.search.records import test_racing as racing

CHAINED = dataclasses.replace(PLAN, chain=True)


def test_the_start_is_the_next_higher_quality_of_the_search() -> None:
    assert [CHAINED.above(quality) for quality in (1, 3, 6)] == [3, 6, None]
    assert [PLAN.above(quality) for quality in (1, 3, 6)] == [None] * 3


def test_each_baseline_waits_for_the_end_of_the_one_above_and_trials_for_the_last_to_begin() -> None:
    core = Core(InMemoryStorage(), "s", CHAINED)
    for quality in (6, 3):
        baseline = core.suggest()
        assert baseline is not None and baseline.name == f"baseline-q{quality}"
        train(core, baseline, until=8)
        assert (core.suggest(), core.waits()) == (None, True)
        train(core, baseline)
    last, trials = core.suggest(), [core.suggest() for _ in range(6)]
    assert last is not None and last.name == "baseline-q1"
    plain = Core(InMemoryStorage(), "s", PLAN)
    assert trials == [plain.suggest() for _ in range(9)][3:]  # those of a search without a chain
    assert not core.waits()


def test_a_baseline_whose_start_failed_is_not_waited_for_for_ever() -> None:
    """It begins, and its worker finds no weights to start from (search.engine.chain)."""
    core = Core(InMemoryStorage(), "s", CHAINED)
    highest = core.suggest()
    assert highest is not None
    core.fail(highest.name, "lost")
    following = core.suggest()
    assert following is not None and following.name == "baseline-q3"


def test_a_process_that_opens_the_search_again_goes_on_with_the_chain() -> None:
    storage = InMemoryStorage()
    baseline = Core(storage, "s", CHAINED).suggest()
    assert baseline is not None
    again = Core(storage, "s", CHAINED)
    assert (again.unfinished(), again.suggest(), again.waits()) == ([baseline], None, True)
    train(again, baseline)
    following = Core(storage, "s", CHAINED).suggest()
    assert following is not None and following.name == "baseline-q3"


def test_a_simulated_search_takes_the_time_of_the_chain_and_the_same_trials() -> None:
    plan = dataclasses.replace(PLAN, selection=SELECTION, rungs=(), sampler="random", budget=6)
    plain, chained = (
        simulate(Family(0, plan.epochs), dataclasses.replace(plan, chain=chain), 20)
        for chain in (False, True)
    )
    assert chained.trials == plain.trials == 6 and chained.epochs_spent == plain.epochs_spent
    assert plain.time == pytest.approx(plan.epochs, rel=0.1)
    assert chained.time == pytest.approx(len(plan.qualities) * plan.epochs, rel=0.1)


def ran(
    suggest: Callable[[], Candidate | None],
    waits: Callable[[], bool],
    finish: Callable[[Candidate], None],
    before: Collection[tuple[str, int, int]] = (),
) -> list[str]:
    """Train everything, many at a time, ending in any order; no training begins before its start is there.
    `before` are the roles, qualities and seeds of those that ended earlier. The names, as they began."""
    draw, running, began = np.random.default_rng(0), list[Candidate](), list[Candidate]()
    ended = set(before)
    while True:
        while (candidate := suggest()) is not None:
            above = CHAINED.above(candidate.quality)
            assert above is None or (BASELINE, above, candidate.seed) in ended, candidate
            running.append(candidate)
            began.append(candidate)
        assert running or not waits()
        if not running:
            return [candidate.name for candidate in began]
        over = running.pop(int(draw.integers(len(running))))
        finish(over)
        ended.add((over.role, over.quality, over.seed))


def test_every_fresh_seed_has_a_chain_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = dataclasses.replace(racing.PLAN, qualities=(1, 3, 6), chain=True)
    monkeypatch.setattr(racing, "CHANGES", {1: racing.CHANGES[3], 3: racing.CHANGES[2], 6: racing.CHANGES[1]})
    every = racing.candidates(5, plan)
    confirmation = Confirmation(InMemoryStorage(), "s", plan, every, "kodak")
    names = ran(
        confirmation.suggest, confirmation.waits, lambda candidate: racing.finish(confirmation, candidate)
    )
    counts = racing.seeds_of(names)
    assert [counts[f"trial-00{quality}"] for quality in plan.qualities] == [5, 3, 2]
    # Quality 1 stays open: it needs the baselines above it, which no other point is compared with any more.
    assert [counts[f"baseline-q{quality}"] for quality in plan.qualities] == [5, 5, 5]
    assert len(names) == len(set(names)) == confirmation.most()


def test_the_chains_of_other_seeds_do_not_wait_for_that_of_the_search() -> None:
    plan = dataclasses.replace(NOISY, chain=True)
    core = Core(InMemoryStorage(), "s", plan)
    scheduler = WithNoise(core)
    first = [scheduler.suggest() for _ in range(1 + plan.noise_seeds)]
    assert [c.name for c in first if c] == ["baseline-q6", "baseline-q6-s1", "baseline-q6-s2"]
    assert (scheduler.suggest(), scheduler.waits()) == (None, True)

    def finish(candidate: Candidate) -> None:
        for epoch in range(1, plan.epochs + 1):
            scheduler.observe(candidate.name, epoch, measured(candidate, epoch))
            scheduler.decide(candidate.name, epoch)

    again = WithNoise(Core(storage_of(core.trials), "s", plan))
    left = [candidate for candidate in first if candidate is not None]
    assert again.unfinished() == left
    for candidate in left:
        finish(candidate)
    names = ran(scheduler.suggest, scheduler.waits, finish, {(BASELINE, 6, seed) for seed in (0, 1, 2)})
    assert len(names) == 6 + plan.budget and len(core.trials.trials) == plan.budget
