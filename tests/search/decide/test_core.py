"""The decision core: its three verbs over a storage, without any training."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from search.base.space import BASELINE, Candidate, Plan, SearchPoint
from search.decide.core import Core
from search.decide.objective import rd_cost, rd_cost_change
from search.records.search_records import FAILED, FINISHED, STOPPED, SearchRecords, read_records

PLAN = Plan(
    qualities=(1, 3, 6), strategies=("y", "z", "y+z"), alpha_min=1e-8, alpha_max=1e-5, epochs=9,
    rungs=(1, 3), eta=3, budget=30, seed=0, sampler="tpe", selection="val",
)  # fmt: skip


def figures(candidate: Candidate, epoch: int) -> dict[str, float]:
    """A made-up training: bits fall with epochs; the best alpha is 1e-7 times 3^(4 - quality)."""
    best = math.log10(1e-7) + 0.5 * (4 - candidate.quality)
    offset = {None: 0, "y": 0.0, "z": 1.0, "y+z": 0.5}[candidate.strategy]
    gain = -3 + 4 * (math.log10(candidate.alpha) - best) ** 2 + offset if candidate.alpha else 0.0
    rate = (0.2 + 0.1 * candidate.quality) * (1 + gain / 100) * (1 + 1 / (1 + epoch))
    return {"val/bpp": rate, "val/mse": 100.0 / candidate.quality}


def first_epoch(plan: Plan, candidate: Candidate) -> int:
    return 1 if candidate.role == BASELINE else plan.fork + 1


def train(core: Core, candidate: Candidate, until: int | None = None) -> int:
    """Run a candidate to its end (or `until`); the number of epochs it got."""
    for epoch in range(first_epoch(core.plan, candidate), (until or core.plan.epochs) + 1):
        core.observe(candidate.name, epoch, figures(candidate, epoch))
        if not core.decide(candidate.name, epoch):
            return epoch
    return until or core.plan.epochs


def run_all(core: Core) -> list[tuple[Candidate, int]]:
    done = []
    while (candidate := core.suggest()) is not None:
        done.append((candidate, train(core, candidate)))
    return done


def records(core: Core) -> SearchRecords:
    return read_records((core.trials, core.baselines), core.plan, "kodak")


def test_baselines_come_first_and_rates_take_turns() -> None:
    done = [candidate for candidate, _ in run_all(Core(InMemoryStorage(), "s", PLAN))]
    assert [c.name for c in done[:3]] == ["baseline-q1", "baseline-q3", "baseline-q6"]
    assert all(c.role == BASELINE and c.alpha == 0 for c in done[:3])
    assert [c.quality for c in done[3:]] == [1, 3, 6] * 10
    assert len({c.name for c in done}) == 33
    assert all(1e-8 <= c.alpha <= 1e-5 and c.strategy in PLAN.strategies for c in done[3:])
    assert {c.seed for c in done} == {0}  # trials and baselines see the same batches


def test_poor_trials_are_stopped_per_rate_and_kept_with_their_values() -> None:
    core = Core(InMemoryStorage(), "s", dataclasses.replace(PLAN, seed=1))
    done = run_all(core)
    by_number = {t.number: t for t in core.trials.trials}
    for candidate, epochs in done[3:]:
        trial = by_number[int(candidate.name.split("-")[1])]
        assert trial.state == (TrialState.COMPLETE if epochs == 9 else TrialState.PRUNED)
        assert sorted(trial.intermediate_values) == list(range(1, epochs + 1))
        assert trial.value == pytest.approx(trial.intermediate_values[epochs])
        assert epochs in (1, 3, 9)
    assert all(epochs == 9 for candidate, epochs in done if candidate.role == BASELINE)
    for quality in PLAN.qualities:
        ends = [epochs for candidate, epochs in done[3:] if candidate.quality == quality]
        assert 9 in ends  # every rate keeps a survivor
    assert sum(epochs for _, epochs in done[3:]) < 0.7 * 9 * 30


def test_the_value_is_the_rate_change_against_the_baseline_of_rate_and_epoch() -> None:
    core = Core(InMemoryStorage(), "s", PLAN)
    done = run_all(core)
    baselines = {c.quality: c for c, _ in done if c.role == BASELINE}
    for candidate, epochs in done[3:]:
        trial, baseline = core.trials.trials[int(candidate.name.split("-")[1])], baselines[candidate.quality]
        own, base = figures(candidate, epochs), figures(baseline, epochs)
        lmbda = candidate.lmbda
        costs = [f["val/bpp"] + lmbda * f["val/mse"] for f in (own, base)]
        assert trial.value == pytest.approx(100 * (costs[0] - costs[1]) / base["val/bpp"])


def test_epochs_that_were_not_measured_have_no_value() -> None:
    """A sparse cadence measures at the rungs and the end."""
    core = Core(InMemoryStorage(), "test", dataclasses.replace(PLAN, qualities=(1,), budget=1))
    for candidate in (core.suggest(), core.suggest()):
        assert candidate is not None
        for epoch in range(1, PLAN.epochs + 1):
            measured = epoch in (*PLAN.rungs, PLAN.epochs)
            core.observe(
                candidate.name, epoch, figures(candidate, epoch) if measured else {"train/loss": 1.0}
            )
    (trial,) = core.trials.get_trials()
    assert sorted(trial.intermediate_values) == [*PLAN.rungs, PLAN.epochs]
    assert trial.state == TrialState.COMPLETE


def test_nothing_is_stopped_before_its_baseline_is_there() -> None:
    """Trials that run ahead of their baseline go on; their values are filled in when it arrives."""
    core = Core(InMemoryStorage(), "s", PLAN)
    baselines = [core.suggest() for _ in PLAN.qualities]
    ahead = [core.suggest() for _ in range(12)]
    for candidate in ahead:
        assert candidate is not None
        assert train(core, candidate) == 9
    assert {t.state for t in core.trials.trials} == {TrialState.RUNNING}
    for baseline in baselines:
        assert baseline is not None
        train(core, baseline)
    assert {t.state for t in core.trials.trials} == {TrialState.COMPLETE}
    assert all(len(t.intermediate_values) == 9 for t in core.trials.trials)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**31), st.booleans())
def test_decisions_are_a_function_of_storage_and_seed(schedule: int, model: bool) -> None:
    """Reports in any order, crashes, and restarts in between: as without the restarts."""
    plan = dataclasses.replace(PLAN, budget=18, sampler="surrogate" if model else "random")
    assert interleaved(plan, schedule, restarts=False) == interleaved(plan, schedule, restarts=True)


def interleaved(plan: Plan, schedule: int, restarts: bool) -> list[object]:
    """What a search of several workers decides, in order; who reports, crashes and when the process
    starts anew is drawn from `schedule`."""
    draw, again = random.Random(schedule), random.Random(schedule + 1)
    storage = InMemoryStorage()
    core = Core(storage, "s", plan)
    decisions: list[object] = []
    running: dict[str, tuple[Candidate, int]] = {}
    exhausted = False
    while running or not exhausted:
        if restarts and again.random() < 0.3:
            core = Core(storage, "s", plan)
        if len(running) < 4 and not exhausted:
            candidate = core.suggest()
            decisions.append(candidate)
            exhausted = candidate is None
            if candidate is not None:
                running[candidate.name] = (candidate, 0)
            continue
        name = draw.choice(sorted(running))
        candidate, epoch = running.pop(name)
        if candidate.role != BASELINE and draw.random() < 0.05:
            core.fail(name, "crashed")
            continue
        core.observe(name, epoch + 1, figures(candidate, epoch + 1))
        goes_on = core.decide(name, epoch + 1)
        decisions.append((name, epoch + 1, goes_on))
        if goes_on:
            running[name] = (candidate, epoch + 1)
    return decisions


class KilledError(Exception):
    pass


class MortalStorage(InMemoryStorage):
    """Dies before its n-th write from now on, as a process does that is killed."""

    left = math.inf

    def _write(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise KilledError

    def create_new_trial(self, *args: Any, **kwargs: Any) -> int:
        self._write()
        return super().create_new_trial(*args, **kwargs)

    def set_study_user_attr(self, *args: Any, **kwargs: Any) -> None:
        self._write()
        super().set_study_user_attr(*args, **kwargs)


@pytest.mark.parametrize("sampler", ["surrogate", "tpe"])
@pytest.mark.parametrize("finished", [0, 12])
def test_a_proposal_cut_short_at_any_write_is_made_again(sampler: str, finished: int) -> None:
    plan = dataclasses.replace(PLAN, sampler=sampler, budget=12)
    expected = run_all(Core(InMemoryStorage(), "s", plan))
    for writes in range(20):
        storage = MortalStorage()
        core, done = Core(storage, "s", plan), []
        for _ in range(finished):
            candidate = core.suggest()
            assert candidate is not None
            done.append((candidate, train(core, candidate)))
        storage.left = writes
        try:
            candidate = core.suggest()
        except KilledError:
            storage.left = math.inf
            core = Core(storage, "s", plan)
            assert len(core.trials.trials) == finished - len(PLAN.qualities) * (finished > 0)
            assert done + run_all(core) == expected
        else:
            assert candidate == expected[finished][0]
            return
    raise AssertionError("a proposal writes less often")


def test_an_earlier_search_informs_the_next() -> None:
    """With its trials there are no start-up points to spread, and the first proposals are good ones."""
    plan = dataclasses.replace(PLAN, sampler="surrogate")
    first = Core(InMemoryStorage(), "first", plan)
    run_all(first)
    storage = InMemoryStorage()
    second = Core(storage, "second", dataclasses.replace(plan, budget=6, seed=1))
    assert not second.has_learnt
    second.learn_from(first.trials.trials, "first")
    second.learn_from(first.trials.trials, "first")  # again changes nothing
    assert second.has_learnt and len(second.earlier()) == 30
    done = [c for c, _ in run_all(second) if c.role != BASELINE]
    cold = Core(InMemoryStorage(), "cold", dataclasses.replace(plan, budget=6, seed=1))
    without = [c for c, _ in run_all(cold) if c.role != BASELINE]

    def change(candidate: Candidate) -> float:
        base = dataclasses.replace(candidate, point=SearchPoint(candidate.quality))
        own, zero = figures(candidate, 9), figures(base, 9)
        return rd_cost_change(own, zero, "val", candidate.lmbda)

    assert np.mean([change(c) for c in done]) < np.mean([change(c) for c in without]) - 1
    assert len(Core(storage, "second", plan).earlier()) == 30
    assert len(records(second).trials) == 6  # those of the earlier search are none of its own


def test_bootstrap_variance_reaches_the_model() -> None:
    """Per-image readings of the selection set become the variance of the rate change."""
    core = Core(InMemoryStorage(), "s", dataclasses.replace(PLAN, budget=1))
    drawn = np.random.default_rng(0)
    base = {"val/bpp": drawn.uniform(0.2, 0.6, 32).tolist(), "val/mse": drawn.uniform(20, 90, 32).tolist()}
    for _ in range(3):
        candidate = core.suggest()
        assert candidate is not None
        for epoch in range(1, 10):
            core.observe(candidate.name, epoch, figures(candidate, epoch), base)
    trial = core.suggest()
    assert trial is not None
    own = {
        **base,
        "val/bpp": [v * f for v, f in zip(base["val/bpp"], drawn.normal(0.95, 0.1, 32), strict=True)],
    }
    core.observe(trial.name, 1, figures(trial, 1), own)
    attributes = core.trials.trials[0].user_attrs
    difference = np.array(own["val/bpp"]) - np.array(base["val/bpp"])
    rows = drawn.integers(0, 32, (20_000, 32))
    drawn_variance = (100 * difference[rows].mean(1) / np.mean(base["val/bpp"])).var()
    assert attributes["variance:1"] == pytest.approx(drawn_variance, rel=0.05)


def test_a_failed_trial_is_recorded_and_the_search_goes_on() -> None:
    core = Core(InMemoryStorage(), "s", dataclasses.replace(PLAN, budget=3))
    for _ in range(3):
        candidate = core.suggest()
        assert candidate is not None
        train(core, candidate)
    lost = core.suggest()
    assert lost is not None
    core.observe(lost.name, 1, figures(lost, 1))
    core.fail(lost.name, "out of memory")
    run_all(core)
    states = {r.name: (r.state, r.reason) for r in records(core).trials}
    assert states["trial-000"] == (FAILED, "out of memory")
    assert {states["trial-001"][0], states["trial-002"][0]} <= {FINISHED, STOPPED}


def test_a_rate_without_its_baseline_is_given_up_by_name() -> None:
    core = Core(InMemoryStorage(), "s", PLAN)
    first = core.suggest()
    assert first is not None
    core.fail(first.name, "NaN")
    for _ in range(2):
        candidate = core.suggest()
        assert candidate is not None
        train(core, candidate)
    assert {c.quality for c, _ in run_all(core)} == {3, 6}
    core.close()

    late = Core(InMemoryStorage(), "s", PLAN)
    baselines = [late.suggest() for _ in PLAN.qualities]
    ahead = late.suggest()
    assert ahead is not None
    train(late, ahead)
    for baseline in baselines:
        assert baseline is not None
        late.fail(baseline.name, "NaN")
    assert late.suggest() is None
    late.close()
    assert records(late).trials[0].reason == "the baseline of quality 1 failed"


def test_a_reading_sent_twice_counts_once() -> None:
    core = Core(InMemoryStorage(), "s", dataclasses.replace(PLAN, budget=1, seed=3))  # its point does no harm
    run = [core.suggest() for _ in range(3)]
    for candidate in run:
        assert candidate is not None
        train(core, candidate)
    trial = core.suggest()
    assert trial is not None
    for _ in range(2):
        core.observe(trial.name, 1, figures(trial, 1))
        assert core.decide(trial.name, 1)
    train(core, trial)
    ended = records(core)
    assert ended.trials[0].state in (FINISHED, STOPPED)
    assert len(core.trials.trials) == 1
    # Told again from a checkpoint, by a worker that does not know that they have ended.
    for candidate in (trial, run[0]):
        assert candidate is not None
        core.observe(candidate.name, PLAN.epochs, {"val/bpp": 99.0, "val/mse": 1.0})
        assert not core.decide(candidate.name, 1) and not core.decide(candidate.name, PLAN.epochs)
    core.fail(trial.name, "too late")
    assert records(core) == ended


def test_rate_change_has_bd_rates_sign() -> None:
    base = {"val/bpp": 0.5, "val/mse": 100.0}
    assert rd_cost(base, "val", 0.01) == pytest.approx(1.5)
    assert rd_cost_change(base, base, "val", 0.0067) == 0
    assert rd_cost_change({"val/bpp": 0.45, "val/mse": 100.0}, base, "val", 0.0067) == pytest.approx(-10)
    assert rd_cost_change({"val/bpp": 0.5, "val/mse": 110.0}, base, "val", 0.0067) == pytest.approx(13.4)


def test_optuna_reads_the_study_as_its_own() -> None:
    """Storage, dashboard and samplers of Optuna work on the trials' study: no foreign trial in it."""
    core = Core(InMemoryStorage(), "s", PLAN)
    run_all(core)
    assert core.trials.best_trial.params.keys() == {"alpha", "strategy"}
    importance = optuna.importance.get_param_importances(core.trials)
    assert importance.keys() == {"alpha", "strategy"}
    own = Core(InMemoryStorage(), "s", dataclasses.replace(PLAN, sampler="surrogate"))
    run_all(own)
    assert own.trials.best_trial.params.keys() == {"quality", "alpha", "strategy"}
