"""What is in a folder of images: what counts, what is left out and said, and what figures call it."""

from __future__ import annotations

import errno
import os
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow.utils.validation import _validate_metric_name
from PIL import Image

from lic.data.cache import pack_files
from lic.data.folders import find_images, look_through, note
from lic.data.images import ImageError, read_rgb
from lic.data.sets import set_name, training_and_validation
from lic.data.sets import test_set as open_test_set
from lic.training.trial import ImagesConfig, open_images


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_images(folder)]


def test_hidden_images_are_left_out_at_any_depth_and_named(photographs: Path) -> None:
    before = names(photographs)
    for hidden in (".ipynb_checkpoints/x.png", "part0/.Trash-1000/files/y.png", "part1/._0.png"):
        picture(photographs / hidden, 0)
    (photographs / ".git").mkdir()
    (photographs / ".git" / "config").touch()
    found = look_through(photographs)
    assert [path.relative_to(photographs).as_posix() for path in found.files] == before
    assert sorted(found.left_out["hidden"]) == [
        ".ipynb_checkpoints/x.png", "part0/.Trash-1000/files/y.png", "part1/._0.png",
    ]  # fmt: skip
    assert list(found.left_out) == ["hidden"]
    hidden_root = photographs.rename(photographs.with_name(".photographs"))
    assert names(hidden_root) == before


def test_linked_folders_are_followed_each_real_one_once(photographs: Path, tmp_path: Path) -> None:
    before = names(photographs)
    picture(tmp_path / "elsewhere" / "deep" / "a.png", 0)
    (photographs / "more").symlink_to(tmp_path / "elsewhere")
    (photographs / "aa").symlink_to(photographs / "part0")  # earlier by name, and yet not its name
    (tmp_path / "elsewhere" / "up").symlink_to(photographs)
    (photographs / "part0" / "gone.png").symlink_to(tmp_path / "nothing.png")
    assert names(photographs) == ["more/deep/a.png", *before]
    assert look_through(photographs).left_out == {
        "not a file": ["part0/gone.png"],
        "linked to a folder already read": ["aa", "more/up"],
    }


def test_what_is_left_out_is_said_in_a_line(photographs: Path, tmp_path: Path) -> None:
    for number in range(5):
        (photographs / f"bad{number}.png").write_bytes(b"nothing")
    (photographs / "a.heic").touch()
    (photographs / "notes.txt").touch()
    source = open_test_set(None, str(photographs), None, tmp_path / "cache").source
    said, _, left_out = source.partition("; ignored: ")
    assert said == f"6 images of {photographs}"
    assert left_out.startswith("1 in an unsupported format (a.heic), 5 unreadable (")
    for number in range(3):
        assert f"bad{number}.png cannot be read as an image" in left_out
    assert left_out.endswith("and 2 more)")
    assert note({}) == ""


@pytest.mark.parametrize(("train", "val"), [("Train", "Val"), ("TRAIN", "VALIDATION"), ("train", "Valid")])
def test_a_split_counts_in_any_capitals(photographs: Path, tmp_path: Path, train: str, val: str) -> None:
    (photographs / "part0").rename(photographs / train)
    (photographs / "part1").rename(photographs / val)
    picture(photographs / "Test" / "a.png", 0)
    picture(photographs / val / "._1.png", 0)
    (photographs / val / "bad.png").touch()
    trained, selected = training_and_validation(str(photographs), 9, tmp_path / "cache")
    assert [image.name for image in trained.images.images] == [f"{train}/{n}.png" for n in (0, 2, 4)]
    assert [image.name for image in selected.images.images] == [f"{val}/{n}.png" for n in (1, 3, 5)]
    assert trained.source.endswith(f"; ignored: 1 outside {train} (Test)")
    assert "; ignored: 1 hidden (._1.png), 1 unreadable (" in selected.source


