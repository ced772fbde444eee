"""When a trial ends at a rung: by rank, and by what the model expects."""

from __future__ import annotations

from search.decide.stopping import owed, should_stop, worth_finishing


def test_the_best_in_eta_go_on_at_a_rung() -> None:
    assert not should_stop(-1.0, [], 3)
    assert should_stop(5.0, [], 3)
    assert should_stop(1.0, [0.0], 3)
    assert not should_stop(-1.0, [0.0], 3)
    assert should_stop(0.5, [1.0], 3)  # best of two, but worse than the baseline
    assert not should_stop(0.5, [1.0, 2.0], 3)  # one in three
    others = [0.0, 1, 2, 3, 4, 5]
    assert not should_stop(0.5, others, 3)  # second of seven
    assert should_stop(1.5, others, 3)  # third of seven


def test_ties_do_not_stop_and_the_best_in_eta_grow_with_the_arrivals() -> None:
    assert not should_stop(1.0, [1.0, 1.0], 3) and not should_stop(0.0, [0.0], 3)
    assert should_stop(1.0, [0.0, 2.0, 3.0, 4.0], 3)  # one of five
    assert not should_stop(1.0, [0.0, 2.0, 3.0, 4.0, 5.0], 3)  # two of six
    assert should_stop(1.0, [0.0], 2) and not should_stop(1.0, [], 1)


def test_what_is_worth_finishing() -> None:
    assert worth_finishing(5.0, 1.0, 0.0, is_owed=False)
    assert not worth_finishing(5.0, 0.0, 0.0, is_owed=False)
    assert worth_finishing(5.0, 0.0, 0.0, is_owed=True)
    assert not worth_finishing(5.0, 0.0, 9.0, is_owed=True)  # clearly harmful
    assert worth_finishing(5.0, 1.0, 9.0, is_owed=True)
    assert not worth_finishing(684.0, 1.0, 0.0, is_owed=True)  # no promised gain is believed of that


def test_every_rate_is_owed_finished_trials() -> None:
    """A few at first, then a part of an equal share."""
    assert owed(0, 0, 6) and owed(1, 30, 6)
    assert not owed(30, 30, 1) and not owed(10, 30, 6)
    assert not owed(20, 60, 6)  # more than its share
    for finished in range(40):
        assert owed(finished, 100, 3) >= owed(finished + 1, 100, 3) >= owed(finished + 1, 50, 3)


def test_the_bounds_of_what_is_worth_finishing() -> None:
    assert worth_finishing(99.9, 0.18, 0.0, is_owed=False) and not worth_finishing(100.0, 9.0, 0.0, True)
    assert not worth_finishing(0.0, 0.17, 0.0, is_owed=False)
    assert worth_finishing(0.0, 0.0, 0.99, is_owed=True) and not worth_finishing(0.0, 0.0, 1.0, True)


def test_a_rate_is_owed_three_quarters_of_an_equal_share() -> None:
    assert owed(2, 2, 6) and not owed(3, 3, 6)
    assert owed(14, 60, 3) and not owed(15, 60, 3)
