"""What the engine asks of a scheduler (search.engine.tune.TrialScheduler), asked of each that there is: the
decision core, with and without a fork, a chain and baselines on other seeds, and the confirmation."""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage

from search.base.space import Candidate, rungs
from search.decide.core import Core
from search.records.confirm import Confirmation, points_to_confirm
from search.records.noise import WithNoise
from search.store.storage import sqlite_address
from tests.search.decide.test_core import PLAN, figures, first_epoch, records, run_all

if TYPE_CHECKING:  # the process of its own has no use for Ray
    from search.engine.tune import TrialScheduler

PLAIN = dataclasses.replace(PLAN, budget=9)
NOISY = dataclasses.replace(PLAIN, noise_seeds=1)
FORKED = dataclasses.replace(PLAIN, sampler="surrogate", fork=3, rungs=rungs(9, 1, 3, 3))
CHAINED = dataclasses.replace(NOISY, chain=True)


@functools.cache
def to_confirm() -> tuple[Candidate, ...]:
    """The best point of each rate that a search found, and the baselines, on another seed."""
    core = Core(InMemoryStorage(), "s", PLAIN)
    run_all(core)
    found = points_to_confirm(records(core), PLAIN, best=1, seeds=1)
    assert len(found) > len(PLAN.qualities)
    return tuple(found)


@dataclass(frozen=True)
class Kind:
    """A scheduler, opened over a storage, and how many trainings it is to propose."""

    name: str
    total: Callable[[], int]
    open: Callable[[BaseStorage | str], TrialScheduler]


def open_plain(storage: BaseStorage | str) -> TrialScheduler:
    return Core(storage, "s", PLAIN)


def open_forked(storage: BaseStorage | str) -> TrialScheduler:
    return Core(storage, "s", FORKED)


def open_confirmation(storage: BaseStorage | str) -> TrialScheduler:
    return Confirmation(storage, "s", PLAIN, list(to_confirm()), "val")


def open_with_noise(storage: BaseStorage | str) -> TrialScheduler:
    return WithNoise(Core(storage, "s", NOISY))


def open_chained(storage: BaseStorage | str) -> TrialScheduler:
    return WithNoise(Core(storage, "s", CHAINED))


KINDS = [
    Kind("core", lambda: 3 + 9, open_plain),
    Kind("core with noise", lambda: 3 + 3 + 9, open_with_noise),
    Kind("core with a fork", lambda: 3 + 9, open_forked),
    Kind("core with a chain and noise", lambda: 3 + 3 + 9, open_chained),
    Kind("confirmation", lambda: len(to_confirm()), open_confirmation),
]
each = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def epochs_of(scheduler: TrialScheduler, candidate: Candidate) -> range:
    return range(first_epoch(scheduler.plan, candidate), scheduler.plan.epochs + 1)


def begin(scheduler: TrialScheduler) -> Candidate:
    candidate = scheduler.suggest()
    assert candidate is not None
    return candidate


def run(reopened: Callable[[], TrialScheduler], most: int = 99) -> list[tuple[Candidate, int]]:
    """Train, one after the other, at most so many more trainings; each with the epoch that it ended after.
    Every question is asked of what `reopened` gives."""
    done: list[tuple[Candidate, int]] = []
    while len(done) < most and (candidate := reopened().suggest()) is not None:
        for epoch in epochs_of(reopened(), candidate):
            reopened().observe(candidate.name, epoch, figures(candidate, epoch))
            if not reopened().decide(candidate.name, epoch):
                break
        done.append((candidate, epoch))
    return done


def run_on(scheduler: TrialScheduler, most: int = 99) -> list[tuple[Candidate, int]]:
    return run(lambda: scheduler, most)


def held(storage: BaseStorage) -> list[object]:
    """All that the storage says of the trainings."""
    summaries = optuna.get_all_study_summaries(storage)
    return [
        (trial.number, trial.state, trial.user_attrs, trial.intermediate_values, trial.params)
        for summary in sorted(summaries, key=lambda summary: summary.study_name)
        for trial in optuna.load_study(storage=storage, study_name=summary.study_name).trials
    ]


@each
def test_as_many_are_proposed_as_planned_each_once(kind: Kind) -> None:
    storage = InMemoryStorage()
    done = run_on(kind.open(storage))
    assert len({candidate.name for candidate, _ in done}) == len(done) == kind.total()
    for scheduler in (kind.open(storage), kind.open(storage)):
        assert (scheduler.suggest(), scheduler.waits(), scheduler.unfinished()) == (None, False, [])


