"""The sides of tests.bench.samplers: ways to search a surface, each with what it recommends and the epochs
it took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import optuna
from optuna.storages import InMemoryStorage

from lic.models.architectures import STRATEGIES
from lic.recipe import LAMBDAS
from search.base.space import Plan, SearchPoint, rungs
from search.decide.belief import RUINOUS
from search.decide.core import Core
from search.decide.sampler import spread_point
from search.simulation.realistic import Realistic
from search.simulation.simulator import SELECTION, simulate
from search.simulation.surfaces import Family, Recorded

ALPHAS = (1e-8, 1e-5)
Surface = Family | Realistic | Recorded

#: Per quality the recommended (alpha, strategy); alpha 0 is the baseline.
Choice = dict[int, tuple[float, str]]


@dataclass(frozen=True)
class Found:
    """What a side recommends, the trials' epochs, and, of the own search, the share of ruinous first
    readings after the start-up points, and by quality how much better than the baseline a recommended point
    is expected to be, in standard deviations."""

    chosen: Choice
    epochs: int
    ruinous: float | None = None
    sure: dict[int, float] | None = None


def plan(sampler: str, seed: int, epochs: int, stopping: bool, budget: int = 64) -> Plan:
    levels = rungs(epochs, 1, 3) if stopping else ()
    return Plan(tuple(LAMBDAS), STRATEGIES, *ALPHAS, epochs, levels, 3, budget, seed, sampler, SELECTION)


def spread(seed: int, count: int) -> list[SearchPoint]:
    """The first points of an even spread over rates, strategies and log alpha."""
    even = plan("surrogate", seed, 1, False)
    return [spread_point(even, even.qualities, number) for number in range(count)]


def own(surface: Surface, seed: int, stopping: bool, workers: int, budget: int = 64) -> Found:
    """The search's own sampler, stopping and recommendation."""
    settings = plan("surrogate", seed, surface.epochs, stopping, budget)
    core = Core(InMemoryStorage(), "bench", settings)
    outcome = simulate(surface, settings, workers, core=core)
    later = [t for t in core.trials.get_trials(deepcopy=False) if t.number >= 2 * len(LAMBDAS)]
    bad = sum(t.intermediate_values.get(1, 0.0) > RUINOUS for t in later)
    return Found(
        {item.quality: (item.alpha, item.strategy or "") for item in outcome.recommended},
        outcome.epochs_spent,
        bad / max(1, len(later)),
        {item.quality: -item.expected / item.sigma for item in outcome.recommended if item.alpha},
    )


def best_readings(sampler: str, surface: Surface, seed: int, workers: int) -> Found:
    """One of Optuna's samplers pooled over the rates, the lowest reading of each rate."""
    settings = plan(sampler, seed, surface.epochs, False)
    core = Core(InMemoryStorage(), "bench", settings)
    outcome = simulate(surface, settings, workers, core=core)
    chosen: Choice = dict.fromkeys(LAMBDAS, (0.0, ""))
    best = dict.fromkeys(LAMBDAS, 0.0)
    for trial in core.trials.trials:
        quality = trial.user_attrs["quality"]
        if trial.value is not None and trial.value < best[quality]:
            best[quality] = trial.value
            chosen[quality] = (trial.params["alpha"], trial.params["strategy"])
    return Found(chosen, outcome.epochs_spent)


def tpe_per_rate(surface: Surface, seed: int) -> Found:
    """Optuna's TPESampler, one study a rate, the lowest reading."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    chosen: Choice = {}
    for place, (quality, lmbda) in enumerate(LAMBDAS.items()):
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed * 10 + quality))

        def objective(trial: optuna.Trial, lmbda: float = lmbda) -> float:
            alpha = trial.suggest_float("alpha", *ALPHAS, log=True)
            strategy = trial.suggest_categorical("strategy", STRATEGIES)
            return surface(alpha, strategy, lmbda, surface.epochs, seed)

        study.optimize(objective, n_trials=64 // 6 + (place < 64 % 6))
        best = study.best_trial
        assert best.value is not None
        chosen[quality] = (best.params["alpha"], best.params["strategy"]) if best.value < 0 else (0.0, "")
    return Found(chosen, 64 * surface.epochs)


def one_epoch_then_best(surface: Surface, seed: int, epochs: int) -> Found:
    """64 points spread evenly get one epoch, the best of every rate all of them, as many as the epochs
    allow."""
    points = spread(seed, 64)
    full = max(1, round((epochs - 64) / (surface.epochs - 1) / 6))
    chosen: Choice = {}
    for quality, lmbda in LAMBDAS.items():
        first = sorted(
            (surface(point.alpha, point.strategy or "", lmbda, 1, seed), point.alpha, point.strategy or "")
            for point in points
            if point.quality == quality
        )
        last = [(surface(alpha, s, lmbda, surface.epochs, seed), alpha, s) for _, alpha, s in first[:full]]
        value, alpha, strategy = min(last)
        chosen[quality] = (alpha, strategy) if value < 0 else (0.0, "")
    return Found(chosen, 64 + 6 * full * (surface.epochs - 1))


def baseline(_: Surface) -> Found:
    """Nothing is searched."""
    return Found(dict.fromkeys(LAMBDAS, (0.0, "")), 0)


Side = Callable[[], Found]
