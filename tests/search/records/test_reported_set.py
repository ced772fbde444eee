"""What a search reports on is what it recorded at its start; where that has no MS-SSIM, the rest is there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dashboards import report
from lic.data.deadleaves import pack_dead_leaves
from lic.training.trial import Trial, open_images
from search import export
from search.decide.core import Core
from search.engine.tune import training_config_of
from search.records.folder import SearchFolder, open_search
from search.settings.complaints import ConfigError
from search.settings.config import SETTINGS, resolve
from search.settings.plan import plan_of, template_of
from search.store.find import FolderError
from search.store.provenance import ENVIRONMENT, provenance
from tests.support.made_up import made_up_search

REASON = "MS-SSIM needs images of at least 161 pixels on each side; small.png is 150 x 155"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A search of two rates and two trials, really trained, but without Ray, and reported on two photographs
    and an image that is too small for MS-SSIM."""
    root = tmp_path_factory.mktemp("small")
    leaves = pack_dead_leaves(900, 4, cache)
    for source, names in (("data", ("a", "b", "c")), ("tested", ("a", "b", "small"))):
        (root / source).mkdir()
        for number, name in enumerate(names):
            height, width = (155, 150) if name == "small" else (192, 192)
            Image.fromarray(np.asarray(leaves[number])[:height, :width]).save(root / source / f"{name}.png")
    folder = root / "results" / "mine"
    folder.mkdir(parents=True)
    given = {
        "model": "hyperprior", "preset": "tiny", "width": "8", "patch": "64", "batch": "2", "epochs": "1",
        "steps_per_epoch": "2", "start": "scratch", "rates": "1,6", "budget": "2", "sampler": "random",
        "stopping": "no", "data": str(root / "data"), "test": str(root / "tested"), "cache": str(cache),
        "name": "mine", "grace": "1", "fork_at": "0",
    }  # fmt: skip
    resolved = resolve(given, {}, lambda _: 0)
    template = template_of(resolved.settings)
    (folder / SETTINGS).write_text(resolved.report() + "\n")
    (folder / ENVIRONMENT).write_text(json.dumps(provenance(open_images(template.images))))
    opened = SearchFolder.read(folder)
    core = Core(opened.storage(), "mine", plan_of(resolved.settings))
    while (candidate := core.suggest()) is not None:
        trial = Trial(training_config_of(candidate, template))
        found = trial.run_epoch()
        core.observe(candidate.name, found.epoch, found.figures, found.images)
        core.decide(candidate.name, found.epoch)
        place = folder / "trials" / candidate.name
        place.mkdir(parents=True)
        trial.save(place / "epoch-0001.pt")
    return folder


def test_a_small_test_image_leaves_psnr_report_and_export(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = open_search(str(trained), trained.parent)
    assert search.records.test_set == "tested" and search.records.without_ms_ssim == REASON
    for record in search.records.everything():
        figures = record.readings[1]
        assert "tested/psnr" in figures and not [
            name for name in figures if name.startswith("tested/ms_ssim")
        ]
        assert np.isnan(record.images[1]["tested/ms_ssim"]).tolist() == [False, False, True]

    assert report.main([str(trained)]) == 0, capsys.readouterr().err
    rates = pd.read_csv(trained / "tables" / "rates.csv")
    assert rates["psnr"].notna().all() and rates["ms_ssim"].isna().all() and len(rates) == 2
    assert REASON in pd.read_csv(trained / "tables" / "strategies.csv")["refused"].iloc[-1]
    page = (trained / "report.html").read_text()
    assert f"BD-MS-SSIM: {REASON}" in page and ">nan<" not in page

    assert export.main([str(trained), "--out", str(tmp_path), "--format", "safetensors"]) == 0
    (zoo,) = tmp_path.iterdir()
    assert "MS-SSIM needs images of at least 161 pixels" in (zoo / "README.md").read_text()
    figures = json.loads((zoo / "manifest.json").read_text())["files"]["q1/model.safetensors"]
    assert "nan" not in json.dumps(figures).lower() and '"estimated_psnr"' in json.dumps(figures)


def test_a_folder_that_does_not_say_is_read_by_what_was_measured(trained: Path) -> None:
    """By MS-SSIM, which images can lack, it was taken to report on the images that it selects on."""
    environment = (trained / ENVIRONMENT).read_text()
    old = {key: value for key, value in json.loads(environment).items() if key != "test_set"}
    (trained / ENVIRONMENT).write_text(json.dumps(old))
    try:
        assert open_search(str(trained), trained.parent, with_model=False).records.test_set == "tested"
    finally:
        (trained / ENVIRONMENT).write_text(environment)


def test_what_was_recorded_decides(tmp_path: Path) -> None:
    folder = made_up_search(tmp_path / "mine")
    assert open_search("mine", tmp_path, with_model=False).records.test_set == "leaves"
    (folder / ENVIRONMENT).write_text(json.dumps({"test_set": "kodak"}))
    with pytest.raises(FolderError, match="names the test set 'kodak', but it was evaluated on leaves"):
        open_search("mine", tmp_path, with_model=False)


def test_a_search_does_not_go_on_with_another_test_set(tmp_path: Path) -> None:
    """Not even before its first baseline, whose fingerprint would tell."""
    from tests.search.session.test_warm_start import opened

    opened(tmp_path / "mine", test_set="leaves")
    with pytest.raises(ConfigError, match=r"its images, .* have changed"):
        opened(tmp_path / "mine", test_set="kodak")
