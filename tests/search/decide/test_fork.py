"""Trials that begin with the state of their baseline (Plan.fork)."""

from __future__ import annotations

import dataclasses
import math

import pytest
from optuna.storages import InMemoryStorage

from search.base.space import BASELINE, Candidate, SearchPoint, rungs
from search.decide.belief import SurrogateModel
from search.decide.core import Core
from search.decide.objective import rd_cost_change
from tests.search.decide.test_core import PLAN, figures, records, run_all

FORKED = dataclasses.replace(PLAN, fork=3, rungs=rungs(9, 1, 3, fork=3))


def go_on(core: Core, baseline: Candidate | None, first: int, last: int) -> None:
    """Train a baseline from one epoch to another."""
    assert baseline is not None and baseline.role == BASELINE
    for epoch in range(first, last + 1):
        core.observe(baseline.name, epoch, figures(baseline, epoch))


def test_a_trial_begins_once_its_baseline_is_at_the_fork() -> None:
    core, plain = Core(InMemoryStorage(), "s", FORKED), Core(InMemoryStorage(), "s", PLAN)
    baselines = [core.suggest() for _ in PLAN.qualities]
    expected = [plain.suggest() for _ in range(9)][3:]
    for number, baseline in enumerate(baselines):
        go_on(core, baseline, 1, 2)
        assert (core.suggest(), core.waits()) == (None, True)
        go_on(core, baseline, 3, 3)
        # The rates take their turns, and the points are those of a search that does not fork.
        assert core.suggest() == expected[number]
    assert [core.suggest() for _ in range(3)] == expected[3:]
    assert not core.waits()
    assert [t.user_attrs["fork"] for t in core.trials.trials] == [3] * 6
    assert [(r.fork, r.trained, r.last_epoch) for r in records(core).trials] == [(3, 0, 3)] * 6


def test_what_will_not_come_is_not_waited_for() -> None:
    core = Core(InMemoryStorage(), "s", dataclasses.replace(FORKED, budget=2))
    one, two, three = (core.suggest() for _ in PLAN.qualities)
    assert one is not None and two is not None and three is not None
    core.fail(one.name, "lost")
    assert (core.suggest(), core.waits()) == (None, True)
    go_on(core, two, 1, 3)
    first = core.suggest()
    assert first is not None and first.quality == two.quality
    assert (core.suggest(), core.waits()) == (None, True)
    core.fail(three.name, "lost")
    assert core.suggest() is not None  # of the only rate that is left
    assert (core.suggest(), core.waits()) == (None, False)  # the budget is spent
    core = Core(InMemoryStorage(), "s", FORKED)
    for candidate in [core.suggest() for _ in PLAN.qualities]:
        assert candidate is not None
        core.fail(candidate.name, "lost")
    assert (core.suggest(), core.waits()) == (None, False)


def test_rungs_count_what_a_trial_trained() -> None:
    """Stopped after one or three epochs of its own, compared with its baseline at the same epoch."""
    assert (FORKED.rungs, rungs(9, 2, 2, fork=5), rungs(4, 1, 3, fork=3)) == ((4, 6), (7,), ())
    core = Core(InMemoryStorage(), "s", FORKED)
    run_all(core)
    ends = {max(t.intermediate_values) for t in core.trials.trials}
    assert ends == {4, 6, 9}
    for record in records(core).trials:
        assert min(record.readings) == 4 and record.trained == record.last_epoch - 3
        baseline_costs = figures(Candidate("", BASELINE, SearchPoint(record.quality), 0), record.last_epoch)
        change = rd_cost_change(record.readings[record.last_epoch], baseline_costs, "val", record.lmbda)
        value = core.trials.trials[int(record.name[-3:])].intermediate_values[record.last_epoch]
        assert value == pytest.approx(change)


def test_a_model_that_knows_an_earlier_search_waits_for_every_baseline() -> None:
    """It may choose any rate, and is told how far an earlier trial was of its own training."""
    first = Core(InMemoryStorage(), "first", PLAN)
    run_all(first)
    plan = dataclasses.replace(FORKED, sampler="surrogate")
    core = Core(InMemoryStorage(), "s", plan)
    core.learn_from(first.trials.trials, "first")
    assert len(core.earlier()) == 30
    baselines = [core.suggest() for _ in PLAN.qualities]
    for baseline in baselines:
        assert (core.suggest(), core.waits()) == (None, True)
        go_on(core, baseline, 1, 3)
    trial = core.suggest()
    assert trial is not None
    for baseline in baselines:
        go_on(core, baseline, 4, 9)
    for epoch in range(4, 10):
        core.observe(trial.name, epoch, figures(trial, epoch))
    # Its own epochs 1; 2; 3 and 4; 5; and the last of six.
    data = SurrogateModel(plan, core.trials.trials).data
    told = data.points.progress[data.pinned :][:5]
    assert told == pytest.approx([1 / 6, 2 / 6, math.sqrt(12) / 6, 5 / 6, 1])
    later = dataclasses.replace(PLAN, epochs=3, rungs=())
    third = Core(InMemoryStorage(), "x", later)
    third.learn_from(core.trials.trials, "s")
    assert third.has_learnt and third.earlier() == []  # it left after all of them
