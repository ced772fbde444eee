"""The model: its gradient, its limits, and that it learns what it is there to learn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from search.decide import surrogate
from search.decide.surrogate import (
    PRIORS,
    Array,
    Hyperparameters,
    Points,
    fit,
    pins,
    prior,
    squash,
    unsquash,
)
from tests.support.surrogate_data import (
    HARMFUL,
    HARMLESS,
    HIGHEST,
    LOWEST,
    RATES,
    STRATEGIES,
    data,
    final,
    gathered,
    points,
    posterior_of,
    replace_trials,
    rows_of,
    truth,
    usual,
)


def test_the_gradient_of_the_fit_equals_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    mean, sigma = prior(STRATEGIES)
    elsewhere = mean + 0.3 * sigma * np.random.default_rng(2).normal(size=len(mean))
    seen: list[int] = []

    def checked(cost: Callable[[Array], tuple[float, Array]], start: Array, **_: object) -> SimpleNamespace:
        value, gradient = cost(elsewhere)
        steps = 1e-5 * np.eye(len(elsewhere))
        differences = [(cost(elsewhere + step)[0] - cost(elsewhere - step)[0]) / 2e-5 for step in steps]
        assert math.isfinite(value) and gradient == pytest.approx(np.array(differences), rel=1e-4, abs=1e-4)
        seen.append(len(gradient))
        return SimpleNamespace(x=start)

    monkeypatch.setattr(surrogate, "minimize", checked)
    fit(data(60), STRATEGIES)
    assert seen and set(seen) == {len(PRIORS) + 2}


def test_a_fit_makes_the_readings_likelier_and_keeps_to_its_bounds() -> None:
    readings = data(60)
    mean, sigma = prior(STRATEGIES)
    theta = fit(readings, STRATEGIES)
    assert (np.abs(theta - mean) <= 3 * sigma + 1e-9).all()
    assert not np.allclose(theta, mean)
    assert fit(readings, STRATEGIES) == pytest.approx(theta, abs=0)  # a function of its arguments


def test_the_covariance_is_symmetric_definite_and_has_the_variance_on_its_diagonal() -> None:
    p = points(40)
    p = p.joined(dataclasses.replace(p, trial=np.full(40, -1)))  # the same without their trials
    for seed in range(5):
        mean, sigma = prior(STRATEGIES)
        theta = mean + sigma * np.random.default_rng(seed).normal(size=len(mean))
        hyper = Hyperparameters(torch.from_numpy(theta))
        matrix = hyper.covariance(p, p)
        assert torch.equal(matrix, matrix.T) or torch.allclose(matrix, matrix.T, atol=1e-12)
        assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-9 * float(matrix.trace())
        assert matrix.diagonal().numpy() == pytest.approx(hyper.variance(p).numpy())


def test_every_hyperparameter_is_learnt() -> None:
    """None is without influence on what a search of several rates and strategies measures."""
    theta = torch.from_numpy(prior(STRATEGIES)[0]).requires_grad_()
    hyper, p = Hyperparameters(theta), points(40)
    total = hyper.covariance(p, p).sum() + hyper.harm(p).sum() + hyper.reading_noise(p).sum()
    (gradient,) = torch.autograd.grad(total, theta)
    assert (gradient != 0).all() and gradient.isfinite().all()


def test_squash_keeps_savings_and_compresses_harm() -> None:
    values = np.array([-8.0, -0.1, 0.0, 0.01, 3.0, 300.0])
    squashed = squash(values)
    assert squashed[:3] == pytest.approx(values[:3])
    assert squashed[3] == pytest.approx(0.01, rel=0.01)
    assert squashed[5] < 30
    assert (np.diff(squashed) > 0).all()
    assert unsquash(squashed) == pytest.approx(values)
    assert squash(unsquash(np.array([-3.0, 0.0, 0.2, 9.0]))) == pytest.approx([-3.0, 0.0, 0.2, 9.0])


def test_the_posterior_passes_through_precise_data() -> None:
    quiet = usual(log_noise_low=math.log(1e-3), log_noise_high=math.log(1e-3))
    alphas, values = [-7.5, -7.0, -6.5], np.array([-0.5, -1.5, 0.4])
    at = dataclasses.replace(final(alphas, 0, 0.013), trial=np.arange(3))
    posterior = posterior_of(gathered(rows_of(at, values)), quiet)
    assert unsquash(posterior.mean(final(alphas, 0, 0.013))) == pytest.approx(values, abs=0.02)
    assert posterior.std(final(alphas, 0, 0.013)).max() < 0.02
    assert posterior.std(final([-5.0], 0, 0.013))[0] > 0.2  # and knows little elsewhere


def test_far_from_all_readings_harm_grows_with_alpha() -> None:
    """It returns to its mean function: nothing below the onset, more and more beyond it."""
    posterior = posterior_of(gathered([]), usual())
    for strategy in range(3):
        for lmbda in (LOWEST, HIGHEST):
            mean = posterior.mean(final(np.linspace(-9.4, -1, 60), strategy, lmbda))
            assert (np.diff(mean) > -0.02).all()
            assert abs(mean[0]) < 0.1 and mean[-1] > 3
    higher, lower = (posterior.mean(final([-5.5], 0, lmbda))[0] for lmbda in (HIGHEST, LOWEST))
    assert higher > lower + 1  # harm begins at smaller alphas where lambda is larger
    near, far = (posterior.mean(final([-5.5], s, HIGHEST))[0] for s in (0, 1))
    assert near > far + 1  # and later for z
    read = posterior_of(gathered(rows_of(final([-8.0], 0, HIGHEST), np.array([-2.0]))), usual())
    away = final([HARMFUL + 2], 0, HIGHEST)
    assert read.mean(away) == pytest.approx(posterior.mean(away), abs=0.1)


def test_beyond_the_usual_lambdas_the_noise_between_seeds_is_that_at_their_ends() -> None:
    hyper = Hyperparameters(torch.from_numpy(usual()))
    lambdas = (1e-5, LOWEST, 0.01, HIGHEST, 60.5)
    lowest, low, middle, high, highest = (float(hyper.noise(final([-7.0], 0, lmbda))[0]) for lmbda in lambdas)
    assert lowest == low < middle < high == highest


def test_a_vanishing_alpha_is_the_baseline() -> None:
    posterior, far = posterior_of(data(40)), pins(1e-8, 3, RATES)
    assert np.abs(posterior.mean(far)).max() < 0.3
    assert posterior.std(far).max() < 0.3


def test_it_finds_the_optimum_of_every_rate() -> None:
    posterior = posterior_of(data(120))
    grid = np.linspace(-8, -5, 61)
    for lmbda in RATES:
        found = []
        for strategy in range(3):
            at = final(grid, strategy, lmbda)
            mean, true = posterior.mean(at), truth(at)
            best = int(np.argmin(mean))
            found.append((float(mean[best]), float(true[best]), float(true.min())))
        assert min(found)[1] - min(row[2] for row in found) < 0.6


def test_pending_trials_take_uncertainty_away_and_leave_the_mean() -> None:
    readings, at = data(40), points(12, 5)
    at = dataclasses.replace(at, trial=1000 + np.arange(12))
    theta = fit(readings, STRATEGIES)
    without, pending = posterior_of(readings, theta), posterior_of(readings, theta, at)
    assert (pending.std(at) < without.std(at)).all()
    assert pending.mean(at) == pytest.approx(without.mean(at), abs=1e-9)
    assert np.diag(pending.covariance(at)) == pytest.approx(pending.std(at) ** 2, rel=1e-6, abs=1e-9)
    none = posterior_of(readings, theta, Points.of([]))
    assert none.std(at) == pytest.approx(without.std(at))


def test_known_noise_and_averages_count() -> None:
    """A reading known to be noisy, or one of few, says less."""
    p = dataclasses.replace(points(30), progress=np.full(30, 1 / 3))
    unseeded = dataclasses.replace(p, trial=np.full(30, -1))
    spread = []
    for count, variance in ((1.0, 0.0), (1.0, 4.0), (5.0, 0.0)):
        readings = gathered(rows_of(p, np.full(30, -1.0), count, variance))
        spread.append(posterior_of(readings, usual()).std(unseeded).mean())
    assert spread[2] < spread[0] < spread[1]


def test_symmetric_noise_gives_an_unbiased_mean() -> None:
    """Noise is added to percent: the squashed readings of a noisy rate lie far below 0 in the mean, and their
    tangents do not."""
    theta = usual(log_noise_high=math.log(2.0), log_early_noise=math.log(13.0))
    alphas, found = np.linspace(-8, -7.6, 100), []
    for seed in range(6):
        at = Points.of([(alpha, 0, math.log10(HIGHEST), 1 / 9, i) for i, alpha in enumerate(alphas)])
        value = np.random.default_rng(seed).normal(size=100)
        value = 20 * (value - value.mean()) / value.std()
        assert squash(value).mean() < -4
        posterior = posterior_of(gathered(rows_of(at, value)), theta)
        assert posterior.noise(at)[0] == pytest.approx(20, rel=0.05)
        found.append(float(posterior.mean(dataclasses.replace(at, trial=np.full(100, -1))).mean()))
    assert abs(np.median(found)) < 1 and np.abs(found).max() < 3


def test_the_noise_of_every_rate_is_found() -> None:
    draw = np.random.default_rng(0)
    low, high = 0.15, 2.5
    rows, noises, trial = [], [], 0
    for lmbda in RATES:
        place = math.log(lmbda / LOWEST) / math.log(HIGHEST / LOWEST)
        noises.append(low ** (1 - place) * high**place)
        for alpha in np.linspace(-8, -7.6, 12):
            at = (alpha, trial % 2 * 2, math.log10(lmbda), 1.0, trial)
            rows.append((*at, noises[-1] * draw.normal(), 1, 0.0))
            trial += 1
    hyper = Hyperparameters(torch.from_numpy(fit(gathered(rows), STRATEGIES)))
    everywhere = Points.of([(HARMLESS, 0, math.log10(lmbda), 1.0, -1) for lmbda in RATES])
    found = hyper.noise(everywhere).numpy()
    assert (found / noises < 2).all() and (found / noises > 0.5).all()


def test_early_readings_are_noisier_and_harm_hides_noise() -> None:
    hyper = Hyperparameters(torch.from_numpy(usual()))
    early, late, full = (Points.of([(HARMLESS, 0, -2.0, t, 0)]) for t in (0.1, 0.5, 1.0))
    own = [float(hyper.reading_noise(p)[0]) for p in (early, late, full)]
    assert own[0] > own[1] > own[2] == 0
    squashed = dataclasses.replace(full, slope=np.array([0.1]))
    assert float(hyper.noise(squashed)[0]) == pytest.approx(0.1 * float(hyper.noise(full)[0]))


def test_what_is_not_a_number_is_left_out() -> None:
    p, value = points(10), np.full(10, -1.0)
    value[3], value[4] = np.nan, np.inf
    readings = gathered(rows_of(p, value))
    assert len(readings.points) == 8 + 18
    assert np.isfinite(readings.value).all()


def test_a_weight_far_below_the_onset_of_harm_does_nothing() -> None:
    """So lucky readings there are noise, not a gain: searches recommended z at 1e-8 where it is inert."""
    theta, lowest = usual(), final([-8.0], 1, LOWEST)
    lucky = rows_of(replace_trials(final([-8.0, -7.9, -7.8], 1, LOWEST)), np.array([-1.5, -1.0, -2.0]))
    posterior = posterior_of(gathered(lucky), theta)
    assert abs(posterior.mean(lowest)[0]) < 0.05 and posterior.std(lowest)[0] < 0.05
    seen = final([-5.0, -4.8, -4.6], 1, LOWEST)
    gain = rows_of(replace_trials(seen), np.array([-1.5, -1.0, -2.0]))
    assert posterior_of(gathered(gain), theta).mean(final([-4.8], 1, LOWEST))[0] < -1


def test_a_rates_own_gain_is_not_spread_over_its_neighbours() -> None:
    """Many readings say that one rate gains 2 % and the next one nothing: both are believed."""
    rates = sorted(RATES)
    rows = []
    for place, level in ((1, -2.0), (2, 0.0), (3, -2.0)):
        at = final([-7.2, -7.0, -6.8], 0, rates[place])
        for repeat in range(3):
            trial = np.arange(3) + 100 * place + 10 * repeat
            rows += rows_of(dataclasses.replace(at, trial=trial), np.full(3, level))
    posterior = posterior_of(gathered(rows))
    found = [posterior.mean(final([-7.0], 0, rates[place]))[0] for place in (1, 2, 3)]
    assert found[0] < -1.4 and found[1] > -0.6 and found[2] < -1.4


def test_the_same_point_many_times_does_not_break_it() -> None:
    """Repeated points make the covariance singular but for the noise."""
    rows = rows_of(Points.of([(-7.0, 0, -2.0, 1.0, 0)] * 80), np.full(80, -1.0), 1e12)
    at = Points.of([(-7.0, 0, -2.0, 1.0, 0)] * 40)
    posterior = posterior_of(gathered(rows), usual(), at)
    assert posterior.mean(at)[0] == pytest.approx(-1.0, abs=0.2)
    assert np.isfinite(posterior.covariance(at)).all()
