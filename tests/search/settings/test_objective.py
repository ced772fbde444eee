"""The setting `objective`: of a new search, of one from before it existed, and what it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.settings.complaints import ConfigError
from search.settings.config import SETTINGS, recorded_settings, resolve_again
from search.settings.plan import plan_of, template_of
from tests.search.settings.test_config import refused, settled


def test_a_search_of_before_there_was_a_choice_goes_on_with_the_cost(tmp_path: Path) -> None:
    began = settled({"preset": "tiny"})
    assert plan_of(began.settings).objective == "bd-rate-psnr"
    (tmp_path / SETTINGS).write_text(began.report())
    assert resolve_again({}, tmp_path, lambda _: 0).settings.objective == "bd-rate-psnr"
    lines = began.report().splitlines()
    kept = [line for line in lines if not line.startswith("objective:")]
    assert len(kept) == len(lines) - 1
    (tmp_path / SETTINGS).write_text("\n".join(kept))
    assert recorded_settings(tmp_path)["objective"] == "rd-cost"
    assert plan_of(resolve_again({}, tmp_path, lambda _: 0).settings).objective == "rd-cost"
    with pytest.raises(ConfigError, match="objective"):
        resolve_again({"objective": "bd-rate-psnr"}, tmp_path, lambda _: 0)


def test_ms_ssim_is_measured_where_it_decides_and_needs_large_crops() -> None:
    told = refused({"objective": "bd-rate-msssim", "val_crop": "128"})
    assert all(word in told for word in ("val_crop", "128", "161", "--objective"))
    large = settled({"objective": "bd-rate-msssim", "val_crop": "192"}).settings
    assert template_of(large).val_ms_ssim and not template_of(settled().settings).val_ms_ssim
    assert "bd-rate-msssim" in refused({"objective": "ms-ssim"})
    on_kodak = {"objective": "bd-rate-msssim", "val_crop": "128", "select_on": "kodak"}
    assert settled(on_kodak).settings.objective == "bd-rate-msssim"
