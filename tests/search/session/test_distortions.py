"""A search on MS-SSIM over lambdas of its own, from its plan to its coded files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import lic.zoo
from lic.codec import __main__ as codec
from lic.training.trainer import read_checkpoint
from search import export
from search.records.folder import open_search
from search.settings.config import SETTINGS, resolve_again
from tests.conftest import run_search
from tests.search.session.test_search import SMALL

LAMBDAS = {1: 4.0, 2: 90.0}
ASKED = ("--distortion", "ms-ssim", "--lambdas", "4,90", "--model", "hyperprior")


@pytest.mark.slow
def test_it_is_trained_resumed_exported_and_coded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = [*SMALL, *ASKED, "--epochs", "2", "--batch", "2", "--no-stopping", "--strategies", "y"]
    done = run_search(tmp_path, "mine", *small, "--budget", "2")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "qualities 1, 2 (lambda 4, 90), strategies y" in done.stdout
    assert "2 patches of 192x192, from scratch, distortion ms-ssim" in done.stdout
    folder = tmp_path / "mine"
    settings = resolve_again({}, folder, lambda _: 0).settings
    assert (settings.patch, settings.objective, settings.rates) == (192, "bd-rate-msssim", (1, 2))
    resumed = run_search(tmp_path, None, "--resume", str(folder), "--budget", "3")
    assert resumed.returncode == 0, resumed.stderr + resumed.stdout

    found = open_search("mine", tmp_path, with_model=False)
    assert {record.lmbda for record in found.records.trials} <= set(LAMBDAS.values())
    assert len(found.records.finished()) == 3
    for record in found.records.everything():
        figures = record.readings[2]
        rate, similarity = figures["train/rate_y"] + figures["train/rate_z"], figures["train/ms_ssim"]
        if not record.alpha:
            assert figures["train/loss"] == pytest.approx(rate + record.lmbda * (1 - similarity), rel=1e-4)
        assert math.isfinite(found.records.rate_change(record, 2, "val") or math.nan) or not record.alpha
    assert list(pd.read_csv(folder / "tables" / "rates.csv")["lambda"]) == list(LAMBDAS.values())
    for quality, lmbda in LAMBDAS.items():
        config = read_checkpoint(folder / "best" / f"q{quality}.pt")["config"]
        assert (config["lmbda"], config["distortion"]) == (lmbda, "ms-ssim")
    report = (folder / "report.html").read_text()
    assert "lambda 90" in report and "trained on the distortion 1 - MS-SSIM. Selection images" in report
    assert "lambdas: [4.0, 90.0]" in (folder / SETTINGS).read_text()

    assert export.main([str(folder), "--results", str(tmp_path), "--out", str(tmp_path / "zoo")]) == 0
    zoo = tmp_path / "zoo" / "bmshj2018-hyperprior"
    models = lic.zoo.list_models(zoo)
    assert [(m.config.quality, m.config.lmbda, m.config.distortion) for m in models] == [
        (1, 4.0, "ms-ssim"), (2, 90.0, "ms-ssim"),
    ]  # fmt: skip
    card = (zoo / "README.md").read_text()
    assert "D 1 - MS-SSIM" in card and "lambda (D + 0.000775 alpha L)" in card and "| 2 | 90 |" in card
    assert json.loads((zoo / "q2" / "config.json").read_text())["distortion"] == "ms-ssim"
    Image.fromarray(np.full((70, 90, 3), 99, np.uint8)).save(tmp_path / "a.png")
    coded = [str(tmp_path / "a.lic"), "--zoo", str(zoo)]
    assert codec.main(["encode", str(tmp_path / "a.png"), *coded, "--quality", "2"]) == 0
    assert codec.main(["decode", coded[0], str(tmp_path / "b.png"), "--zoo", str(zoo)]) == 0
    capsys.readouterr()
    assert codec.main(["encode", str(tmp_path / "a.png"), *coded, "--quality", "3", "--overwrite"]) == 2
    assert "has no model of quality 3; it has 1, 2" in capsys.readouterr().err
