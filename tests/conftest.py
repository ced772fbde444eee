"""Small real images for every test, and the project's photographs where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lic.data.cache import PackedImages
from lic.data.deadleaves import pack_dead_leaves

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def leaves(cache: Path) -> PackedImages:
    """Four dead-leaves pictures of 256 x 384."""
    return pack_dead_leaves(500, 4, cache)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of six small PNG images in two subfolders."""
    draw = np.random.default_rng(1)
    for number in range(6):
        folder = tmp_path / "photographs" / f"part{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (80 + number, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photographs"


@pytest.fixture(scope="session")
def kodak_folder() -> Path:
    if not (SHARED / "kodak").is_dir():
        pytest.skip("the Kodak images are not at ../shared/data/kodak")
    return SHARED / "kodak"
