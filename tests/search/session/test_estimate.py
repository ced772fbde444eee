"""What a search is said to take, before it starts."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest

from search.base.space import Plan
from search.run import main
from search.session.estimate import estimate
from search.session.pace import Pace
from search.settings.config import resolve
from search.settings.plan import plan_of, template_of
from search.simulation.realistic import Realistic

GIVEN = {"preset": "tiny", "model": "cheng", "budget": "10", "sampler": "random", "stopping": False,
         "steps_per_epoch": "50", "cadence": "dense"}  # fmt: skip


def test_the_arithmetic_without_stopping() -> None:
    """10 trials and 6 baselines of 9 epochs of 50 steps; the reported images at epochs 1, 3 and 9."""
    settings = resolve(GIVEN, {}, lambda _: 0).settings
    found = estimate(plan_of(settings), template_of(settings), Pace(0.1, 2.0, 6.0), 2, 0.5)
    assert (found.trial_epochs, found.baseline_epochs) == (90, 54)
    work = 16 * (9 * (50 * 0.1 + 2.0) + 3 * 6.0)
    assert found.gpu_hours == pytest.approx(0.5 * work / 3600)
    assert found.hours == pytest.approx(work / 2 / 3600, rel=0.1)  # two at once, nearly always


def test_the_distortion_changes_no_epoch() -> None:
    """The simulated surfaces are those of the MSE's lambdas, whatever the unit of the distortion is."""
    given = {**GIVEN, "stopping": True, "budget": "12"}
    found = []
    for distortion in ("mse", "ms-ssim"):
        settings = resolve({**given, "distortion": distortion}, {}, lambda _: 0).settings
        found.append(estimate(plan_of(settings), template_of(settings), Pace(0.1, 2.0, 6.0), 2, 0.5))
    assert found[0].baseline_epochs == found[1].baseline_epochs
    assert found[1].trial_epochs == pytest.approx(found[0].trial_epochs, rel=0.3)


def test_a_fork_saves_what_comes_before_it() -> None:
    """The same, of which trials train the last 6 epochs; measured where they may stop, 4 and 6, and at 9."""
    settings = resolve({**GIVEN, "fork_at": "0.33"}, {}, lambda _: 0).settings
    found = estimate(plan_of(settings), template_of(settings), Pace(0.1, 2.0, 6.0), 1, 0.5)
    assert (found.trial_epochs, found.baseline_epochs) == (60, 54)
    work = (60 + 54) * (50 * 0.1 + 2.0) + 16 * 3 * 6.0
    assert found.gpu_hours == pytest.approx(0.5 * work / 3600)
    assert found.hours == pytest.approx(work / 3600, rel=0.05)
    # Where the reported images decide they are measured after every epoch that is trained.
    settings = resolve({**GIVEN, "fork_at": "0.33", "select_on": "kodak"}, {}, lambda _: 0).settings
    found = estimate(plan_of(settings), template_of(settings), Pace(0.1, 2.0, 6.0), 1, 0.5)
    assert found.gpu_hours == pytest.approx(0.5 * (60 + 54) * (50 * 0.1 + 6.0) / 3600)


def test_stopping_saves() -> None:
    settings = resolve({"preset": "tiny", "model": "cheng", "budget": "24"}, {}, lambda _: 0).settings
    plan, template = plan_of(settings), template_of(settings)
    stopped = estimate(plan, template, Pace(0.1, 2.0, 6.0), 2, 0)
    full = estimate(dataclasses.replace(plan, rungs=()), template, Pace(0.1, 2.0, 6.0), 2, 0)
    assert stopped.trial_epochs < 0.8 * full.trial_epochs
    assert stopped.hours < full.hours
    assert stopped.least_epochs < stopped.trial_epochs < stopped.most_epochs <= full.least_epochs


def test_the_quiet_response_has_nothing_to_gain() -> None:
    quiet = Realistic.quiet(9)
    for alpha, strategy, lmbda in itertools.product((1e-8, 1e-7, 1e-5), ("y", "z", "y+z"), (0.0018, 0.0483)):
        assert quiet.full(alpha, strategy, lmbda) >= 0
    assert 0.1 <= quiet.noise(0.013) <= 0.4


def test_the_command_measures_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--preset", "tiny", "--width", "8", "--start", "scratch", "--data", "deadleaves"]
    arguments += ["--test", "deadleaves", "--test-images", "2", "--val-images", "2", "--budget", "8"]
    arguments += ["--confirm", "1", "--seeds", "4"]
    assert main([*arguments, "--plan", "--results", str(tmp_path / "results")]) == 0
    printed = capsys.readouterr().out
    for expected in (
        "8 trials and 6 baselines",
        " ms per step",
        "54 epochs of baselines",
        "wall time",
        "at most 48 training runs",
        "confirming   at most",
    ):
        assert expected in printed
    assert not (tmp_path / "results").exists()


def test_baselines_on_other_seeds_count() -> None:
    """Two qualities' worth of trials become baselines, which are trained in full as well."""
    settings = resolve({**GIVEN, "budget": "16"}, {}, lambda _: 0).settings
    noisy = resolve({**GIVEN, "budget": "16", "noise_seeds": "1"}, {}, lambda _: 0).settings
    plain, other = (
        estimate(plan_of(given), template_of(given), Pace(0.1, 2.0, 6.0), 2, 0.5)
        for given in (settings, noisy)
    )
    assert (plain.trial_epochs, plain.baseline_epochs) == (16 * 9, 54)
    assert (other.trial_epochs, other.baseline_epochs) == (10 * 9, 108)
    assert other.gpu_hours == pytest.approx(plain.gpu_hours)
    assert other.hours == pytest.approx(plain.hours, rel=0.1)


def test_tuned_settings_are_simulated() -> None:
    """With more to learn, fewer trials are stopped; without the term there is no alpha to simulate."""
    given = {**GIVEN, "budget": "6", "rates": "3", "stopping": True, "sampler": "surrogate"}
    tuned = {**given, "tune": "lr=1e-4..1e-3", "fix": "alpha=0"}
    settings = resolve(tuned, {}, lambda _: 0).settings
    found = estimate(plan_of(settings), template_of(settings), Pace(0.1, 2.0, 6.0), 1, 0)
    assert 6 <= found.trial_epochs <= 54 and found.baseline_epochs == 9
    seen = []

    def simulated(curve: object, plan: Plan, *_: object, **__: object) -> SimpleNamespace:
        seen.append((curve, plan))
        return SimpleNamespace(epochs_spent=0, time=0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.session.estimate.simulate", simulated)
        estimate(plan_of(settings), template_of(settings), Pace(0.1, 2.0, 6.0), 1, 0)
    assert [plan.dimensions for _, plan in seen] == [plan_of(settings).dimensions] * 3
    effects = [curve.best_effect for curve, _ in seen if isinstance(curve, Realistic)]
    assert len(effects) == 3 and max(effects[:2]) < 0 == effects[2]
