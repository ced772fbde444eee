"""The settings of the training recipe: their values, what old searches had, and what reaches a trial."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lic.recipe import LAMBDAS, LAMBDAS_MS_SSIM
from search.base.space import BD_RATE_MSSIM, BD_RATE_PSNR, RD_COST
from search.settings.config import SETTINGS, ConfigError, Resolved, resolve, resolve_again
from search.settings.plan import plan_of, template_of

#: Values other than the defaults, and the defaults of searches from before the settings existed.
GIVEN: dict[str, Any] = {
    "regularizer": "my_losses.of_latents:second", "schedule": "one-cycle", "ema": 0.99, "accumulate": 2,
    "distortion": "0.5*mse+ms-ssim",
}  # fmt: skip
BEFORE: dict[str, Any] = {
    "regularizer": "covariance", "schedule": "constant-cosine", "ema": 0.0, "accumulate": 1,
    "distortion": "mse",
}  # fmt: skip


def settled(command_line: dict[str, Any] | None = None) -> Resolved:
    return resolve({"preset": "tiny", **(command_line or {})}, {}, lambda _: 0)


@pytest.mark.parametrize("key", GIVEN)
def test_a_setting_reaches_the_trials_and_cannot_change_on_resume(key: str, tmp_path: Path) -> None:
    resolved = settled({key: str(GIVEN[key])})
    (tmp_path / SETTINGS).write_text(resolved.report())
    again = resolve_again({}, tmp_path, lambda _: 0).settings
    assert getattr(again, key) == getattr(template_of(again).training, key) == GIVEN[key]
    with pytest.raises(ConfigError, match=f"^{key} is .* cannot change on resume"):
        resolve_again({key: str(BEFORE[key])}, tmp_path, lambda _: 0)


@pytest.mark.parametrize(
    ("given", "lambdas", "rates"),
    [
        ({}, {1: 0.0018, 2: 0.0035, 3: 0.0067, 4: 0.013, 5: 0.025, 6: 0.0483}, (1, 2, 3, 4, 5, 6)),
        ({"lambdas": "0.001,0.01"}, {1: 0.001, 2: 0.01}, (1, 2)),
        ({"lambdas": [0.5]}, {1: 0.5}, (1,)),
        ({"lambdas": 0.5}, {1: 0.5}, (1,)),
        ({"lambdas": "1,2,3,4,5,6,7,60.5", "rates": "7-8"}, {**{q: q for q in range(1, 8)}, 8: 60.5}, (7, 8)),
    ],
)
def test_lambdas_number_the_qualities(
    given: dict[str, Any], lambdas: dict[int, float], rates: tuple[int, ...], tmp_path: Path
) -> None:
    resolved = settled(given)
    (tmp_path / SETTINGS).write_text(resolved.report())
    for settings in (resolved.settings, resolve_again({}, tmp_path, lambda _: 0).settings):
        plan = plan_of(settings)
        assert (settings.lambda_table, plan.qualities) == (lambdas, rates)
        assert [plan.point(quality).lmbda for quality in rates] == [lambdas[quality] for quality in rates]
    with pytest.raises(ConfigError, match=r"^lambdas is .* cannot change on resume"):
        resolve_again({"lambdas": "1,2,3,4,5,6,7,8"}, tmp_path, lambda _: 0)


def test_baselines_on_other_seeds_are_those_of_the_given_lambdas() -> None:
    settings = settled({"lambdas": "0.001,0.01", "noise_seeds": "40", "model": "hyperprior"}).settings
    assert settings.noise_baselines == 80 and settings.budget == 80 + settled().settings.budget


def test_searches_from_before_keep_their_recipe(tmp_path: Path) -> None:
    kept = [line for line in settled().report().splitlines() if line.partition(":")[0] not in BEFORE]
    (tmp_path / SETTINGS).write_text("\n".join(kept))
    settings = resolve_again({}, tmp_path, lambda _: 0).settings
    assert {key: getattr(settings, key) for key in BEFORE} == BEFORE


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"regularizer": "covarianse"},
            "from covariance, off-diagonal, pooled, correlation, vicreg, or MODULE:",
        ),
        ({"schedule": "cosin"}, "constant-cosine, cosine, one-cycle, plateau; did you mean 'cosine'?"),
        ({"regularizer": "mine.py:loss()"}, "or MODULE:FUNCTION"),
        ({"accumulate": "3", "batch": "16"}, "accumulate is 3, but the parts of a batch of 16 must"),
        ({"accumulate": "3", "batch": "16"}, "for the decorrelation loss; use 2 or 4"),
        ({"accumulate": "4", "batch": "4"}, "of 2 images at least for the decorrelation loss; use 1 or 2"),
    ],
)
def test_errors_are_one_line_with_the_fix(given: dict[str, str], expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settled(given)
    assert expected in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "objective", "lambdas", "with_ms_ssim"),
    [
        ({}, BD_RATE_PSNR, LAMBDAS, False),
        ({"distortion": "ms-ssim"}, BD_RATE_MSSIM, LAMBDAS_MS_SSIM, True),
        ({"distortion": "mse+ms-ssim"}, RD_COST, LAMBDAS, True),
        ({"distortion": "ms-ssim", "objective": BD_RATE_PSNR}, BD_RATE_PSNR, LAMBDAS_MS_SSIM, True),
        ({"objective": BD_RATE_MSSIM}, BD_RATE_MSSIM, LAMBDAS, True),
    ],
)
def test_objective_and_lambdas_follow_the_distortion(
    given: dict[str, Any], objective: str, lambdas: dict[int, float], with_ms_ssim: bool, tmp_path: Path
) -> None:
    resolved = settled(given)
    (tmp_path / SETTINGS).write_text(resolved.report())
    for settings in (resolved.settings, resolve_again({}, tmp_path, lambda _: 0).settings):
        plan, template = plan_of(settings), template_of(settings)
        assert (plan.objective, settings.lambda_table) == (objective, lambdas)
        assert (template.val_ms_ssim, plan.distortion.names[-1] == "ms_ssim") == (
            with_ms_ssim, "distortion" in given,
        )  # fmt: skip


def test_the_surrogate_takes_every_lambda_in_units_of_the_mse() -> None:
    of_mse, of_ms_ssim = (plan_of(settled({"distortion": name}).settings) for name in ("mse", "ms-ssim"))
    for quality in LAMBDAS:
        assert of_ms_ssim.log_lmbda(quality) == pytest.approx(of_mse.log_lmbda(quality), abs=0.02)
        assert of_mse.log_lmbda(quality) == math.log10(LAMBDAS[quality])


def test_patches_and_crops_have_an_ms_ssim_where_it_is_trained() -> None:
    """Those of a preset are enlarged; given ones are refused."""
    found = settled({"distortion": "ms-ssim", "model": "hyperprior"})
    assert (settled({"model": "hyperprior"}).settings.patch, found.settings.patch) == (128, 192)
    assert found.sources["patch"].endswith("(resolved)") and found.settings.val_crop == 256
    for distortion in ("ms-ssim", "mse+ms-ssim"):
        for key in ("patch", "val_crop"):
            with pytest.raises(ConfigError, match=f"^{key} is 128, but MS-SSIM needs 161 pixels; use"):
                settled({"distortion": distortion, key: "128"})


@pytest.mark.parametrize(
    "text",
    [
        "psnr", "ms_ssim", "", "mse+mse", "2*mse", "mse+ms-ssim+mse", "0*mse+ms-ssim", "-1*mse+ms-ssim",
        "mse+1e9*ms-ssim", "nan*mse+ms-ssim", "mse+9999999*ms-ssim", "mse +ms-ssim",
    ],
)  # fmt: skip
def test_what_is_no_distortion_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ConfigError, match="choose mse, ms-ssim, or a weighted sum such as"):
        settled({"distortion": text})


def test_decay_at_belongs_to_one_schedule() -> None:
    assert settled({"decay_at": "0.5"}).ignored == settled({"schedule": "cosine"}).ignored == ()
    ignored = settled({"decay_at": "0.5", "schedule": "cosine"}).ignored
    assert ignored == ("decay_at 0.5 has no effect with --schedule cosine",)


def test_plateau_evaluates_the_validation_images_after_every_epoch() -> None:
    sparse = {"preset": "paper", "epochs": "9", "grace": "1", "cadence": "sparse"}
    assert template_of(settled(sparse).settings).val_epochs == (1, 3, 9)
    assert template_of(settled({**sparse, "schedule": "plateau"}).settings).val_epochs == tuple(range(1, 10))
    on_kodak = template_of(settled({**sparse, "schedule": "plateau", "select_on": "kodak"}).settings)
    assert (on_kodak.val_epochs, on_kodak.test_epochs) == ((), (1, 3, 9))


def test_a_batch_that_was_not_given_fits_the_parts() -> None:
    assert settled().settings.batch == settled({"accumulate": "2"}).settings.batch == 4
    assert settled({"accumulate": "3"}).settings.batch == 6
    assert settled({"accumulate": "16"}).settings.batch == 32
    resolved = settled({"accumulate": "4", "batch": "12"})
    assert resolved.settings.batch == 12 and template_of(resolved.settings).training.accumulate == 4
