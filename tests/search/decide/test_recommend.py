"""Which trial is kept per quality, from recorded trials alone."""

from __future__ import annotations

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.base.space import SearchPoint
from search.decide import recommend as module
from search.decide.belief import Prediction
from search.decide.recommend import believe, expected_of, predictions, recommend
from tests.search.decide.test_belief import SURROGATE, finished, spread, trial


def study(*trials: FrozenTrial) -> optuna.Study:
    made = optuna.create_study(storage=InMemoryStorage())
    made.add_trials(trials)
    return made


def expecting(monkeypatch: pytest.MonkeyPatch, means: list[float]) -> None:
    """A model that expects these rate changes of the trials, by number."""
    found = {number: Prediction(mean, 0.2) for number, mean in enumerate(means)}
    monkeypatch.setattr(module, "predictions", lambda *_: found)


def test_without_a_finished_trial_there_is_no_model_and_every_baseline_is_kept() -> None:
    trials = study(trial(0, 1, "y", 1e-7, {1: -5.0}))
    assert believe(trials, SURROGATE) is None
    assert predictions(trials, SURROGATE) == expected_of(None, trials) == {}
    kept = recommend(trials, SURROGATE)
    assert [item.point for item in kept] == [SearchPoint(quality) for quality in SURROGATE.qualities]
    assert {(item.trial, item.expected, item.sigma, item.best_observed) for item in kept} == {
        (None, 0.0, 0.0, None)
    }
    assert {item.epochs for item in kept} == {SURROGATE.epochs}


def test_only_what_was_trained_in_full_is_predicted() -> None:
    trials = study(*spread(6), trial(6, 1, "y", 1e-7, {1: -5.0, 3: -6.0}))
    found = predictions(trials, SURROGATE)
    assert sorted(found) == list(range(6))
    assert all(prediction.std > 0 for prediction in found.values())
    assert all(prediction.mean == pytest.approx(-0.6, abs=0.5) for prediction in found.values())


def test_a_trial_without_a_weight_of_decorrelation_is_no_finished_trial() -> None:
    """As of a study that others wrote to."""
    foreign = create_trial(state=TrialState.COMPLETE, value=-3.0, user_attrs={"quality": 1})
    assert believe(study(foreign), SURROGATE) is None


def test_the_lowest_expected_is_kept_and_the_lowest_reading_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = study(
        finished(0, 1, "y", 1e-7, -3.0), finished(1, 1, "z", 2e-7, -2.0), finished(2, 3, "y", 1e-8, -9.0)
    )
    expecting(monkeypatch, [-1.0, -1.5, -0.5])
    first, second, third = recommend(trials, SURROGATE)
    assert (first.trial, first.point) == (1, SearchPoint(1, "z", 2e-7))
    assert (first.expected, first.sigma, first.best_observed) == (-1.5, 0.2, -3.0)
    assert (second.trial, third.trial) == (2, None)


@pytest.mark.parametrize(("expected", "kept"), [(-0.29, 0), (-0.27, None), (0.0, None), (0.5, None)])
def test_the_baseline_is_kept_unless_a_gain_is_probable(
    expected: float, kept: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.4 standard deviations of 0.2 %."""
    expecting(monkeypatch, [expected])
    first = recommend(study(finished(0, 1, "y", 1e-7, -3.0)), SURROGATE)[0]
    assert (first.trial, first.best_observed) == (kept, -3.0)


def test_of_two_that_are_expected_alike_the_first_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    expecting(monkeypatch, [-1.0, -1.0])
    trials = study(finished(0, 1, "y", 1e-7, -3.0), finished(1, 1, "z", 2e-7, -4.0))
    assert recommend(trials, SURROGATE)[0].trial == 0
