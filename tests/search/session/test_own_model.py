"""Whole searches of models of the user's own, as a user types them, to their zoos."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lic import zoo
from search import export
from search.records.folder import open_search
from search.settings.plan import template_of
from tests.conftest import assert_as_trained_alone, run_search

pytestmark = pytest.mark.slow

#: In the folder of the search, where its workers find it.
MODULE = "from tests.support.own_models import *\n\ndef ours(size):\n    return MeanScale(size, size)\n"

SMALL = [
    *("--preset", "tiny", "--start", "scratch", "--epochs", "2", "--steps-per-epoch", "3", "--batch", "4"),
    *("--data", "deadleaves", "--test", "deadleaves", "--test-images", "2", "--val-images", "2"),
    *("--workers", "1", "--rates", "3", "--budget", "1"),
]
OURS = ["--model", "our_model:ours", "--latents", "y=transforms.analysis,z=hyper.analysis"]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "our_model.py").write_text(MODULE)
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((200, 130)).save(tmp_path / "images" / "a.png")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "our_model", raising=False)
    return tmp_path / "results"


def test_a_search_of_ones_own_model_ends_in_a_verified_zoo(results: Path) -> None:
    done = run_search(results, "one", *OURS, "--model-args", "size=8", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "searching    our_model:ours(size=8), latents y = transforms.analysis" in done.stdout
    again = run_search(results, "two", *OURS, "--model-args", '{"size": 8}', *SMALL)
    assert again.returncode == 0 and "reused" in again.stdout, again.stdout + again.stderr
    opened = open_search("one", results)
    assert_as_trained_alone(opened.records.trials[0], template_of(opened.settings))
    source = Path("our_model.py")
    source.write_text(f"{MODULE}# changed\n")
    refused = run_search(results, None, "--resume", "one", "--budget", "2")
    assert refused.returncode == 2 and "the source file of its model, or" in refused.stderr
    wanted = ["--out", "zoo", "--verify", "--images", "images", "--with-baseline", "--register"]
    assert export.main(["one", "--results", str(results), *wanted]) == 0
    root = Path("zoo/our_model.ours")
    card = (root / "README.md").read_text()
    assert "**Verified** on 1 images" in card and "trust_module=True" in card and "--trust-module" in card
    model = zoo.load(root, 3, trust_module=True)
    assert callable(model.compress) and not (root / "compressai").exists()


def test_a_model_without_bitstreams_is_exported_unverified(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run_search(results, "plain", "--model", "our_model:Plain", *SMALL)
    assert done.returncode == 0, done.stderr
    wanted = ["plain", "--results", str(results), "--out", "zoo"]
    assert export.main([*wanted, "--verify", "--images", "images"]) == 2
    assert (
        "our_model:Plain has no compress and decompress to verify; omit --verify" in capsys.readouterr().err
    )
    assert export.main(wanted) == 0
    card = Path("zoo/our_model.Plain/README.md").read_text()
    assert "there are no bitstreams to verify" in card and "lic.codec" not in card
    model = zoo.load("zoo/our_model.Plain", 3, trust_module=True)
    assert model(torch.rand(1, 3, 64, 64))["x_hat"].shape == (1, 3, 64, 64)
