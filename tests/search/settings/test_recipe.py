"""The settings of the training recipe: their values, what old searches had, and what reaches a trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.settings.config import SETTINGS, ConfigError, Resolved, resolve, resolve_again
from search.settings.plan import template_of

#: Values other than the defaults, and the defaults of searches from before the settings existed.
GIVEN: dict[str, Any] = {
    "regularizer": "my_losses.of_latents:second", "schedule": "one-cycle", "ema": 0.99, "accumulate": 2,
}  # fmt: skip
BEFORE: dict[str, Any] = {
    "regularizer": "covariance", "schedule": "constant-cosine", "ema": 0.0, "accumulate": 1,
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
    assert settled().settings.batch == settled({"accumulate": "2"}).settings.batch == 8
    assert settled({"accumulate": "3"}).settings.batch == 9
    assert settled({"accumulate": "16"}).settings.batch == 32
    resolved = settled({"accumulate": "4", "batch": "12"})
    assert resolved.settings.batch == 12 and template_of(resolved.settings).training.accumulate == 4
