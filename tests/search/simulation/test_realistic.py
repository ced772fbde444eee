"""The family of responses that are like real trainings', over many members."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lic.models.architectures import STRATEGIES
from lic.recipe import LAMBDAS
from search.simulation.realistic import Realistic

EPOCHS = 9
MEMBERS = range(40)
LMBDAS = tuple(LAMBDAS.values())
ALPHAS = np.geomspace(1e-11, 1e-2, 361)


@pytest.fixture(scope="module")
def family() -> list[Realistic]:
    return [Realistic(member, EPOCHS) for member in MEMBERS]


def full(one: Realistic, strategy: str, lmbda: float) -> list[float]:
    return [one.full(float(alpha), strategy, lmbda) for alpha in ALPHAS]


def test_gains_are_small_and_at_some_rates_there_are_none(family: list[Realistic]) -> None:
    """Whatever the strategy of one latent, at most 3.5 %."""
    best = np.array([[min(full(one, "y", lmbda)) for lmbda in LMBDAS] for one in family])
    assert best.min() >= -3.5 and best.max() <= 1e-4
    none = best > -1e-4
    assert 0.1 < none.mean() < 0.7
    assert (best < -1).mean() > 0.2
    assert 0 < (none.sum(1) == 6).sum() < 20 and (none.any(1) & ~none.all(1)).sum() >= 5


def test_a_vanishing_alpha_changes_nothing_and_a_large_one_harms(family: list[Realistic]) -> None:
    for one in family:
        for lmbda in LMBDAS:
            assert one.full(1e-15, "y", lmbda) == pytest.approx(0, abs=1e-3)
            harm = [one.full(alpha, "y", lmbda) for alpha in (1e-5, 1e-4, 1e-3)]
            assert 10 < harm[1] < harm[2]
            assert harm[0] < harm[1]
        assert one.full(1e-5, "y", max(LMBDAS)) > one.full(1e-5, "y", min(LMBDAS))


def test_the_window_moves_down_by_about_a_decade_per_decade_of_lambda(family: list[Realistic]) -> None:
    for one in family:
        ends = []
        for lmbda in (min(LMBDAS), max(LMBDAS)):
            response = np.array(full(one, "y", lmbda))
            ends.append(math.log10(ALPHAS[np.argmax(response > 20)]))
        decades = math.log10(max(LMBDAS) / min(LMBDAS))
        assert 0.7 < (ends[0] - ends[1]) / decades < 1.4


def test_both_latents_add_up_and_an_inert_one_does_nothing(family: list[Realistic]) -> None:
    for one in family:
        for lmbda in LMBDAS:
            y, z, both = (np.array(full(one, strategy, lmbda)) for strategy in ("y", "z", "y+z"))
            assert both == pytest.approx(y + z)
            if not one.z_acts:
                assert (z == 0).all()
    acting = [one for one in family if one.z_acts]
    assert 0.3 < len(acting) / len(family) < 0.9
    for one in acting:
        y, z = (np.array(full(one, strategy, 0.0130)) for strategy in ("y", "z"))
        right = math.log10(ALPHAS[np.argmax(z > 20)] / ALPHAS[np.argmax(y > 20)])
        assert right > 1.5  # it harms decades later


def test_noise_is_log_linear_in_lambda(family: list[Realistic]) -> None:
    for one in family:
        noises = np.log([one.noise(lmbda) for lmbda in LMBDAS])
        slopes = np.diff(noises) / np.diff(np.log(LMBDAS))
        assert slopes == pytest.approx(slopes[0])
        assert 0.1 <= one.noise(min(LMBDAS)) <= 0.3 and 1 <= one.noise(max(LMBDAS)) <= 4


def test_a_reading_is_a_function_of_its_arguments() -> None:
    one, same, other = Realistic(3, EPOCHS), Realistic(3, EPOCHS), Realistic(4, EPOCHS)
    point = (1e-7, "y", 0.0130)
    assert one(*point, 3, 0) == one(*point, 3, 0) == same(*point, 3, 0)
    one(2e-7, "z", 0.0483, 1, 5)  # and of nothing that was asked before
    assert one(*point, 3, 0) == same(*point, 3, 0)
    changed = [one(1.01e-7, "y", 0.0130, 3, 0), one(1e-7, "z", 0.0130, 3, 0), one(1e-7, "y", 0.0250, 3, 0),
               one(*point, 4, 0), one(*point, 3, 1), other(*point, 3, 0)]  # fmt: skip
    assert one(*point, 3, 0) not in changed


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_readings_at_full_length_scatter_around_the_response_by_the_noise(strategy: str) -> None:
    one = Realistic(5, EPOCHS)
    for lmbda in (min(LMBDAS), max(LMBDAS)):
        away = [one(1e-8, strategy, lmbda, EPOCHS, seed) for seed in range(400)]
        assert np.mean(away) == pytest.approx(one.full(1e-8, strategy, lmbda), abs=0.2 * one.noise(lmbda))
        assert np.std(away) == pytest.approx(one.noise(lmbda), rel=0.12)
        early = np.std([one(1e-8, strategy, lmbda, 1, seed) for seed in range(400)])
        assert 3 * one.noise(lmbda) < early < 30 * one.noise(lmbda)
