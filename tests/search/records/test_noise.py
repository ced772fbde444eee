"""The scheduler of a search that also trains its baselines on other seeds."""

from __future__ import annotations

from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from search.base.space import BASELINE, CONFIRMATION
from search.decide.core import Core
from search.records.confirm import Confirmation, points_to_confirm
from search.records.noise import WithNoise
from search.store.optuna_internals import storage_of
from tests.search.decide.test_core import records
from tests.search.decide.test_noise import NOISY, measured, trained


def test_baselines_on_other_seeds_come_after_the_baselines_and_before_the_trials() -> None:
    core = Core(InMemoryStorage(), "s", NOISY)
    done = trained(WithNoise(core))
    assert [c.name for c in done[:3]] == ["baseline-q1", "baseline-q3", "baseline-q6"]
    assert [c.name for c in done[3:9]] == [f"baseline-q{q}-s{s}" for s in (1, 2) for q in (1, 3, 6)]
    assert all(c.role == BASELINE for c in done[:9]) and len(done) == 9 + 9
    assert len(core.trials.trials) == 9 and len(core.baselines.trials) == 3


def test_the_confirmation_does_not_train_them_again() -> None:
    core = Core(InMemoryStorage(), "s", NOISY)
    trained(WithNoise(core))
    points = points_to_confirm(records(core), NOISY, best=1, seeds=3)
    confirmation = Confirmation(storage_of(core.trials), "s", NOISY, points, "val")
    # Two seeds have their baselines; on the third they are only due once a point is undecided.
    first = []
    while (candidate := confirmation.suggest()) is not None:
        first.append(candidate)
    assert {c.role for c in first} == {CONFIRMATION} and {c.seed for c in first} == {1, 2}


def test_the_baselines_of_the_search_come_before_all_others_even_where_one_is_late() -> None:
    """Each is compared with them."""
    scheduler = WithNoise(Core(InMemoryStorage(), "s", NOISY))
    first = [scheduler.suggest() for _ in NOISY.qualities]
    assert [candidate.name for candidate in first if candidate] == [f"baseline-q{q}" for q in NOISY.qualities]
    following = scheduler.suggest()
    assert following is not None and following.seed > NOISY.seed
    assert [candidate.name for candidate in scheduler.unfinished()] == [
        *(f"baseline-q{q}" for q in NOISY.qualities), following.name
    ]  # fmt: skip


def test_what_is_told_reaches_the_study_of_the_training() -> None:
    core = Core(InMemoryStorage(), "s", NOISY)
    scheduler = WithNoise(core)
    for _ in NOISY.qualities:
        candidate = scheduler.suggest()
        assert candidate is not None
        for epoch in range(1, NOISY.epochs + 1):
            scheduler.observe(candidate.name, epoch, measured(candidate, epoch))
            assert scheduler.decide(candidate.name, epoch) == (epoch < NOISY.epochs)
    failed, ended = scheduler.suggest(), scheduler.suggest()
    assert failed is not None and ended is not None
    scheduler.fail(failed.name, "out of memory")
    scheduler.end(ended.name, "no time left")
    assert scheduler.unfinished() == []
    noise = scheduler._noise.study.get_trials()
    assert [trial.user_attrs["reason"] for trial in noise] == ["out of memory", "no time left"]
    assert {trial.state for trial in noise} == {TrialState.FAIL} and core.trials.get_trials() == []


def test_closing_marks_the_unfinished_of_both_studies() -> None:
    scheduler = WithNoise(Core(InMemoryStorage(), "s", NOISY))
    for _ in range(len(NOISY.qualities) + 1):
        scheduler.suggest()
    scheduler.close()
    assert scheduler.unfinished() == []
