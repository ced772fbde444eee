"""What a model card says where no trial beat a baseline."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd

from lic.zoo import BASELINE, TUNED
from search.zoo import card
from tests.dashboards.test_injection import made_of


def test_a_zoo_of_baselines_has_no_measured_gain_of_zero(tmp_path: Path) -> None:
    search = made_of("s")
    records = dataclasses.replace(search.records, trials=[])
    search = dataclasses.replace(search, records=records)
    chosen = dict(records.baselines)
    rows = [
        {"quality": quality, "role": role, "image": image, "bpp": 0.1 * quality, "psnr": 28.0 + quality,
         "ms_ssim": 0.9 + 0.01 * quality, "bits_off": -0.001, "estimate_off": -0.001}
        for quality in chosen for role in (TUNED, BASELINE) for image in ("a", "b", "c")
    ]  # fmt: skip
    images = pd.DataFrame(rows)
    table = images.drop(columns="image").groupby(["quality", "role"], as_index=False).mean()
    estimated = table[["bpp", "psnr", "ms_ssim"]].add_prefix("estimated_")
    figures = card.ZooMetrics("s", pd.concat([table, estimated], axis=1), images)
    choices = {quality: card.Choice(record, {}) for quality, record in chosen.items()}
    text = card.readme(search, figures, choices, tmp_path, card.About())
    assert "PSNR 0 (baseline); MS-SSIM 0 (baseline)" in text
    assert "| best of all | 0 (baseline) | 0 (baseline) | 0 of 4 |" in text
    assert "| 1 | 0.0018 | 0 | baseline |" in text
    assert "-0.00" not in text and "+0.00 % [" not in text
