"""Points of the search space, how they are written, and the epochs of a plan."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lic.recipe import LAMBDAS
from search.base.space import (
    ALPHA_MAX,
    ALPHA_MIN,
    BASELINE,
    AtPoint,
    Candidate,
    Plan,
    SearchPoint,
    alpha_range,
    baseline_name,
    confirmation_name,
    enough_epochs,
    fork_epoch,
    leaves_no_rung,
    parse_lambdas,
    parse_rates,
    rungs,
    trial_name,
)


def test_trainings_have_names() -> None:
    assert (trial_name(7), trial_name(1234)) == ("trial-007", "trial-1234")
    assert (baseline_name(3), confirmation_name("mine")) == ("baseline-q3", "mine/confirmation")


@pytest.mark.parametrize(
    ("text", "qualities"),
    [("1-6", (1, 2, 3, 4, 5, 6)), ("3", (3,)), ("5,1,3", (1, 3, 5)), ("1-3,2-4,2", (1, 2, 3, 4)),
     ("2-2", (2,)), (" 1 , 2 ", (1, 2))],
)  # fmt: skip
def test_rates_are_sorted_and_each_is_there_once(text: str, qualities: tuple[int, ...]) -> None:
    assert parse_rates(text) == qualities


@pytest.mark.parametrize("text", ["", "one", "1,", "1.5", "1-2-3", "-1", "1-x"])
def test_what_is_no_rate_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ValueError, match="write quality levels like 1-6 or 1,3,5"):
        parse_rates(text)


@pytest.mark.parametrize("text", ["0", "7", "0-3", "3-7", "4-2"])
def test_rates_that_there_are_not_are_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(ValueError, match="choose quality levels from 1 to 6"):
        parse_rates(text)


def test_every_quality_has_its_lambda() -> None:
    assert [SearchPoint(quality).lmbda for quality in LAMBDAS] == sorted(LAMBDAS.values())
    plan = Plan((1, 3), ("y",), 1e-8, 1e-5, 9, (), 3, 8, 0, "random", "val", lambdas=(0.001, 0.01, 0.1))
    assert (plan.point(3, "y", 1e-7), plan.point(1).lmbda) == (SearchPoint(3, "y", 1e-7, lmbda=0.1), 0.001)
    assert plan.log_lmbda(3) == -1
    with pytest.raises(IndexError):
        plan.point(4)


def test_lambdas_are_read_in_ascending_order() -> None:
    assert parse_lambdas("0.0009, 0.0018,1e-2,60.5") == (0.0009, 0.0018, 0.01, 60.5)
    assert parse_lambdas("0.05") == (0.05,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "write numbers like 0.0018,0.0067,0.025"),
        ("0.1,,0.2", "write numbers like"),
        ("0.1;0.2", "write numbers like"),
        ("0,0.1", "every lambda must be above 0 and at most 1e"),
        ("-0.1", "above 0"),
        ("0.1,inf", "above 0"),
        ("nan", "above 0"),
        ("0.2,0.1", "in ascending order"),
        ("0.1,0.1", "in ascending order, each once"),
        (",".join(str(number) for number in range(1, 101)), "give 1 to 99 values"),
    ],
)
def test_what_is_no_list_of_lambdas_is_refused_with_the_reason(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        parse_lambdas(text)


def test_a_fork_leaves_epochs_on_both_sides() -> None:
    assert [fork_epoch(share, 9) for share in (0.0, 0.33, 0.5, 0.9)] == [0, 3, 4, 8]
    with pytest.raises(ValueError, match=r"^fork_at 0\.04 of 9 epochs is none of them; choose a fraction"):
        fork_epoch(0.04, 9)
    with pytest.raises(ValueError, match=r"^fork_at 0\.95 of 9 epochs is all of them; choose a fraction"):
        fork_epoch(0.95, 9)


@pytest.mark.parametrize(
    ("epochs", "grace", "eta", "fork", "levels"),
    [(100, 4, 3, 0, (4, 12, 36)), (9, 1, 3, 0, (1, 3)), (9, 1, 3, 3, (4, 6)), (9, 1, 3, 7, (8,)),
     (9, 1, 3, 8, ()), (9, 9, 3, 0, ()), (1, 1, 3, 0, ())],
)  # fmt: skip
def test_rungs_lie_after_the_fork_and_before_the_last_epoch(
    epochs: int, grace: int, eta: int, fork: int, levels: tuple[int, ...]
) -> None:
    assert rungs(epochs, grace, eta, fork) == levels
    assert leaves_no_rung(grace, epochs - fork) == (not levels and epochs - fork > 1)


@pytest.mark.parametrize(
    ("least", "fork_at", "grace", "expected"),
    [(9, 0.0, 0, 9), (9, 0.0, 9, 10), (9, 0.04, 0, 13), (9, 0.95, 0, 11), (9, 0.5, 5, 12), (1, 0.0, 1, 1)],
)
def test_the_fewest_epochs_with_a_fork_and_a_rung(
    least: int, fork_at: float, grace: int, expected: int
) -> None:
    assert enough_epochs(least, fork_at, grace) == expected


def test_where_no_number_of_epochs_will_do_it_stays() -> None:
    assert enough_epochs(9, 1.0) == 9
    assert enough_epochs(99_999, 0.0, 100_000) == 99_999


def test_a_bound_that_was_given_moves_the_other() -> None:
    assert alpha_range(ALPHA_MIN, ALPHA_MAX, ()) == (ALPHA_MIN, ALPHA_MAX)
    assert alpha_range(1e-7, ALPHA_MAX, {"alpha_min"}) == (1e-7, ALPHA_MAX)
    assert alpha_range(2e-4, ALPHA_MAX, {"alpha_min"}) == pytest.approx((2e-4, 0.2))
    assert alpha_range(ALPHA_MIN, 1e-8, {"alpha_max"}) == pytest.approx((1e-11, 1e-8))
    both = {"alpha_min", "alpha_max"}
    assert alpha_range(1e-5, 1e-8, both) == (1e-5, 1e-8)  # refused by search.settings.complaints


def test_baselines_on_other_seeds_are_one_per_quality_and_seed() -> None:
    plan = Plan((1, 3), ("y",), 1e-8, 1e-5, 9, (), 3, 8, 0, "random", "val", noise_seeds=3)
    assert plan.noise_baselines == 6


@pytest.mark.parametrize("point", [SearchPoint(3), SearchPoint(3, "y+z", 2e-7)])
def test_a_point_is_read_from_the_row_that_it_is_written_to(point: SearchPoint) -> None:
    assert SearchPoint.of_row(point.as_row()) == point


def test_a_row_without_strategy_and_alpha_is_the_baseline() -> None:
    assert SearchPoint.of_row({"quality": 2}) == SearchPoint(2)
    assert SearchPoint(2).as_row() == {"quality": 2, "alpha": 0.0, "strategy": ""}
    assert (SearchPoint(2).strategy_name, SearchPoint(2, "y").strategy_name) == (BASELINE, "y")


@dataclass(frozen=True)
class Found(AtPoint):
    trial: str
    point: SearchPoint
    seeds: int


def test_what_has_a_point_has_its_fields() -> None:
    found = Found("trial-000", SearchPoint(3, "y", 1e-7), 2)
    assert (found.quality, found.strategy, found.alpha, found.lmbda) == (3, "y", 1e-7, LAMBDAS[3])
    assert found.strategy_name == "y"
    row = {"trial": "trial-000", "quality": 3, "alpha": 1e-7, "strategy": "y", "seeds": 2}
    assert list(found.as_row().items()) == list(row.items())
    assert Candidate("baseline-q1", BASELINE, SearchPoint(1), 0).as_row()["strategy"] == ""