def test_the_held_out_choice_stays_what_it_was(photographs: Path, tmp_path: Path) -> None:
    """Searches are resumed by the fingerprints of their images."""
    files = sorted(photographs.rglob("*.png"))
    held_out = set(np.random.default_rng(0).permutation(6)[:1].tolist())
    cache = tmp_path / "cache"
    train, val = training_and_validation(str(photographs), 1, cache)
    for part, chosen in ((train, set(range(6)) - held_out), (val, held_out)):
        expected = pack_files([files[number] for number in sorted(chosen)], photographs, cache)
        assert part.images.fingerprint == expected.fingerprint
    assert train.source == f"5 images of {photographs}"


@pytest.mark.parametrize("copy", ["copied", "of another format"])
def test_a_picture_in_both_folders_of_a_split_is_refused(
    photographs: Path, tmp_path: Path, copy: str
) -> None:
    (photographs / "part0").rename(photographs / "train")
    (photographs / "part1").rename(photographs / "val")
    if copy == "copied":
        shutil.copy(photographs / "train" / "2.png", photographs / "val" / "other.png")
    else:
        Image.fromarray(read_rgb(photographs / "train" / "2.png")).save(photographs / "val" / "other.bmp")
    with pytest.raises(ImageError) as refused:
        training_and_validation(str(photographs), 9, tmp_path / "cache")
    said = str(refused.value)
    assert f"{photographs}/train/2.png and {photographs}/val/other." in said and "the same image" in said


def test_copies_of_what_is_held_out_are_not_trained_on(photographs: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for number in range(4):
        shutil.copy(photographs / "part0" / "0.png", photographs / f"z{number}.png")
        shutil.copy(photographs / "part1" / "1.png", photographs / f"y{number}.png")
    train, val = training_and_validation(str(photographs), 2, cache)
    trained, selected = (
        {read_rgb(photographs / image.name).tobytes() for image in part.images.images}
        for part in (train, val)
    )
    assert len(val.images) == 2 and trained and not trained & selected
    assert len(train.images) + len(val.images) < 14
    left = 12 - len(train.images)
    assert f"ignored: {left} identical to a held-out image (" in train.source
    again = training_and_validation(str(photographs), 2, cache)
    assert [part.images.fingerprint for part in again] == [train.images.fingerprint, val.images.fingerprint]
    copied = (photographs / "y0.png").read_bytes()
    for path in find_images(photographs):
        path.write_bytes(copied)
    with pytest.raises(ImageError, match="are copies of held-out images"):
        training_and_validation(str(photographs), 2, cache)


def test_images_to_report_on_that_are_trained_on_are_counted(photographs: Path, tmp_path: Path) -> None:
    config = ImagesConfig(str(photographs), None, str(photographs), None, 1, None, str(tmp_path / "cache"))
    source = open_images(config)[2].source
    assert source.endswith("; 5 of them are also training images; 1 of them are also validation images")


@pytest.mark.parametrize(
    ("folder", "name", "said"),
    [
        ("équipe", "équipe", False),
        (unicodedata.normalize("NFD", "Équipe"), "équipe", False),
        ("結果", "結果", False),
        ("My Photos (2)", "my_photos_2", False),
        ("हिन्दी", "हनद", True),
        ("été ☀ hiver", "été_hiver", True),
        ("📷", "images_6a8fe57e", True),
        ("x" * 200, "x" * 100, True),
        ("kodak", "folder_kodak", False),
        ("Kodak_first2", "folder_kodak_first2", False),
        ("deadleaves", "folder_deadleaves", False),
        ("time", "folder_time", False),
    ],
)
def test_figures_go_by_the_folders_name_in_any_script(
    tmp_path: Path, folder: str, name: str, said: bool
) -> None:
    root = tmp_path / folder
    picture(root / "a.png", 0)
    assert set_name(root) == name
    _validate_metric_name(f"{name}_first24/bd_rate_psnr")
    source = open_test_set(None, str(root), None, tmp_path / "cache").source
    assert (f"named {name} in metric names" in source) is said


def test_a_closed_folder_is_named(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, iterdir = photographs / "part0", Path.iterdir

    def only_open(folder: Path) -> Iterator[Path]:  # root may open every folder
        if folder == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", only_open)
    found = look_through(photographs)
    assert len(found.files) == 3
    assert found.left_out == {"not readable": ["part0: Permission denied"]}
