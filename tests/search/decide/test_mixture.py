"""Posteriors under several places where z may act, weighed by their probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from search.decide.mixture import Mixture, places
from search.decide.surrogate import Posterior, gather, pins, prior
from tests.support.surrogate_data import (
    LOWEST,
    RATES,
    STRATEGIES,
    data,
    final,
    gathered,
    posterior_of,
    replace_trials,
    rows_of,
    usual,
)


def test_where_z_acts_is_open_while_its_readings_show_nothing() -> None:
    """Inert readings of z on the left fit any place further right: the most probable place must not speak for
    them all, or z is never tried where it saves bits. What harms says where it acts."""
    seen = final([-8.0, -7.5, -7.0], 1, LOWEST)
    inert = gathered(rows_of(replace_trials(seen), np.zeros(3)))
    told = places(inert, STRATEGIES, usual())
    assert told.weights.sum() == pytest.approx(1) and len(told.parts) >= 3 and told.weights.max() < 0.6
    far = final([-5.5], 1, LOWEST)
    alone = posterior_of(inert, usual()).std(far)
    assert told.each(far)[1] > alone
    harmful = final([-6.5, -6.0, -5.5], 1, LOWEST)
    harmed = gathered(rows_of(replace_trials(harmful), np.array([8.0, 20.0, 40.0])))
    z = list(prior(STRATEGIES)[0]).index(-2.0)
    mixtures = [places(readings, STRATEGIES, usual()) for readings in (inert, harmed)]
    where = [sum(m.weights * [part.theta[z] for part in m.parts]) for m in mixtures]
    assert where[0] == pytest.approx(-2, abs=0.3) and where[1] > where[0] + 0.7


def test_a_mixture_has_the_moments_of_its_parts() -> None:
    readings, somewhere = data(30), final([-7.5, -6.5, -5.5], 1, LOWEST)
    weights, parts = np.array([0.25, 0.75]), [Posterior(usual(onset=at), readings) for at in (-6.3, -6.0)]
    mean, covariance = Mixture(parts, weights).joint(somewhere)
    draws = np.concatenate(
        [
            np.random.default_rng(1).multivariate_normal(
                part.mean(somewhere), part.covariance(somewhere), int(weight * 400_000)
            )
            for weight, part in zip(weights, parts, strict=True)
        ]
    )
    assert mean == pytest.approx(draws.mean(0), abs=0.01)
    assert covariance == pytest.approx(np.cov(draws.T), abs=0.03)
    same_mean, std = Mixture(parts, weights).each(somewhere)
    assert same_mean == pytest.approx(mean) and std == pytest.approx(np.sqrt(np.diag(covariance)))


def test_without_a_free_place_there_is_one_part() -> None:
    rows = rows_of(final([-8.0, -7.0], 0, LOWEST), np.zeros(2))
    alone = gather(rows, pins(1e-8, 1, RATES))
    assert list(places(alone, ("y",), prior(("y",))[0]).weights) == [1.0]


def test_its_noise_is_that_of_the_given_hyperparameters() -> None:
    readings, at = data(20), final([-7.0], 0, LOWEST)
    mixture = places(readings, STRATEGIES, usual())
    assert mixture.noise(at) == pytest.approx(posterior_of(readings, usual()).noise(at))


def test_the_mean_lies_between_those_of_the_parts() -> None:
    readings, at = data(30), final([-6.5, -5.5], 1, LOWEST)
    parts = [posterior_of(readings, usual(onset=onset)) for onset in (-6.3, -6.0)]
    for weight in (0.0, 0.3, 1.0):
        expected = (1 - weight) * parts[0].mean(at) + weight * parts[1].mean(at)
        assert Mixture(parts, np.array([1 - weight, weight])).mean(at) == pytest.approx(expected)


def test_pending_trials_leave_weights_and_mean_and_take_uncertainty_away() -> None:
    at = replace_trials(final([-7.5, -6.5], 1, LOWEST))
    before = places(
        gathered(rows_of(replace_trials(final([-8.0], 1, LOWEST)), np.zeros(1))), STRATEGIES, usual()
    )
    after = before.awaiting(at)
    assert after.weights is before.weights and after.mean(at) == pytest.approx(before.mean(at))
    within = [[part.std(at) for part in mixture.parts] for mixture in (before, after)]
    assert (np.array(within[1]) < np.array(within[0])).all()
    assert (after.each(at)[1] < before.each(at)[1]).all()
