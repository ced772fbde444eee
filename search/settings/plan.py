"""Derives the plan of the decision core and the configuration of trials from the settings."""

from __future__ import annotations

from pathlib import Path

from lic.data.cache import default_cache
from lic.recipe import Acceleration, Distortion, TrainingConfig
from lic.training.trial import ImagesConfig, TrialConfig
from search.base.space import Plan, rungs, three_quarters
from search.settings.config import Settings
from search.settings.tuning import dimensions_of


def plan_of(settings: Settings) -> Plan:
    """The plan for the decision core. Raises ConfigError if a recorded range cannot be used."""
    return Plan(
        qualities=settings.rates,
        strategies=() if settings.fix else settings.strategies,
        alpha_min=settings.alpha_min,
        alpha_max=settings.alpha_max,
        epochs=settings.epochs,
        rungs=_rungs(settings) if settings.stopping else (),
        eta=settings.eta,
        budget=settings.budget - settings.noise_baselines,
        seed=settings.seed,
        sampler=settings.sampler,
        selection=settings.select_on,
        fork=settings.fork,
        objective=settings.objective,
        noise_seeds=settings.noise_seeds,
        chain=settings.chain,
        lambdas=tuple(settings.lambda_table.values()),
        distortion=Distortion.of(settings.distortion),
        dimensions=dimensions_of(settings),
    )


def _rungs(settings: Settings) -> tuple[int, ...]:
    return rungs(settings.epochs, settings.grace, settings.eta, settings.fork)


def template_of(settings: Settings) -> TrialConfig:
    """The configuration of a trial without the candidate's point.

    Paths are absolute, since workers run in other folders.
    """
    at_rungs = (*_rungs(settings), settings.epochs)
    every_epoch = tuple(range(1, settings.epochs + 1))
    dense = settings.cadence == "dense"
    deciding, reported = (every_epoch, at_rungs) if dense else (at_rungs, (settings.epochs,))
    if settings.schedule == "plateau":  # it has the validation images evaluated after every epoch anyway
        deciding = every_epoch if settings.select_on == "val" else deciding
    on_validation = settings.select_on == "val"
    training = {
        key: getattr(settings, key)
        for key in TrainingConfig.__dataclass_fields__
        if key in Settings.model_fields
    }
    return TrialConfig(
        model=settings.network,
        width=settings.width,
        latent_width=settings.latent_width,
        start=None if settings.start == "scratch" else str(Path(settings.start).resolve()),
        training=TrainingConfig(lmbda=0.0, **training),
        images=ImagesConfig(
            data=_absolute(settings.data),
            kodak=_absolute(settings.kodak),
            test=settings.test if settings.test == "auto" else str(_absolute(settings.test)),
            test_images=settings.test_images,
            val_images=settings.val_images,
            val_crop=settings.val_crop,
            cache=str(Path(settings.cache or default_cache()).resolve()),
        ),
        val_epochs=deciding if on_validation else (),
        test_epochs=reported if on_validation else deciding,
        device="cuda" if settings.trial_gpus else "cpu",
        speed=Acceleration(**{key: getattr(settings, key) for key in Acceleration.__dataclass_fields__}),
        val_ms_ssim=settings.needs_ms_ssim,
        rest_epoch=three_quarters(settings.epochs) if on_validation else None,
        devices=settings.gpus_per_trial,
    )


def _absolute(path: str | None) -> str | None:
    return path if path in (None, "", "deadleaves") else str(Path(path).resolve())
