"""Which images a run trains on, selects on and reports on, from what the user gave."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lic.data.cache import PackedImages, pack_files
from lic.data.deadleaves import pack_dead_leaves
from lic.data.images import ImageError, find_images
from lic.data.kodak import check_kodak, fetch_kodak

#: Seeds of the generated sets; far apart, so that no picture is in two of them.
_TRAIN_SEED, _VAL_SEED, _TEST_SEED = 0, 1_000_000, 2_000_000
_TRAIN_LEAVES, _TEST_LEAVES = 128, 24


@dataclass(frozen=True)
class ImageSet:
    """A named set of images; metrics carry the name, and no other set is ever called 'kodak'."""

    name: str
    images: PackedImages
    source: str


def is_generated(data: str | None) -> bool:
    return data in (None, "", "deadleaves")


def training_and_validation(
    data: str | None, validation_count: int, cache: Path
) -> tuple[ImageSet, ImageSet]:
    """The images to train on and `validation_count` (or fewer) others to select on.

    `data` is None or 'deadleaves' for generated pictures, else a folder. Its subfolders `train` and
    `val` are the split if they are there; otherwise a fixed random choice is held out, at most a
    fifth. Raises ImageError when there is nothing to train or to select on.
    """
    if is_generated(data):
        train = pack_dead_leaves(_TRAIN_SEED, _TRAIN_LEAVES, cache)
        val = pack_dead_leaves(_VAL_SEED, validation_count, cache)
        return (
            ImageSet("deadleaves", train, f"{len(train)} generated dead-leaves pictures"),
            ImageSet("val", val, f"{len(val)} other dead-leaves pictures"),
        )
    root = Path(str(data))
    train_files, val_files, how = _split(root, validation_count)
    train = pack_files(train_files, root, cache)
    val = pack_files(val_files, root, cache)
    return (
        ImageSet("train", train, f"{len(train)} images of {root}{_skipped_note(train)}"),
        ImageSet("val", val, f"{len(val)} images, {how}{_skipped_note(val)}"),
    )


def _split(root: Path, validation_count: int) -> tuple[list[Path], list[Path], str]:
    """Training files, validation files, and how they were told apart."""
    by_folder = root / "train"
    train_files = find_images(by_folder if by_folder.is_dir() else root)
    # A choice of its own, whatever the search's seed: searches with other seeds stay comparable.
    draw = np.random.default_rng(0)
    for name in ("val", "valid", "validation"):
        if by_folder.is_dir() and (root / name).is_dir():
            files = find_images(root / name)
            chosen = draw.permutation(len(files))[:validation_count]
            return train_files, [files[i] for i in sorted(chosen)], f"of {root / name}"
    if len(train_files) < 2:
        raise ImageError(f"{root} holds one image; at least two are needed, one is held out to select on")
    count = min(validation_count, max(1, len(train_files) // 5))
    held_out = set(draw.permutation(len(train_files))[:count].tolist())
    return (
        [path for i, path in enumerate(train_files) if i not in held_out],
        [path for i, path in enumerate(train_files) if i in held_out],
        f"held out of {by_folder if by_folder.is_dir() else root}",
    )


def test_set(kodak: str | None, test: str, count: int | None, cache: Path) -> ImageSet:
    """The images to report on: `test` is 'auto' (Kodak from the folder `kodak`, else fetched, else
    dead leaves), 'deadleaves', or a folder; only the first `count` of them if that is given.

    Raises ImageError for a folder that is not what it should be.
    """
    name, root, source = "deadleaves", None, "generated dead-leaves pictures"
    if test not in ("auto", "deadleaves"):
        root = Path(test)
        name = re.sub(r"[^a-z0-9]+", "_", root.resolve().name.lower()).strip("_") or "images"
        source = f"images of {root}"
        if name in ("kodak", "val", "train"):  # names that mean something else here
            name = f"folder_{name}"
    elif kodak:
        root, name, source = Path(kodak), "kodak", f"Kodak images of {kodak}"
    elif test == "auto":
        try:
            root, name, source = fetch_kodak(cache), "kodak", "Kodak images"
        except ImageError as error:
            source += f", because {error}"
    if root is None:
        images = pack_dead_leaves(_TEST_SEED, min(count or _TEST_LEAVES, _TEST_LEAVES), cache)
        return ImageSet(name, images, f"{len(images)} {source}")
    files = check_kodak(root) if name == "kodak" else find_images(root)
    if count is not None and count < len(files):
        files, name = files[:count], f"{name}_first{count}"
    images = pack_files(files, root, cache)
    return ImageSet(name, images, f"{len(images)} {source}{_skipped_note(images)}")


def _skipped_note(images: PackedImages) -> str:
    if not images.skipped:
        return ""
    first = next(iter(images.skipped.values()))
    return f" ({len(images.skipped)} left out; {first})"
