"""Whole searches of models of the user's own, as a user types them, to their zoos."""

from __future__ import annotations

import sys
from collections.abc import Iterator
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

#: In the current folder, where the workers find it.
MODULE = "from tests.support.own_models import *\n\ndef ours(size):\n    return MeanScale(size, size)\n"

SMALL = [
    *("--preset", "tiny", "--start", "scratch", "--epochs", "2", "--steps-per-epoch", "3", "--batch", "4"),
    *("--data", "deadleaves", "--test", "deadleaves", "--test-images", "2", "--val-images", "2"),
    *("--workers", "1", "--rates", "3", "--budget", "1"),
]
OURS = ["--model", "our_model:ours", "--latents", "y=transforms.analysis,z=hyper.analysis"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder, with the module and one image; in results/one, a search of the module's model."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "our_model.py").write_text(MODULE)
    (folder / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((200, 130)).save(folder / "images" / "a.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
        patch.chdir(folder)
        done = run_search(Path("results"), "one", *OURS, "--model-args", "size=8", *SMALL)
        assert done.returncode == 0, done.stderr
        assert "searching    our_model:ours(size=8), latents y = transforms.analysis" in done.stdout
        yield folder
        sys.modules.pop("our_model", None)


@pytest.mark.usefixtures("here")
def test_a_search_of_ones_own_model_ends_in_a_verified_zoo() -> None:
    opened = open_search("one", Path("results"))
    assert_as_trained_alone(opened.records.trials[0], template_of(opened.settings))
    wanted = ["--out", "zoo", "--verify", "--images", "images", "--with-baseline", "--register"]
    assert export.main(["one", *wanted]) == 0
    root = Path("zoo/our_model.ours")
    card = (root / "README.md").read_text()
    assert "**Verified** on 1 images" in card and "trust_module=True" in card and "--trust-module" in card
    model = zoo.load(root, 3, trust_module=True)
    assert callable(model.compress) and not (root / "compressai").exists()


def test_baselines_are_reused_and_searches_resumed_with_the_same_source_only(here: Path) -> None:
    again = run_search(Path("results"), "two", *OURS, "--model-args", '{"size": 8}', *SMALL)
    assert again.returncode == 0 and "reused" in again.stdout, again.stdout + again.stderr
    (here / "our_model.py").write_text(f"{MODULE}# changed\n")
    refused = run_search(Path("results"), None, "--resume", "one", "--budget", "2")
    (here / "our_model.py").write_text(MODULE)
    assert refused.returncode == 2 and "the source file of its model, or" in refused.stderr, refused.stderr


@pytest.mark.usefixtures("here")
def test_a_model_without_bitstreams_is_exported_unverified(capsys: pytest.CaptureFixture[str]) -> None:
    done = run_search(Path("results"), "plain", "--model", "our_model:Plain", "--accumulate", "2", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "4 patches of 128x128 in 2 parts" in done.stdout
    wanted = ["plain", "--out", "zoo"]
    assert export.main([*wanted, "--verify", "--images", "images"]) == 2
    assert (
        "our_model:Plain has no compress and decompress to verify; omit --verify" in capsys.readouterr().err
    )
    assert export.main(wanted) == 0
    card = Path("zoo/our_model.Plain/README.md").read_text()
    assert "there are no bitstreams to verify" in card and "lic.codec" not in card
    assert "4 patches of 128x128 in 2 parts, each with its own L" in card
    model = zoo.load("zoo/our_model.Plain", 3, trust_module=True)
    assert model(torch.rand(1, 3, 64, 64))["x_hat"].shape == (1, 3, 64, 64)