@each
def test_a_failed_training_counts_and_is_not_proposed_again(kind: Kind) -> None:
    storage = InMemoryStorage()
    scheduler = kind.open(storage)
    done = run_on(scheduler, most=len(PLAN.qualities))  # the baselines, on which the others depend
    failed = []
    while (candidate := scheduler.suggest()) is not None:
        scheduler.fail(candidate.name, "out of memory")
        assert not scheduler.decide(candidate.name, 1) and scheduler.unfinished() == []
        failed.append(candidate.name)
    assert len(set(failed)) == kind.total() - len(done)
    before = held(storage)
    for name in failed:
        kind.open(storage).fail(name, "again")  # the first reason stays
    assert held(storage) == before and kind.open(storage).suggest() is None


@each
def test_opened_anew_for_every_question_it_decides_the_same(kind: Kind) -> None:
    """It holds nothing that the storage does not."""
    storage = InMemoryStorage()
    assert run(lambda: kind.open(storage)) == run_on(kind.open(InMemoryStorage()))


def _run_apart(addresses: list[str], most: int, told: multiprocessing.Queue[object]) -> None:
    schedulers = [kind.open(address) for kind, address in zip(KINDS, addresses, strict=True)]
    told.put([run_on(scheduler, most) for scheduler in schedulers])


def test_a_search_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    """The first of them ends in the middle; what it knew beside the storage is lost with it."""
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    addresses = [sqlite_address(tmp_path / f"{number}.db") for number in range(len(KINDS))]
    process = context.Process(target=_run_apart, args=(addresses, 5, told))
    process.start()
    halves = told.get(timeout=120)
    process.join()
    for kind, address, half in zip(KINDS, addresses, halves, strict=True):
        rest = run_on(kind.open(address))
        assert half + rest == run_on(kind.open(InMemoryStorage())), kind.name


@each
def test_what_is_unfinished_is_known_to_the_next_process(kind: Kind) -> None:
    storage = InMemoryStorage()
    scheduler = kind.open(storage)
    first, second = begin(scheduler), begin(scheduler)
    scheduler.observe(first.name, 1, figures(first, 1))
    again = kind.open(storage)
    assert again.unfinished() == scheduler.unfinished() == [first, second]
    for epoch in epochs_of(again, first):
        again.observe(first.name, epoch, figures(first, epoch))
        assert again.decide(first.name, epoch) == (epoch < again.plan.epochs)
    assert kind.open(storage).unfinished() == [second]
    again.close()
    assert kind.open(storage).unfinished() == [] and not kind.open(storage).decide(second.name, 1)


@each
def test_what_is_told_twice_or_too_late_changes_nothing(kind: Kind) -> None:
    """A training that goes on from its checkpoint tells all that it ever measured."""
    storage = InMemoryStorage()
    scheduler = kind.open(storage)
    candidate = begin(scheduler)
    scheduler.observe(candidate.name, 1, figures(candidate, 1))
    before = held(storage)
    scheduler.observe(candidate.name, 1, {"val/bpp": 99.0, "val/mse": 1.0})
    assert held(storage) == before
    for epoch in epochs_of(scheduler, candidate):
        scheduler.observe(candidate.name, epoch, figures(candidate, epoch))
        scheduler.decide(candidate.name, epoch)
    before = held(storage)
    for late in (scheduler, kind.open(storage)):
        late.observe(candidate.name, 1, {"val/bpp": 99.0, "val/mse": 1.0})
        assert not late.decide(candidate.name, 1) and not late.decide(candidate.name, late.plan.epochs)
        late.fail(candidate.name, "too late")
        late.end(candidate.name, "too late")
    assert held(storage) == before


@each
def test_an_unknown_training_is_refused(kind: Kind) -> None:
    storage = InMemoryStorage()
    scheduler = kind.open(storage)
    begin(scheduler)
    before = held(storage)
    for name in ("trial-700", "trial-700-s1", "baseline-q5", "nothing"):
        for told in (
            lambda name: scheduler.observe(name, 1, {"val/bpp": 1.0, "val/mse": 1.0}),
            lambda name: scheduler.decide(name, 1),
            lambda name: scheduler.fail(name, "x"),
            lambda name: scheduler.end(name, "x"),
        ):
            with pytest.raises((LookupError, StopIteration, ValueError)):
                told(name)
    assert held(storage) == before


@each
def test_one_that_is_ended_goes_on_no_more(kind: Kind) -> None:
    """Of the limit of a search, say: what it measured stays."""
    storage = InMemoryStorage()
    scheduler = kind.open(storage)
    run_on(scheduler, most=len(PLAN.qualities))
    candidate = begin(scheduler)
    epoch = epochs_of(scheduler, candidate)[0]
    scheduler.observe(candidate.name, epoch, figures(candidate, epoch))
    scheduler.end(candidate.name, "no time left")
    assert not scheduler.decide(candidate.name, epoch) and scheduler.unfinished() == []
    (attributes,) = [told[2] for told in held(storage) if "reason" in told[2]]  # type: ignore[index]
    assert attributes["reason"] == "no time left"
    assert attributes[f"readings:{epoch}"] == figures(candidate, epoch)
