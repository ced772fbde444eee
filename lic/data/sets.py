"""Chooses the training, validation and test images from the settings."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lic.data.cache import PackedImages, copies, pack_files
from lic.data.deadleaves import pack_dead_leaves, write_dead_leaves
from lic.data.folders import ImageFolder, LeftOut, look_through, note
from lic.data.images import SUFFIXES, ImageError
from lic.data.kodak import check_kodak, fetch_kodak

#: Seeds of the generated sets; far apart, so that no image is in two of them.
_TRAIN_SEED, _VAL_SEED, _TEST_SEED = 0, 1_000_000, 2_000_000
_TRAIN_LEAVES, _TEST_LEAVES = 128, 24

#: Names of subfolders that define a split, in any capitalization.
_TRAIN_FOLDERS, _VAL_FOLDERS = ("train",), ("val", "valid", "validation")

#: Reserved names: other image sets, or other groups of metrics.
_TAKEN = re.compile(r"(kodak|deadleaves|val|train|time|memory)(_first\d+)?")

#: Maximum length of a set's name; MLflow allows 250 characters in the name of a metric.
_LONGEST = 100


@dataclass(frozen=True)
class ImageSet:
    """A named set of images; the name is part of metric names, and only the Kodak set is named 'kodak'."""

    name: str
    images: PackedImages
    source: str


def is_generated(data: str | None) -> bool:
    return data in (None, "", "deadleaves")


def training_and_validation(
    data: str | None, validation_count: int, cache: Path
) -> tuple[ImageSet, ImageSet]:
    """The training images, and at most `validation_count` validation images.

    `data` is None or 'deadleaves' for generated images, else a folder. Subfolders `train` and `val` define
    the split if they exist; otherwise a fixed random sample, at most a fifth, is held out for validation, and
    copies of held-out images are removed from training. Raises ImageError if there are no training or
    validation images, or if an image is in both `train` and `val`.
    """
    if is_generated(data):
        train = pack_dead_leaves(_TRAIN_SEED, _TRAIN_LEAVES, cache)
        val = pack_dead_leaves(_VAL_SEED, validation_count, cache)
        return (
            ImageSet("deadleaves", train, f"{len(train)} generated dead leaves images"),
            ImageSet("val", val, f"{len(val)} other dead leaves images"),
        )
    root = Path(str(data))
    split = _split(root, validation_count)
    train, val = pack_files(split.train, root, cache), pack_files(split.val, root, cache)
    left_out = split.left_out
    if twins := copies(train, val):
        if split.given:
            raise ImageError(_in_both(root, twins))
        kept = [path for path in split.train if path.relative_to(root).as_posix() not in twins]
        if len(twins) == len(train):
            raise ImageError(f"all images of {root} are copies of held-out images; add different images")
        train = pack_files(kept, root, cache)
        left_out = {**left_out, "identical to a held-out image": list(twins)}
    return (
        ImageSet("train", train, f"{len(train)} images of {root}{note(left_out | _unreadable(train))}"),
        ImageSet("val", val, f"{len(val)} images, {split.how}{note(split.val_left_out | _unreadable(val))}"),
    )


def _in_both(root: Path, twins: dict[str, str]) -> str:
    """The error for a split with images in both parts; `twins`: training image -> equal validation image."""
    trained, selected = next(iter(twins.items()))
    more = f" (and {len(twins) - 1} more are in both)" if len(twins) > 1 else ""
    return (
        f"{root / trained} and {root / selected} are the same image{more}; training and validation images "
        "must differ: remove one of the two"
    )


@dataclass(frozen=True)
class _Split:
    """Training and validation files; `how` describes the split, `given`: whether subfolders define it;
    ignored files of the training folder and of the validation folder."""

    train: list[Path]
    val: list[Path]
    how: str
    given: bool
    left_out: LeftOut
    val_left_out: LeftOut = field(default_factory=dict)


def _split(root: Path, validation_count: int) -> _Split:
    by_folder = _subfolder(root, _TRAIN_FOLDERS)
    val_folder = _subfolder(root, _VAL_FOLDERS) if by_folder else None
    found = look_through(by_folder or root)
    left_out = found.left_out
    if by_folder and (others := _beside(root, (by_folder, val_folder))):
        left_out = {**left_out, f"outside {by_folder.name}": others}
    # Independent of the search's seed, so that searches with different seeds stay comparable.
    draw = np.random.default_rng(0)
    if val_folder:
        val = look_through(val_folder)
        chosen = draw.permutation(len(val.files))[:validation_count]
        val_files = [val.files[i] for i in sorted(chosen)]
        return _Split(found.files, val_files, f"of {val_folder}", True, left_out, val.left_out)
    if len(found.files) < 2:
        raise ImageError(
            f"{root} has one image; at least two are needed, one of them for validation{note(left_out)}"
        )
    count = min(validation_count, max(1, len(found.files) // 5))
    held_out = set(draw.permutation(len(found.files))[:count].tolist())
    parts: tuple[list[Path], list[Path]] = ([], [])
    for number, path in enumerate(found.files):
        parts[number in held_out].append(path)
    return _Split(*parts, f"held out of {by_folder or root}", False, left_out)


def _subfolder(root: Path, names: tuple[str, ...]) -> Path | None:
    """The subfolder with one of these names. An exact match wins over another capitalization, then the
    earlier name."""
    if not root.is_dir():
        return None
    there = [path for path in root.iterdir() if path.name.lower() in names and path.is_dir()]
    order = {path: (path.name not in names, names.index(path.name.lower()), path.name) for path in there}
    return min(there, key=order.__getitem__, default=None)


def _beside(root: Path, chosen: tuple[Path | None, ...]) -> list[str]:
    """Other folders and images directly in the root, which a split ignores."""
    there = (path for path in sorted(root.iterdir()) if path not in chosen and path.name[0] != ".")
    return [path.name for path in there if path.suffix.lower() in SUFFIXES or path.is_dir()]


@dataclass(frozen=True)
class _TestImages:
    """Which images a model is tested on: `files` below `root`, or `count` generated ones if there is none."""

    name: str
    source: str
    root: Path | None = None
    files: list[Path] = field(default_factory=list)
    count: int = 0
    left_out: LeftOut = field(default_factory=dict)

    def described(self, count: int, unreadable: LeftOut) -> str:
        return f"{count} {self.source}{note(self.left_out | unreadable)}"


def _test_images(kodak: str | None, test: str, count: int | None, cache: Path) -> _TestImages:
    """What `test_set` takes. Raises ImageError."""
    name, root, source = "deadleaves", None, "generated dead leaves images"
    if test not in ("auto", "deadleaves"):
        root = Path(test)
        name = set_name(root)
        source = f"images of {root}{_renamed(root, name)}"
    elif kodak:
        root, name, source = Path(kodak), "kodak", f"Kodak images of {kodak}"
    elif test == "auto":
        try:
            root, name, source = fetch_kodak(cache), "kodak", "Kodak images"
        except ImageError as error:
            source += f", because {error}"
    if root is None:
        return _TestImages(name, source, count=min(count or _TEST_LEAVES, _TEST_LEAVES))
    found = ImageFolder(check_kodak(root)) if name == "kodak" else look_through(root)
    files = found.files
    if count is not None and count < len(files):
        files, name = files[:count], f"{name}_first{count}"
    return _TestImages(name, source, root, files, left_out=found.left_out)


def test_set(kodak: str | None, test: str, count: int | None, cache: Path) -> ImageSet:
    """The test images: `test` is 'auto' (Kodak from the folder `kodak`, else downloaded, else dead leaves),
    'deadleaves', or a folder; only the first `count` images if given.

    Raises ImageError for an unusable folder.
    """
    found = _test_images(kodak, test, count, cache)
    if found.root is None:
        images = pack_dead_leaves(_TEST_SEED, found.count, cache)
    else:
        images = pack_files(found.files, found.root, cache)
    return ImageSet(found.name, images, found.described(len(images), _unreadable(images)))


def test_files(kodak: str | None, test: str, count: int | None, cache: Path) -> tuple[str, list[Path], str]:
    """The name of the same images, each as a file (generated ones are written to the cache), and where they
    are from. Raises ImageError."""
    found = _test_images(kodak, test, count, cache)
    files = found.files if found.root else write_dead_leaves(_TEST_SEED, found.count, cache)
    return found.name, files, found.described(len(files), {})


def set_name(folder: Path) -> str:
    """The name of a folder's images in metric names: the folder's name in lower case, reduced to letters and
    digits of any script and '_', which MLflow accepts; never a reserved name."""
    given = _lower(folder)
    letters = "".join(c for c in given if not unicodedata.category(c).startswith("M"))
    name = re.sub(r"[\W_]+", "_", letters).strip("_")[:_LONGEST]
    if not name:
        name = f"images_{hashlib.sha256(given.encode(errors='surrogateescape')).hexdigest()[:8]}"
    return f"folder_{name}" if _TAKEN.fullmatch(name) else name


def _lower(folder: Path) -> str:
    return unicodedata.normalize("NFC", folder.resolve().name.lower())


def _renamed(folder: Path, name: str) -> str:
    """A note if a set's name differs from its folder's in more than case, blanks and ASCII punctuation."""
    given = _lower(folder)
    if len(given) <= _LONGEST and all(c.isascii() or c.isalnum() for c in given) and re.search(r"\w", given):
        return ""
    return f" (named {name} in metric names, which allow only letters, digits and '_')"


def noting_overlap(test: ImageSet, train: ImageSet, val: ImageSet) -> ImageSet:
    """The test images, with a note if some are also training or validation images."""
    remarks = [
        f"; {len(twins)} of them {what}"
        for what, other in (("are also training images", train), ("are also validation images", val))
        if (twins := copies(test.images, other.images))
    ]
    return replace(test, source=test.source + "".join(remarks))


def _unreadable(images: PackedImages) -> LeftOut:
    return {"unreadable": list(images.skipped.values())} if images.skipped else {}
