"""Two images through the baseline and the tuned model of a real search, and what the report shows of them."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from dashboards import report
from dashboards.examples import Examples, examples
from dashboards.images import map_uri
from lic.evaluation.evaluate import batch_of
from lic.evaluation.example import CROP, most_different
from lic.models.build import build
from search.records.figures import SEQUENTIAL
from search.records.folder import OpenedSearch, last_checkpoint, open_search
from search.records.results import best_per_rate

Real = tuple[Path, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def search(real: Real) -> OpenedSearch:
    return open_search("real", real[0])


@pytest.fixture(scope="module")
def found(search: OpenedSearch) -> Examples:
    return examples(search)


def test_the_rate_with_the_largest_gain_is_shown(search: OpenedSearch, found: Examples) -> None:
    """Among the kept trials or, where all gains are doubtful, the most promising of each quality."""
    records = search.records
    kept = [record for record in best_per_rate(records).values() if record.alpha]
    promising = [r for q in records.qualities if (r := records.best(records.finished(q))) is not None]
    changes = {
        record.name: records.rate_change(record, records.epochs, records.test_set)
        for record in kept or promising
    }
    least = min(value for value in changes.values() if value is not None)
    assert changes[found.tuned.name] == least == found.rate_change
    assert found.baseline is records.baselines[found.tuned.quality]


def test_the_models_code_the_images_as_the_search_recorded(search: OpenedSearch, found: Examples) -> None:
    """So the checkpoints are those of the trial and its baseline, and the images bear their own names."""
    test_set, epoch = search.records.test_set, search.records.epochs
    numbers = (6, 7) if test_set == "kodak_first8" else (0, 1)
    if test_set == "kodak_first8":
        assert [example.name for example in found.images] == ["kodim07", "kodim08"]
        assert [example.paper_ratio for example in found.images] == [0.51, 0.42]
    for number, example in zip(numbers, found.images, strict=True):
        for record, model in ((found.baseline, example.baseline), (found.tuned, example.tuned)):
            for name in ("bpp", "psnr", "ms_ssim"):
                recorded = record.images[epoch][f"{test_set}/{name}"][number]
                assert model.metrics[name] == pytest.approx(recorded, rel=1e-4), (record.name, name)


def test_the_ratio_is_that_of_numpys_correlations(search: OpenedSearch, found: Examples) -> None:
    example, sums = found.images[0], []
    for record in (found.tuned, found.baseline):
        model = build(search.settings.model, search.settings.width, search.settings.latent_width)
        state = torch.load(last_checkpoint(search, record.name).path, weights_only=True)
        model.load_state_dict(state["model"])
        with torch.no_grad():
            latent = model.get_submodule("g_a")(batch_of(example.original))[0].flatten(1).numpy()
        matrix = np.corrcoef(latent[latent.std(1) > 1e-6])
        sums.append(np.abs(matrix).sum() - len(matrix))
    assert example.ratio == pytest.approx(sums[0] / sums[1], rel=1e-3)


@pytest.mark.parametrize(("top", "left"), [(0, 0), (96, 40), (200, 256)])
def test_the_crop_finds_a_planted_difference(top: int, left: int) -> None:
    first = np.random.default_rng(0).integers(2, 250, (264, 320, 3), dtype=np.uint8)
    second = first + np.random.default_rng(1).integers(0, 3, first.shape, dtype=np.uint8)
    second[top : top + 64, left : left + 64] = 255 - first[top : top + 64, left : left + 64]
    assert most_different(first, second, 64) == (slice(top, top + 64), slice(left, left + 64))


def test_an_image_smaller_than_the_crop_is_shown_whole() -> None:
    small = np.zeros((40, 200, 3), dtype=np.uint8)
    rows, columns = most_different(small, small, 128)
    assert (rows, columns) == (slice(0, 40), slice(0, 128))


def test_maps_keep_their_values_in_order() -> None:
    values = np.linspace(-2, 3, 24).reshape(4, 6)
    image = Image.open(io.BytesIO(base64.b64decode(map_uri(values, -2, 3, SEQUENTIAL).partition(",")[2])))
    assert image.size == (6, 4)
    steps = np.asarray(image).ravel().astype(int)  # places in the palette
    assert steps[0] == 0 and steps[-1] == 64 and (np.diff(steps) > 0).all()


def test_the_page_shows_them_and_png_files_can_be_had(real: Real, found: Examples, tmp_path: Path) -> None:
    target, folder = tmp_path / "report.html", tmp_path / "png"
    arguments = ["real", "--results", str(real[0]), "--out", str(target), "--png", str(folder)]
    assert report.main(arguments) == 0
    names = {"rd", "response", "rungs", "channel_bits", "latents", "crops"}
    assert {path.stem for path in folder.iterdir()} == names
    for path in folder.iterdir():
        with Image.open(path) as image:
            assert image.width > 1200 and np.asarray(image.convert("L")).min() < 128, path.name
    page = target.read_text()
    assert target.stat().st_size < 6 * 2**20
    for example in found.images:
        assert f"<td>{example.ratio:.2f}</td>" in page
        for caption, _ in example.captioned():
            assert caption in page
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(content)))
        for content in re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    ]
    assert [image.size for image in pictures].count((CROP, CROP)) == 3 * len(found.images)
    originals = [np.asarray(image) for image in pictures if image.mode == "RGB"][::3]
    for example, shown in zip(found.images, originals, strict=True):
        assert np.array_equal(shown, example.original[example.crop])


def test_without_checkpoints_or_images_the_page_says_so(real: Real, tmp_path: Path) -> None:
    copy = tmp_path / "real"
    shutil.copytree(real[0] / "real", copy, ignore=shutil.ignore_patterns("trials", "best", "artifacts"))
    assert report.main(["real", "--results", str(tmp_path), "--png", str(tmp_path / "png")]) == 0
    text = (copy / "report.html").read_text()
    assert re.search(
        r"reconstructions are not shown: (baseline|trial)-\w+ has no checkpoint below [^<]+\.</p>", text
    )
    assert not (tmp_path / "png" / "crops.png").exists() and (tmp_path / "png" / "rd.png").exists()
    settings = yaml.safe_load((copy / "settings.yaml").read_text())
    (copy / "settings.yaml").write_text(yaml.safe_dump({**settings, "test": str(tmp_path / "gone")}))
    assert report.main(["real", "--results", str(tmp_path)]) == 0
    assert "reconstructions are not shown: there is no image folder" in (copy / "report.html").read_text()
