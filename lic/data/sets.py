"""Which images a run trains on, selects on and reports on, from what the user gave."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lic.data.cache import PackedImages, copies, pack_files
from lic.data.deadleaves import pack_dead_leaves
from lic.data.folders import ImageFolder, LeftOut, look_through, note
from lic.data.images import SUFFIXES, ImageError
from lic.data.kodak import check_kodak, fetch_kodak

#: Seeds of the generated sets; far apart, so that no picture is in two of them.
_TRAIN_SEED, _VAL_SEED, _TEST_SEED = 0, 1_000_000, 2_000_000
_TRAIN_LEAVES, _TEST_LEAVES = 128, 24

#: Subfolders that are a split of their own, in any capitalisation.
_TRAIN_FOLDERS, _VAL_FOLDERS = ("train",), ("val", "valid", "validation")

#: Names of sets that mean something else: images, or other groups of figures.
_TAKEN = re.compile(r"(kodak|deadleaves|val|train|time|memory)(_first\d+)?")

#: Characters of a set's name at the most: MLflow takes 250 in that of a metric.
_LONGEST = 100


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
    fifth, and copies of what is held out are left out of the training. Raises ImageError when there is
    nothing to train or to select on, or a picture is in `train` and in `val`.
    """
    if is_generated(data):
        train = pack_dead_leaves(_TRAIN_SEED, _TRAIN_LEAVES, cache)
        val = pack_dead_leaves(_VAL_SEED, validation_count, cache)
        return (
            ImageSet("deadleaves", train, f"{len(train)} generated dead-leaves pictures"),
            ImageSet("val", val, f"{len(val)} other dead-leaves pictures"),
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
            raise ImageError(f"all images of {root} are copies of those held out; add some that differ")
        train = pack_files(kept, root, cache)
        left_out = {**left_out, "identical to a held-out image": list(twins)}
    return (
        ImageSet("train", train, f"{len(train)} images of {root}{note(left_out | _unreadable(train))}"),
        ImageSet("val", val, f"{len(val)} images, {split.how}{note(split.val_left_out | _unreadable(val))}"),
    )


def _in_both(root: Path, twins: dict[str, str]) -> str:
    """Why a split cannot be used: images to train on, each with that to select on which is the same."""
    trained, selected = next(iter(twins.items()))
    more = f" (and {len(twins) - 1} more are in both)" if len(twins) > 1 else ""
    return (
        f"{root / trained} and {root / selected} are the same picture{more}, and what is trained on "
        "cannot be selected on; remove one of the two"
    )


@dataclass(frozen=True)
class _Split:
    """Files to train on and to select on, how they were told apart, whether by their folders, and what was
    left out, of the folder to select on apart."""

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
        left_out = {**left_out, f"beside {by_folder.name}": others}
    # A choice of its own, whatever the search's seed: searches with other seeds stay comparable.
    draw = np.random.default_rng(0)
    if val_folder:
        val = look_through(val_folder)
        chosen = draw.permutation(len(val.files))[:validation_count]
        val_files = [val.files[i] for i in sorted(chosen)]
        return _Split(found.files, val_files, f"of {val_folder}", True, left_out, val.left_out)
    if len(found.files) < 2:
        raise ImageError(
            f"{root} holds one image; at least two are needed, one is held out to select on{note(left_out)}"
        )
    count = min(validation_count, max(1, len(found.files) // 5))
    held_out = set(draw.permutation(len(found.files))[:count].tolist())
    parts: tuple[list[Path], list[Path]] = ([], [])
    for number, path in enumerate(found.files):
        parts[number in held_out].append(path)
    return _Split(*parts, f"held out of {by_folder or root}", False, left_out)


def _subfolder(root: Path, names: tuple[str, ...]) -> Path | None:
    """The subfolder of one of these names, in any capitalisation; the earliest as written, else the earliest
    in another."""
    if not root.is_dir():
        return None
    there = [path for path in root.iterdir() if path.name.lower() in names and path.is_dir()]
    order = {path: (path.name not in names, names.index(path.name.lower()), path.name) for path in there}
    return min(there, key=order.__getitem__, default=None)


def _beside(root: Path, chosen: tuple[Path | None, ...]) -> list[str]:
    """Other folders and images right below the root, which a split leaves out."""
    there = (path for path in sorted(root.iterdir()) if path not in chosen and path.name[0] != ".")
    return [path.name for path in there if path.suffix.lower() in SUFFIXES or path.is_dir()]


def test_set(kodak: str | None, test: str, count: int | None, cache: Path) -> ImageSet:
    """The images to report on: `test` is 'auto' (Kodak from the folder `kodak`, else fetched, else
    dead leaves), 'deadleaves', or a folder; only the first `count` of them if that is given.

    Raises ImageError for a folder that is not what it should be.
    """
    name, root, source = "deadleaves", None, "generated dead-leaves pictures"
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
        images = pack_dead_leaves(_TEST_SEED, min(count or _TEST_LEAVES, _TEST_LEAVES), cache)
        return ImageSet(name, images, f"{len(images)} {source}")
    found = ImageFolder(check_kodak(root)) if name == "kodak" else look_through(root)
    files = found.files
    if count is not None and count < len(files):
        files, name = files[:count], f"{name}_first{count}"
    images = pack_files(files, root, cache)
    return ImageSet(name, images, f"{len(images)} {source}{note(found.left_out | _unreadable(images))}")


def set_name(folder: Path) -> str:
    """What figures call the images of a folder: its name, in lower case, of letters and digits of any script
    and '_', which is what MLflow takes in the name of a metric; never a name that means something else."""
    given = _lower(folder)
    letters = "".join(c for c in given if not unicodedata.category(c).startswith("M"))
    name = re.sub(r"[\W_]+", "_", letters).strip("_")[:_LONGEST]
    if not name:
        name = f"images_{hashlib.sha256(given.encode(errors='surrogateescape')).hexdigest()[:8]}"
    return f"folder_{name}" if _TAKEN.fullmatch(name) else name


def _lower(folder: Path) -> str:
    return unicodedata.normalize("NFC", folder.resolve().name.lower())


def _renamed(folder: Path, name: str) -> str:
    """A remark if a set's name lacks more of its folder's than capitals, blanks and ASCII punctuation."""
    given = _lower(folder)
    if len(given) <= _LONGEST and all(c.isascii() or c.isalnum() for c in given) and re.search(r"\w", given):
        return ""
    return f" (called {name} in all figures, whose names have letters, digits and '_' alone)"


def noting_overlap(test: ImageSet, train: ImageSet, val: ImageSet) -> ImageSet:
    """The images to report on, with a remark if some are also trained or selected on."""
    remarks = [
        f"; {len(twins)} of them {what}"
        for what, other in (("are trained on, too", train), ("are selected on, too", val))
        if (twins := copies(test.images, other.images))
    ]
    return replace(test, source=test.source + "".join(remarks))


def _unreadable(images: PackedImages) -> LeftOut:
    return {"unreadable": list(images.skipped.values())} if images.skipped else {}
